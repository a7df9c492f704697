"""Reductions of one large row on every core: blocks of one size, whose results are added in their order.

::

    x       [ block 0 | block 1 | block 2 | … ]      any core takes any block
                 |         |         |
    partial [ result 0  result 1  result 2  … ]      added from left to right, by one core

How the row is cut depends on its length alone, so the number of threads changes nothing. The serial task is
the op's own loop, which does the same on one core. The parallel one is thin: Numba's parallel compiler takes
seconds for a loop, so all kinds of reduction share one compiled parallel loop, that of `nbops.targets.cpu`.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from nbops import compiler
from nbops.frame import WORKERS
from nbops.kernel import Dtypes, Kernel
from nbops.targets import cpu
from nbops.targets.tasks import TASK, call_task, compile_task, frame_pointer, operands_intrinsic
from nbops.tuned.pointers import address_of, element_pointer
from nbops.tuned.streaming import CACHE_BYTES
from nbops.tuned.sums_cpu import BLOCK, wide

__all__ = ["BlockTasks", "block_tasks"]

FRAME, ITEM, PARTIAL = 0, 1, 2  # what a worker is told
LAUNCHER = "nbops_blocks_launch"


# ---- what is compiled; `block_tasks` puts something in the place of the functions that raise ----------


def operands(frame: Any, item: int, first: int, count: int) -> Any:
    """A batch item's arrays."""
    raise NotImplementedError


def reduce_block(*parts: Any) -> Any:
    """What a reduction does with a block."""
    raise NotImplementedError


def kernel_address() -> int:
    """The address of `reduce_one` or `reduce_two`."""
    raise NotImplementedError


def launcher_address() -> int:
    """The address of `launch`."""
    raise NotImplementedError


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """The parallel loop of `nbops.targets.cpu`."""
    raise NotImplementedError


ELEMENT: Any = None  # the type of the blocks' results


def reduce_one(words: Any, start: int, stop: int) -> None:
    """Reduce the blocks start to stop of the one input."""
    x = operands(frame_pointer(words[FRAME]), words[ITEM], 0, 0)[0]
    partial = element_pointer(ELEMENT, words[PARTIAL])
    from_memory = x.shape[0] * x.itemsize > CACHE_BYTES
    for b in range(start, stop):
        partial[b] = reduce_block(x[b * BLOCK : (b + 1) * BLOCK], from_memory)


def reduce_two(words: Any, start: int, stop: int) -> None:
    """Reduce the blocks start to stop of two inputs."""
    arrays = operands(frame_pointer(words[FRAME]), words[ITEM], 0, 0)
    x, y = arrays[0], arrays[1]
    partial = element_pointer(ELEMENT, words[PARTIAL])
    from_memory = x.shape[0] * x.itemsize > CACHE_BYTES
    for b in range(start, stop):
        first, last = b * BLOCK, (b + 1) * BLOCK
        partial[b] = reduce_block(x[first:last], y[first:last], from_memory)


def reduce_rows(frame: Any, start: int, stop: int) -> None:
    """The parallel task: for each batch item, every block on some core, and then the sum of all."""
    words = np.zeros(3, np.int64)
    words[FRAME] = address_of(frame)
    for item in range(start, stop):
        arrays = operands(frame, item, 0, 0)
        x, out = arrays[0], arrays[-1]
        blocks = max(1, (x.shape[0] + BLOCK - 1) // BLOCK)
        partial = np.full(blocks, wide(x.dtype.type(0)))
        words[ITEM], words[PARTIAL] = item, partial.ctypes.data
        call_task(launcher_address(), words.ctypes.data, kernel_address(), blocks)
        total = partial[0]
        for b in range(1, blocks):
            total += partial[b]
        out[()] = total


def launch(words: Any, kernel: int, blocks: int) -> None:
    """Call ``kernel(words, b, b + 1)`` for every block b, on the cores that the frame allows."""
    spread(kernel, address_of(words), blocks, frame_pointer(words[FRAME])[WORKERS], 1)


# ---- compiling it -----------------------------------------------------------------------------------


class BlockTasks:
    """The tasks of a reduction for its dtypes and a layout; the parallel one is compiled when asked for.

    Parameters
    ----------
    kernel : Kernel
        The op's; its loop gives the serial task.
    dtypes : tuple of dtype
    layout : int
    reduce_block : function
        Takes a block of each input and returns a number.
    """

    def __init__(self, kernel: Kernel, dtypes: Dtypes, layout: int, reduce_block: Any) -> None:
        self._kernel, self._dtypes, self._layout = kernel, dtypes, layout
        self._reduce_block = reduce_block

    @functools.cached_property
    def _serial(self) -> Any:
        kernel = self._kernel
        return compile_task(kernel.loop, kernel.signature, self._dtypes, self._layout, kernel.name)

    @property
    def serial(self) -> int:
        return int(self._serial.address)

    @functools.cached_property
    def _parallel(self) -> tuple[Any, ...]:
        name = f"{self._kernel.name}_{self._dtypes[0]}_{self._layout & 0xFF}"
        zero = np.asarray(wide(self._dtypes[0].type(0)))
        names = {
            "operands": operands_intrinsic(self._kernel.signature, self._dtypes, self._layout),
            "reduce_block": compiler.part(self._reduce_block, forceinline=True),
            "ELEMENT": from_dtype(zero.dtype),
        }
        template = reduce_one if len(self._dtypes) == 2 else reduce_two
        with global_compiler_lock:
            launcher = _launcher()
            kernel = compiler.native(TASK, compiler.specialise(template, name, **names))
            compiler.name_task(f"nbops_blocks_{name}", kernel)
            names["kernel_address"] = compiler.task_address(f"nbops_blocks_{name}")
            names["launcher_address"] = compiler.task_address(LAUNCHER)
            rows = compiler.native(TASK, compiler.specialise(reduce_rows, name, **names))
        return rows, kernel, launcher

    @property
    def parallel(self) -> int:
        return int(self._parallel[0].address)


@functools.cache
def _launcher() -> Any:
    twin = compiler.specialise(launch, "blocks", spread=cpu.spread_compiled())
    return compiler.name_task(LAUNCHER, compiler.native(TASK, twin))


@functools.cache
def block_tasks(kernel: Kernel, dtypes: Dtypes, layout: int, reduce_block: Any) -> BlockTasks:
    """The same `BlockTasks` for the same arguments."""
    return BlockTasks(kernel, dtypes, layout, reduce_block)
