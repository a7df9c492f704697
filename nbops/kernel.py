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

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from nbops import compiler
from nbops.signature import Signature
from nbops.targets.cuts import cut_task
from nbops.targets.tasks import compile_task

__all__ = ["Array", "Dtypes", "Kernel", "Scalar", "Tasks", "lanes", "prange"]

#: What a loop takes, and what a formula takes and gives: NumPy's when interpreted, Numba's when compiled.
Array = Any
Scalar = Any
Loop = Callable[..., None]


def prange(*arguments: int) -> range:
    """Like `range`; says that the iterations are independent and may run on different cores.

    Parameters
    ----------
    *arguments : int
        As for `range`.

    Returns
    -------
    range
        In plain Python; a compiled loop's iterations are shared out.

    Examples
    --------
    >>> from nbops import prange
    >>> list(prange(3))
    [0, 1, 2]
    """
    return range(*arguments)


def lanes(*arguments: int) -> range:
    """Like `range`; says that the iterations are independent and touch neighbouring memory.

    Parameters
    ----------
    *arguments : int
        As for `range`.

    Returns
    -------
    range
        In plain Python; compiled, they are the lanes of a vector instruction.

    Examples
    --------
    >>> from nbops import lanes
    >>> list(lanes(1, 4))
    [1, 2, 3]
    """
    return range(*arguments)


class Tasks(Protocol):
    """Addresses of a tuned kernel's tasks; `parallel` is 0 where there is none."""

    @property
    def serial(self) -> int: ...
    @property
    def parallel(self) -> int: ...


Dtypes = tuple[np.dtype[Any], ...]
Tuner = Callable[[Dtypes, int], Tasks | None]
CudaPlanner = Callable[..., Any] | str


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
        self.written = loop
        self._helpers = helpers
        self._tuner: Tuner | None = None
        self.cuda_planner: CudaPlanner | None = None
        self.cut_axis: int | None = None  # the number of the core axis that cores can share an item along
        self._compiled: dict[Any, Any] = {}

    @functools.cached_property
    def loop(self) -> Loop:
        """The loop, its helpers in place."""
        return (
            compiler.specialise(self.written, self.name, **self._helpers) if self._helpers else self.written
        )

    def tune(self, cpu: Tuner | None = None, cuda: CudaPlanner | None = None) -> None:
        """Name what replaces the loop.

        Parameters
        ----------
        cpu : function, optional
            ``cpu(dtypes, layout)`` gives tasks, or None. It imports the kernel itself, when it is called: to
            import nbops takes little longer than to import Numba.
        cuda : function or "module:function", optional
            ``cuda(call)`` gives a plan, or None; see `nbops.targets.cuda`.
        """
        self._tuner = cpu or self._tuner
        self.cuda_planner = cuda or self.cuda_planner

    def cut_along(self, axis: int | None) -> None:
        """Let cores share an item along a core axis, by its number; see `nbops.targets.cuts`."""
        self.cut_axis = axis
        self._compiled = {key: task for key, task in self._compiled.items() if not key[2]}  # not the parallel

    def as_written(self) -> Kernel:
        """The same loop without its tuned kernel."""
        kernel = Kernel(self.written, self.signature, self.name, **self._helpers)
        kernel.cut_axis = self.cut_axis
        return kernel

    @property
    def formula(self) -> Callable[..., Any] | None:
        """The formula of an elementwise op; None for a loop."""
        return self._helpers.get("formula")

    @property
    def is_tuned(self) -> bool:
        """Whether a tuned kernel may take the loop's place."""
        return self._tuner is not None

    @property
    def divisible(self) -> bool:
        """Whether cores can share an item: elements, an axis that can be cut, a loop with ``prange``."""
        return (
            self.signature.is_elementwise
            or self._tuner is not None
            or self.cut_axis is not None
            or "prange" in self.loop.__code__.co_names
        )

    def task(self, dtypes: Dtypes, layout: int, parallel: bool = False) -> int:
        """The address of the task for these dtypes and this layout; 0 if there is no parallel one."""
        key = (dtypes, layout, parallel)
        found = self._compiled.get(key)
        if found is None:
            # A fork waits for Numba's lock; one of nbops's own would stay taken in the child.
            with global_compiler_lock:
                found = self._compiled.get(key)
                if found is None:
                    found = self._compiled[key] = self._compile(dtypes, layout, parallel)
        return int(found[0])

    def _compile(self, dtypes: Dtypes, layout: int, parallel: bool) -> tuple[int, Any]:
        tuned = self._tuner and self._tuner(dtypes, layout)
        if tuned:
            return (tuned.parallel if parallel else tuned.serial), tuned
        if parallel and numba.config.BOUNDSCHECK:
            return 0, None  # what is raised on another thread is dropped, so bounds are checked without
        if parallel and self.cut_axis is not None:
            task = cut_task(self.signature, self.cut_axis)
            return task.address, task
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
