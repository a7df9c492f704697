"""Non-temporal stores: results that go to memory without a detour through the caches.

An ordinary store first reads the cache line that it changes, so writing n bytes moves 2n. A non-temporal
store of a whole line reads nothing. That pays where the result does not fit the caches anyway; a smaller
result would be missing from them when it is read next.

A loop's own stores can't be made non-temporal without writing the loop in LLVM's instructions. So the loop
fills a small buffer, which never leaves the L1 cache, and the buffer is copied out line by line::

    x, y --- loop ---> buffer (512 bytes, in L1) --- copy_lines ---> out (memory)
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops.tuned.caches import cache_bytes
from nbops.tuned.pointers import BYTE, WORD

__all__ = ["CACHE_BYTES", "LINE", "STRETCH", "copy_lines", "fence", "new_buffer"]

LINE = 64  # bytes in a cache line
STRETCH = 512  # bytes that are computed and copied at a time


#: A result of so many bytes is not expected in a cache when it is read next. A server tells of hundreds of
#: MiB that all its programs share; what one of them keeps there is less. (On such a machine, with 480 MiB,
#: storing 16 MiB past the caches was 1.5 times as fast, and reading them next 1.07.)
CACHE_BYTES = min(max(map(cache_bytes, range(1, 5))) or 32 << 20, 16 << 20)


@intrinsic
def new_buffer(typingctx: Any, element: Any) -> Any:
    """An array of STRETCH bytes, of a given type, on the stack of the calling function."""
    result = types.Array(element.instance_type, 1, "C")

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        from numba.np.arrayobj import populate_array  # takes long, and only compiling needs it

        kind = context.get_data_type(result.dtype)
        size = context.get_abi_sizeof(kind)
        place = cgutils.alloca_once(builder, ir.ArrayType(kind, STRETCH // size))
        place.align = LINE
        array = context.make_array(result)(context, builder)
        data = builder.bitcast(place, kind.as_pointer())
        populate_array(array, data, [WORD(STRETCH // size)], [WORD(size)], WORD(size), meminfo=None)
        return array._getvalue()

    return result(element), codegen


@intrinsic
def copy_lines(typingctx: Any, buffer: Any, address: Any) -> Any:
    """Copy a buffer to an address, which must be that of a cache line, with non-temporal stores."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        line = ir.VectorType(ir.IntType(64), LINE // 8)
        source = builder.bitcast(
            context.make_array(buffer)(context, builder, arguments[0]).data, BYTE.as_pointer()
        )
        target = builder.inttoptr(arguments[1], BYTE.as_pointer())
        temporary = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        with cgutils.for_range_slice(builder, WORD(0), WORD(STRETCH), WORD(LINE)) as (offset, _):
            read = builder.bitcast(builder.gep(source, [offset]), line.as_pointer())
            write = builder.bitcast(builder.gep(target, [offset]), line.as_pointer())
            store = builder.store(builder.load(read, align=LINE), write, align=LINE)
            store.set_metadata("nontemporal", temporary)
        return context.get_dummy_value()

    return types.void(buffer, types.int64), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Let no later store overtake the non-temporal ones, which are not ordered by themselves."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen
