"""Loads and stores of 128 bits, and of single elements, by address.

A GPU's thread moves at most 16 bytes at once: 4 float32 or 2 float64. The compiler never joins loads to such
a one by itself, because it does not know that addresses are multiples of 16. Each function is an
``@intrinsic``, one for which we write the LLVM instruction: addresses are int64, elements a type such as
``types.float32``, and a vector is a tuple of them. Addresses must be multiples of what is moved.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nbops.targets.cuda.toolchain import intrinsic, types
from nbops.tuned.cuda.vectors import GLOBAL, VECTOR_BYTES, read_vector, write_vector

__all__ = [
    "get_elements",
    "load",
    "load_shared",
    "load_shared_vector",
    "load_vector",
    "put_elements",
    "store",
    "store_shared",
    "store_shared_vector",
    "store_vector",
]

WORD = ir.IntType(64)


def _vector_of(element: Any) -> Any:
    return types.UniTuple(element, VECTOR_BYTES * 8 // element.bitwidth)


def _at(context: Any, builder: Any, address: Any, element: Any) -> Any:
    """An address as a pointer to an element of global memory."""
    return builder.inttoptr(address, context.get_value_type(element).as_pointer(GLOBAL))


def _place(context: Any, builder: Any, array: Any, data: Any, index: Any, offset: Any) -> Any:
    """A pointer to element `index` + `offset` of an array; a constant offset becomes part of the access."""
    view = context.make_array(array)(context, builder, data)
    return builder.gep(builder.gep(view.data, [builder.zext(index, WORD)]), [offset])


def _read(context: Any, builder: Any, pointer: Any, vector: Any) -> Any:
    elements = read_vector(builder, pointer, context.get_value_type(vector.dtype))
    return context.make_tuple(builder, vector, elements)


def _elements(builder: Any, values: Any, count: int) -> list[Any]:
    return [builder.extract_value(values, lane) for lane in range(count)]


@intrinsic
def load(typingctx: Any, element: Any, address: Any) -> Any:
    """The element at an address of global memory."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.load(_at(context, builder, arguments[1], call.return_type))

    return element.instance_type(element, types.int64), codegen


@intrinsic
def load_vector(typingctx: Any, element: Any, address: Any) -> Any:
    """The 16 bytes at an address of global memory, as a tuple of elements."""
    vector = _vector_of(element.instance_type)

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return _read(context, builder, _at(context, builder, arguments[1], vector.dtype), vector)

    return vector(element, types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write an element at an address of global memory."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _at(context, builder, arguments[0], call.args[1]))
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


@intrinsic
def store_vector(typingctx: Any, address: Any, values: Any) -> Any:
    """Write a tuple of elements, 16 bytes, at an address of global memory."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        pointer = _at(context, builder, arguments[0], values.dtype)
        write_vector(builder, pointer, _elements(builder, arguments[1], values.count))
        return context.get_dummy_value()

    return types.void(types.int64, values), codegen


@intrinsic
def load_shared(typingctx: Any, array: Any, index: Any, offset: Any) -> Any:
    """Element `index` + `offset` of a one-dimensional shared array."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, array, *arguments))

    return array.dtype(array, types.uint32, types.int64), codegen


@intrinsic
def load_shared_vector(typingctx: Any, array: Any, index: Any, offset: Any) -> Any:
    """16 bytes of a one-dimensional shared array, from element `index` + `offset` on, as a tuple."""
    vector = _vector_of(array.dtype)

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return _read(context, builder, _place(context, builder, array, *arguments), vector)

    return vector(array, types.uint32, types.int64), codegen


@intrinsic
def store_shared(typingctx: Any, array: Any, index: Any, offset: Any, value: Any) -> Any:
    """Write element `index` + `offset` of a one-dimensional shared array."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store(arguments[3], _place(context, builder, array, *arguments[:3]))
        return context.get_dummy_value()

    return types.void(array, types.uint32, types.int64, array.dtype), codegen


@intrinsic
def store_shared_vector(typingctx: Any, array: Any, index: Any, offset: Any, values: Any) -> Any:
    """Write a tuple, 16 bytes, into a one-dimensional shared array from element `index` + `offset` on."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        pointer = _place(context, builder, array, *arguments[:3])
        write_vector(builder, pointer, _elements(builder, arguments[3], values.count))
        return context.get_dummy_value()

    return types.void(array, types.uint32, types.int64, values), codegen


@intrinsic
def get_elements(typingctx: Any, array: Any, start: Any) -> Any:
    """As many elements of a thread's own array as make a vector, from `start` on."""
    vector = _vector_of(array.dtype)

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        places = [
            _place(context, builder, array, arguments[0], arguments[1], WORD(lane))
            for lane in range(vector.count)
        ]
        return context.make_tuple(builder, vector, [builder.load(place) for place in places])

    return vector(array, types.uint32), codegen


@intrinsic
def put_elements(typingctx: Any, array: Any, start: Any, values: Any) -> Any:
    """Write a tuple into a thread's own array, from `start` on, element by element."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        for lane, value in enumerate(_elements(builder, arguments[2], values.count)):
            builder.store(value, _place(context, builder, array, arguments[0], arguments[1], WORD(lane)))
        return context.get_dummy_value()

    return types.void(array, types.uint32, values), codegen
