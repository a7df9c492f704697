"""Prefetching: asking for memory some time before it is used.

A core has only so many requests to memory under way, and a processor asks ahead by itself only within a page
of 4 KB: each new page, and each row of a large matrix, begins with a wait. A loop that asks for what
lies further on has no such waits. Asking for memory that does not exist is allowed, and has no effect.

Elements are taken to be adjacent. Of an array with gaps, other lines are asked for, which does no harm.

What is written is asked for too. A core must own a cache line to write it, and gets it from memory first.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops.tuned.pointers import BYTE, WORD
from nbops.tuned.streaming import LINE

__all__ = [
    "prefetch",
    "prefetch_line",
    "prefetch_line_to_l2",
    "prefetch_line_to_write",
    "prefetch_to_l2",
    "prefetch_to_write",
]


def emit_prefetch(builder: Any, pointer: Any, write: bool, level: int) -> None:
    """Emit code that asks for the cache line of a byte, in the cache of that level."""
    flag = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), flag, flag, flag])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    keep, data = flag(4 - level), flag(1)
    builder.call(ask, [pointer, flag(int(write)), keep, data])


def _asking(doc: str, write: bool, level: int = 1) -> Any:
    def ask(typingctx: Any, array: Any, size: Any, distance: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            array_, size_, distance_ = arguments
            data = context.make_array(array)(context, builder, array_).data
            start = builder.gep(builder.bitcast(data, BYTE.as_pointer()), [distance_])
            with cgutils.for_range_slice(builder, WORD(0), size_, WORD(LINE)) as (offset, _):
                emit_prefetch(builder, builder.gep(start, [offset]), write, level)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), codegen

    ask.__doc__ = doc
    return intrinsic(ask)


prefetch = _asking(
    "Ask for `size` bytes, from `distance` bytes after an array's first element on.", write=False
)
prefetch_to_l2 = _asking("The same, only as far as the L2 cache.", write=False, level=2)
prefetch_to_write = _asking("The same for memory that will be written.", write=True)


def _asking_for_a_line(doc: str, write: bool, level: int) -> Any:
    def ask(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            emit_prefetch(builder, builder.inttoptr(arguments[0], BYTE.as_pointer()), write, level)
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    ask.__doc__ = doc
    return intrinsic(ask)


prefetch_line = _asking_for_a_line("Ask for the cache line at an address.", write=False, level=1)
prefetch_line_to_l2 = _asking_for_a_line(
    "Ask for the cache line at an address, in the L2 cache.", write=False, level=2
)
prefetch_line_to_write = _asking_for_a_line(
    "Ask for the cache line at an address, which will be written.", write=True, level=1
)
