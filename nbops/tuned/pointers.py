"""Typed pointers for Numba, which move by bytes, and constants of their element's type.

Numba's arrays carry shapes and strides; the micro-kernels need one register per operand. These are bare
LLVM pointers, ``CPointer(float32)`` in Numba's terms. Strides are in bytes, as in NumPy, so that any view
can be read, and nothing is assumed about alignment. Each function is an ``@intrinsic``: one for which we
write the LLVM instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD, BYTE = ir.IntType(64), ir.IntType(8)


def advance(builder: Any, pointer: Any, offset: Any) -> Any:
    """Emit code for `pointer`, `offset` bytes further on."""
    start = builder.bitcast(pointer, BYTE.as_pointer())
    return builder.bitcast(builder.gep(start, [offset]), pointer.type)


@intrinsic
def item_bytes(typingctx: Any, like: Any) -> Any:
    """The size of a pointer's element."""
    size = like.dtype.bitwidth // 8
    return types.intp(like), lambda context, builder, call, arguments: WORD(size)


@intrinsic
def zero_of(typingctx: Any, like: Any) -> Any:
    """0, as a pointer's element."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(call.return_type), None)

    return like.dtype(like), codegen


@intrinsic
def element_pointer(typingctx: Any, element: Any, address: Any) -> Any:
    """An address as a pointer to elements of a type (``element_pointer(types.float32, address)``)."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(call.return_type))

    return types.CPointer(element.instance_type)(element, types.int64), codegen


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """A pointer as an integer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], WORD)

    return types.int64(pointer), codegen


@intrinsic
def shift(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """A pointer moved by bytes. Strides are bytes everywhere, as in NumPy, so any view can be read."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return advance(builder, *arguments)

    return pointer(pointer, types.int64), codegen


@intrinsic
def get(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The element `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.load(advance(builder, *arguments), align=1)

    return pointer.dtype(pointer, types.int64), codegen


@intrinsic
def put(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Write the element `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store(arguments[2], advance(builder, *arguments[:2]), align=1)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, pointer.dtype), codegen


@intrinsic
def never_inline(typingctx: Any) -> Any:
    """Keep the calling function out of line, so that its registers are allocated for it alone."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def try_to_allocate(typingctx: Any, size: Any) -> Any:
    """The address of `size` new bytes, to be given back with `release`; 0 where there is no room."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.ptrtoint(context.nrt.allocate_unchecked(builder, arguments[0]), WORD)

    return types.int64(types.int64), codegen


@intrinsic
def release(typingctx: Any, address: Any) -> Any:
    """Give memory back."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        context.nrt.free(builder, builder.inttoptr(arguments[0], BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), codegen
