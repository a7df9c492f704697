"""The LLVM instructions that move 16 bytes between memory and a thread's registers.

The pointer must be a multiple of 16. Elements below 32 bits travel as words, which are taken apart and put
together here: the compiler would move a vector of them one by one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

__all__ = ["GLOBAL", "VECTOR_BYTES", "WORD", "bits_of", "read_vector", "write_vector"]

VECTOR_BYTES = 16
WORD = ir.IntType(32)
GLOBAL = 1  # the address space


def bits_of(element: Any) -> int:
    """The size of an LLVM type."""
    if isinstance(element, ir.IntType):
        return int(element.width)
    return {ir.HalfType: 16, ir.FloatType: 32, ir.DoubleType: 64}[type(element)]


def read_vector(builder: Any, pointer: Any, element: Any) -> list[Any]:
    """Emit one 128-bit load; its values of LLVM type `element`."""
    bits = bits_of(element)
    part = element if bits >= 32 else WORD
    vector = ir.VectorType(part, 8 * VECTOR_BYTES // max(bits, 32))
    loaded = builder.load(
        builder.bitcast(pointer, vector.as_pointer(pointer.type.addrspace)), align=VECTOR_BYTES
    )
    parts = [builder.extract_element(loaded, WORD(i)) for i in range(vector.count)]
    if bits >= 32:
        return parts
    small = ir.IntType(bits)
    return [
        builder.bitcast(builder.trunc(builder.lshr(word, WORD(shift)), small), element)
        for word in parts
        for shift in range(0, 32, bits)
    ]


def write_vector(builder: Any, pointer: Any, elements: list[Any]) -> None:
    """Emit one 128-bit store of 16 bytes of elements."""
    bits = bits_of(elements[0].type)
    if bits < 32:
        elements = [_word(builder, elements[i : i + 32 // bits]) for i in range(0, len(elements), 32 // bits)]
    vector = ir.VectorType(elements[0].type, len(elements))
    value = ir.Constant(vector, ir.Undefined)
    for index, element in enumerate(elements):
        value = builder.insert_element(value, element, WORD(index))
    builder.store(
        value, builder.bitcast(pointer, vector.as_pointer(pointer.type.addrspace)), align=VECTOR_BYTES
    )


def _word(builder: Any, elements: list[Any]) -> Any:
    """32 bits of small elements, the first one lowest."""
    bits = bits_of(elements[0].type)
    word = WORD(0)
    for index, element in enumerate(elements):
        wide = builder.zext(builder.bitcast(element, ir.IntType(bits)), WORD)
        word = builder.or_(word, builder.shl(wide, WORD(bits * index)))
    return word
