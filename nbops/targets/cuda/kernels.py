"""Kernels, and the plans that say how a call is made of them.

A tuned kernel is a plain Python function in `numba.cuda`'s language. Its parameters are words of the frame by
name (see `nbops.targets.cuda.words`), all int64; what varies is compiled in, as globals::

    def copy_rows(items, n, x, x_batch0, out):
        source = typed_pointer(ELEMENT, x)
        ...

    kernel = CudaKernel(copy_rows, ELEMENT=types.float32)      # one CudaKernel per set of constants; cache it

A plan says what a call is made of::

    def plan(call: Call) -> Plan | None:
        if call.dtypes[0] != np.float32 or call["x_n"] != 4:
            return None                                     # the op's own loop runs instead
        return Plan([Launch(kernel, grid=(call["items"], 1, 1), block=(256, 1, 1))])

A plan may look at every word of the call; at addresses only for their alignment (``call["x"] % 16``), so that
a plan holds for the next call of the same shapes. Its launches run in order on one stream. Items, sizes and
strides can be 0; a call without any element to write launches nothing and is never planned.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nbops import compiler, frame
from nbops.kernel import Kernel

__all__ = ["Call", "CudaKernel", "Dim3", "Launch", "Plan", "resolve_planner"]

Dim3 = tuple[int, int, int]
Dtypes = tuple[np.dtype[Any], ...]


class CudaKernel:
    """A function in `numba.cuda`'s language and the frame's words that it takes.

    Parameters
    ----------
    function : function
    parameters : sequence of str, optional
        Names of words. The function's own parameters unless given; a function given them takes one tuple.
    name : str, optional
        Shows up in profilers and in the emulator's report.
    max_threads : int, optional
        Threads in a block at most; lets the assembler use more registers.
    formula : function, optional
        An elementwise op's; the emulator names its line where the kernel around it reads and writes.
    **constants
        Values of the function's global names, compiled in.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        parameters: Sequence[str] | None = None,
        name: str | None = None,
        max_threads: int | None = None,
        formula: Callable[..., Any] | None = None,
        **constants: Any,
    ) -> None:
        self.takes_tuple = parameters is not None
        self.parameters = tuple(inspect.signature(function).parameters if parameters is None else parameters)
        self.name = name or function.__name__
        self.max_threads = max_threads
        self.formula = None if formula is None else compiler.first_line(formula)
        self.function = compiler.specialise(function, "cuda", **constants)
        #: Differs whenever the code does; what the cache on disk knows a kernel by.
        self.digest = f"{self.name}-{len(self.parameters)}-{max_threads}-{compiler.digest(self.function)}"

    @functools.cached_property
    def lines(self) -> str:
        """Differs whenever the code stands elsewhere: PTX names files and lines."""
        return compiler.digest_of_lines(self.function)

    def __repr__(self) -> str:
        return f"<CUDA kernel {self.name}({', '.join(self.parameters)})>"


@dataclass(frozen=True)
class Launch:
    """One launch.

    Parameters
    ----------
    kernel : CudaKernel
    grid, block : tuple of 3 int
        Blocks, and threads in a block.
    shared_bytes : int
        Dynamic shared memory per block.
    renamed : dict of str to str
        Words that the kernel gets for parameters of other names, so that several ops can share it.
    """

    kernel: CudaKernel
    grid: Dim3
    block: Dim3
    shared_bytes: int = 0
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The word for each of the kernel's parameters."""
        return tuple(self.renamed.get(name, name) for name in self.kernel.parameters)


@dataclass(frozen=True)
class Plan:
    """What a call is made of.

    Parameters
    ----------
    launches : sequence of Launch
        Run in order.
    workspace_bytes : int
        Scratch memory that the launches share, as the word ``workspace``; nobody has written it.
    """

    launches: Sequence[Launch]
    workspace_bytes: int = 0


@dataclass(frozen=True)
class Call:
    """A call, as a planner sees it; ``call["m"]`` is the word of that name.

    Parameters
    ----------
    dtypes : tuple of dtype, one per operand
        In which the loop runs.
    frame : ndarray of int64
        See `nbops.frame`.
    places : dict
        See `nbops.targets.cuda.words.places`.
    compute_capability : tuple of 2 int
    multiprocessors : int
        How many the device has.
    kernel : Kernel
        Whose loop is called; an elementwise op's planner takes the formula from it.
    operands : tuple of str
        The loop's parameters.
    tf32 : bool
        Whether float32 products may be rounded for tensor cores; see `nbops.use`.
    """

    dtypes: Dtypes
    frame: np.ndarray
    places: Mapping[str, int] = field(repr=False)
    compute_capability: tuple[int, int]
    multiprocessors: int
    kernel: Kernel = field(repr=False)
    operands: tuple[str, ...]
    tf32: bool = False

    def __getitem__(self, name: str) -> int:
        return int(self.frame.flat[self.places[name]])

    @property
    def layout(self) -> int:
        """`frame.CONTIGUOUS` where every operand's core axes are; see `nbops.frame`."""
        return int(self.frame[0, frame.LAYOUT])

    @property
    def batch_rank(self) -> int:
        """How many batch axes the operands have, after those that lie in one piece were merged."""
        return int(self.frame[0, frame.BATCH_RANK])

    def renamed(self, names: Mapping[str, str], dtypes: Dtypes, batch_rank: int) -> Call:
        """A part of this call as a planner of another op sees it, with contiguous operands.

        Parameters
        ----------
        names : dict of str to str
            For each word that the other planner reads, the one of this call; its launches need them too.
        dtypes : tuple of dtype
        batch_rank : int
        """
        table = self.frame.copy()
        table[0, frame.LAYOUT], table[0, frame.BATCH_RANK] = frame.CONTIGUOUS, batch_rank
        places = {name: self.places[word] for name, word in names.items()}
        return replace(self, dtypes=dtypes, frame=table, places=places)


Planner = Callable[[Call], Plan | None]


@functools.cache
def resolve_planner(planner: Planner | str) -> Planner:
    """The planner itself, imported if it is named as ``"module:function"``."""
    if not isinstance(planner, str):
        return planner
    import importlib

    module, _, name = planner.partition(":")
    found: Planner = getattr(importlib.import_module(module), name)
    return found
