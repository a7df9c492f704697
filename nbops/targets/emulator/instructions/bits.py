"""Bit operations: and, or, xor, not, cnot, shl, shr, shf, popc, clz, brev, bfind, bfe, bfi, prmt, lop3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator.decode import Decoder, Step, dtype_of, instruction
from nbops.targets.emulator.instructions.common import elementwise
from nbops.targets.emulator.lanes import Array
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []

_LOGIC: dict[str, Callable[..., Any]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@instruction("and", "or", "xor")
def _logic(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    return elementwise(decoder, ins, kind, kind, _LOGIC[ins.parts[0]])


@instruction("not")
def _not(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    return elementwise(decoder, ins, kind, kind, np.invert)


@instruction("cnot")
def _cnot(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    return elementwise(decoder, ins, kind, kind, lambda a: (a == 0).astype(a.dtype))


@instruction("shl", "shr")
def _shift(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    dtype = dtype_of(kind)
    bits = 8 * dtype.itemsize
    left = ins.parts[0] == "shl"
    amount = decoder.constant(ins.operands[2], np.dtype(np.uint32))
    if amount is not None and amount < bits:
        by = dtype.type(amount)
        function: Callable[..., Any] = np.left_shift if left else np.right_shift
        return elementwise(decoder, ins, [kind, "u32"], kind, lambda a, b: function(a, by))

    def run(a: Any, b: Any) -> Any:
        """A shift by the width or more leaves zeros, or copies of the sign."""
        a = np.asarray(a)
        inside = np.minimum(b, bits - 1).astype(dtype)
        if not left and dtype.kind == "i":
            return a >> inside
        return np.where(np.asarray(b) >= bits, dtype.type(0), a << inside if left else a >> inside)

    return elementwise(decoder, ins, [kind, "u32"], kind, run)


@instruction("shf")
def _funnel_shift(decoder: Decoder, ins: Instruction) -> Step:
    left, wrap = "l" in ins.parts, "wrap" in ins.parts

    def run(low: Any, high: Any, amount: Any) -> Any:
        amount = np.asarray(amount, np.uint64)
        by = amount & np.uint64(31) if wrap else np.minimum(amount, np.uint64(32))
        both = (np.asarray(high, np.uint64) << np.uint64(32)) | np.asarray(low, np.uint64)
        result = (both << by) >> np.uint64(32) if left else both >> by
        return (result & np.uint64(0xFFFFFFFF)).astype(np.uint32)

    return elementwise(decoder, ins, "u32", "u32", run)


@instruction("popc")
def _population(decoder: Decoder, ins: Instruction) -> Step:
    return elementwise(decoder, ins, ins.parts[-1], "u32", lambda a: np.bitwise_count(a).astype(np.uint32))


def _bit_length(values: Array) -> Array:
    """The position above the highest set bit; 0 for 0."""
    values = np.asarray(values).astype(np.uint64)
    length = np.zeros(values.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        upper = values >> np.uint64(step)
        move = upper != 0
        length += np.where(move, step, 0)
        values = np.where(move, upper, values)
    result: Array = length + (values != 0)
    return result


@instruction("clz")
def _leading_zeros(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    bits = 8 * dtype_of(kind).itemsize
    return elementwise(decoder, ins, kind, "u32", lambda a: (bits - _bit_length(a)).astype(np.uint32))


@instruction("bfind")
def _find(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    dtype = dtype_of(kind)
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"u{dtype.itemsize}")
    shift = "shiftamt" in ins.parts

    def run(a: Any) -> Any:
        a = np.atleast_1d(np.asarray(a, dtype))
        if dtype.kind == "i":
            a = np.where(a < 0, ~a, a)
        found = _bit_length(a.view(unsigned)) - 1
        return (
            np.where(found < 0, -1, bits - 1 - found if shift else found).astype(np.int64).astype(np.uint32)
        )

    return elementwise(decoder, ins, kind, "u32", run)


@instruction("brev")
def _reverse(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    dtype = dtype_of(kind)

    def run(a: Any) -> Any:
        octets = np.atleast_1d(np.asarray(a, dtype)).view(np.uint8).reshape(-1, dtype.itemsize)
        turned = np.packbits(np.unpackbits(octets, axis=1, bitorder="little"), axis=1, bitorder="big")
        return np.ascontiguousarray(turned[:, ::-1]).view(dtype).reshape(-1)

    return elementwise(decoder, ins, kind, kind, run)


@instruction("bfe")
def _extract(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    dtype = dtype_of(kind)
    bits = 8 * dtype.itemsize

    def run(a: Any, start: Any, length: Any) -> Any:
        a = np.atleast_1d(np.asarray(a, dtype))
        start = np.asarray(start, np.int64) & 0xFF
        length = np.asarray(length, np.int64) & 0xFF
        value = a >> np.minimum(start, bits - 1).astype(dtype)
        if dtype.kind == "u":
            value = np.where(start >= bits, dtype.type(0), value)
        kept = np.minimum(length, bits)  # above the top, `value` already holds zeros or copies of the sign
        up = np.minimum(bits - kept, bits - 1).astype(dtype)
        result = (value << up) >> up
        return np.where(length == 0, dtype.type(0), result)

    return elementwise(decoder, ins, [kind, "u32", "u32"], kind, run)


@instruction("bfi")
def _insert(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    dtype = dtype_of(kind)
    bits = 8 * dtype.itemsize

    def run(source: Any, target: Any, start: Any, length: Any) -> Any:
        start = np.asarray(start, np.uint64) & np.uint64(0xFF)
        length = np.asarray(length, np.uint64) & np.uint64(0xFF)
        whole = np.uint64(0xFFFFFFFFFFFFFFFF)
        ones = np.where(
            length >= 64, whole, (np.uint64(1) << np.minimum(length, np.uint64(63))) - np.uint64(1)
        )
        shift = np.minimum(start, np.uint64(63))
        mask = np.where(start >= bits, np.uint64(0), ones << shift)
        moved = (np.asarray(source, np.uint64) << shift) & mask
        return (moved | (np.asarray(target, np.uint64) & ~mask)).astype(dtype)

    return elementwise(decoder, ins, [kind, kind, "u32", "u32"], kind, run)


@instruction("prmt")
def _permute(decoder: Decoder, ins: Instruction) -> Step:
    if ins.opcode != "prmt.b32":
        raise decoder.unknown(ins)

    def run(a: Any, b: Any, selector: Any) -> Any:
        both = (np.asarray(b, np.uint64) << np.uint64(32)) | np.asarray(a, np.uint64)
        selector = np.asarray(selector, np.uint64)
        result = np.zeros(np.broadcast(both, selector).shape, np.uint64)
        for position in range(4):
            chosen = (selector >> np.uint64(4 * position)) & np.uint64(15)
            octet = (both >> (np.uint64(8) * (chosen & np.uint64(7)))) & np.uint64(0xFF)
            sign = np.where(octet & np.uint64(0x80), np.uint64(0xFF), np.uint64(0))
            result |= np.where(chosen & np.uint64(8), sign, octet) << np.uint64(8 * position)
        return result.astype(np.uint32)

    return elementwise(decoder, ins, "u32", "u32", run)


@instruction("lop3")
def _lookup(decoder: Decoder, ins: Instruction) -> Step:
    if ins.opcode != "lop3.b32":
        raise decoder.unknown(ins)
    table = int(ins.operands[4], 0)

    def run(a: Any, b: Any, c: Any, _table: Any) -> Any:
        result = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return elementwise(decoder, ins, "u32", "u32", run)
