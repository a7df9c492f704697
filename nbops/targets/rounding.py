"""The processor's floating-point mode: how it rounds, and whether subnormal numbers count as 0.

It belongs to a thread. TensorFlow's threads take subnormal numbers as 0, Python's don't, and the threads that
help with a call must do as its caller does: an element's bits may not depend on who computed it.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["float_mode", "set_float_mode"]

WORD, INT, BYTE_POINTER = ir.IntType(64), ir.IntType(32), ir.IntType(8).as_pointer()
X86 = platform.machine() in ("x86_64", "AMD64", "i686")
ARM = platform.machine() in ("aarch64", "arm64")


def _call(builder: Any, name: str, result: ir.Type, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [x.type for x in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def float_mode(typingctx: Any) -> Any:
    """The calling thread's mode: on x86 the register MXCSR without its flags, on ARM FPCR, elsewhere 0."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        if X86:
            place = cgutils.alloca_once(builder, INT)
            _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, BYTE_POINTER))
            return builder.zext(builder.and_(builder.load(place), INT(~0x3F & 0xFFFFFFFF)), WORD)
        if ARM:
            return _call(builder, "llvm.aarch64.get.fpcr", WORD)
        return WORD(0)

    return types.int64(), codegen


@intrinsic
def set_float_mode(typingctx: Any, mode: Any) -> Any:
    """Take a mode that `float_mode` gave."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        if X86:
            place = cgutils.alloca_once(builder, INT)
            builder.store(builder.trunc(arguments[0], INT), place)
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(place, BYTE_POINTER))
        elif ARM:
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
