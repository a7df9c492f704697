"""Calls from compiled code to C functions that are known by their address."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["call_int", "call_word"]


def _caller(result: Any, width: int) -> Any:
    """An intrinsic ``call(address, *words)``: calls the C function at an address, every argument a word."""

    @intrinsic
    def call(typingctx: Any, address: Any, *words: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            returned = ir.IntType(width)
            values = [
                context.cast(builder, builder.extract_value(arguments[1], index), kind, types.int64)
                for index, kind in enumerate(packed.types)
            ]
            function_type = ir.FunctionType(returned, [word] * len(values))
            pointer = builder.inttoptr(arguments[0], function_type.as_pointer())
            value = builder.call(pointer, values)
            return value if width == 64 else builder.sext(value, word)

        packed = types.StarArgTuple.from_types(tuple(words))
        return result(types.int64, packed), codegen

    call.cache_key = f"C call returning {width} bits"
    return call


#: For functions that return a pointer, an int64 or nothing.
call_word = _caller(types.int64, 64)
#: For functions that return an int or an enumeration.
call_int = _caller(types.int64, 32)
