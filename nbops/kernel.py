"""A kernel: one loop, four ways to run it.

The loop is plain Python over plain arrays. Two names in it carry the parallelism, and in plain Python both
are `range`:

`prange`
    iterations are independent: shared out between cores, or between the blocks of a GPU;
`lanes`
    the inner independent loop: SIMD lanes of a core, or the threads of a block.

Nothing is compiled until a target first needs it, and then once per dtype and layout (see
`nbops.targets.tasks`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from nbops import compiler
from nbops.signature import Signature
from nbops.targets.tasks import compile_task

__all__ = ["Array", "Dtypes", "Kernel", "Scalar", "Tasks", "lanes", "prange"]

#: What a loop takes, and what a formula takes and gives: NumPy's when interpreted, Numba's when compiled.
Array = Any
Scalar = Any
Loop = Callable[..., None]


def prange(*arguments: int) -> range:
    """Like `range`; says that the iterations are independent and may run on different cores."""
    return range(*arguments)


def lanes(*arguments: int) -> range:
    """Like `range`; says that the iterations are independent and touch neighbouring memory."""
    return range(*arguments)


class Tasks(Protocol):
    """Addresses of a tuned kernel's tasks; `parallel` is 0 where there is none."""

    @property
    def serial(self) -> int: ...
    @property
    def parallel(self) -> int: ...


Dtypes = tuple[np.dtype[Any], ...]
Tuner = Callable[[Dtypes, int], Tasks | None]


class Kernel:
    """A loop and its compiled forms.

    Parameters
    ----------
    loop : function
        Takes the core part of every operand, inputs then outputs, and fills the outputs. 0-d operands are
        read and written as ``x[()]``. Plain Python functions that it calls are compiled with it.
    signature : Signature
    name : str
    helpers : function
        Plain Python functions that take the place of these global names in the loop.
    """

    def __init__(self, loop: Loop, signature: Signature, name: str, **helpers: Callable[..., Any]) -> None:
        self.signature = signature
        self.name = name
        self.loop = compiler.specialise(loop, name, **helpers) if helpers else loop
        self._tuner: Tuner | None = None
        self._compiled: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def tune(self, tuner: Tuner) -> None:
        """Let `tuner(dtypes, layout)` name tasks that replace the loop on the CPU, or None."""
        self._tuner = tuner

    @property
    def divisible(self) -> bool:
        """Whether one item can be shared between cores: elements can, and a loop with ``prange``."""
        return (
            self.signature.is_elementwise
            or self._tuner is not None
            or "prange" in self.loop.__code__.co_names
        )

    def task(self, dtypes: Dtypes, layout: int, parallel: bool = False) -> int:
        """The address of the task for these dtypes and this layout; 0 if there is no parallel one."""
        key = (dtypes, layout, parallel)
        found = self._compiled.get(key)
        if found is None:
            with self._lock:
                found = self._compiled.get(key)
                if found is None:
                    found = self._compiled[key] = self._compile(dtypes, layout, parallel)
        return int(found[0])

    def _compile(self, dtypes: Dtypes, layout: int, parallel: bool) -> tuple[int, Any]:
        tuned = self._tuner and self._tuner(dtypes, layout)
        if tuned:
            return (tuned.parallel if parallel else tuned.serial), tuned
        if parallel and "prange" not in self.loop.__code__.co_names:
            return 0, None
        task = compile_task(self.loop, self.signature, dtypes, layout, self.name, parallel)
        return task.address, task

    def interpret(self, operands: list[np.ndarray], n_inputs: int) -> None:
        """Run the loop in the Python interpreter, batch item by batch item."""
        ranks = [len(names) for names in self.signature.operands]
        batch = operands[-1].shape[: operands[-1].ndim - ranks[-1]]
        views = [
            np.broadcast_to(x, batch + x.shape[x.ndim - rank :]).view() if index < n_inputs else x
            for index, (x, rank) in enumerate(zip(operands, ranks, strict=True))
        ]
        for view in views[:n_inputs]:
            view.flags.writeable = False
        if self.signature.is_elementwise:  # the loop runs along rows
            views = [view if batch else view[None] for view in views]
            batch = batch[:-1]
        with np.errstate(all="ignore"):
            for item in np.ndindex(*batch):
                self.loop(*(view[(*item, ...)] for view in views))
