"""Arithmetic that integers and floats share: add, sub, mul, mad, fma, dp4a, div, rem, min, max, neg, abs,
comparisons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator import exact
from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.decode import Decoder, Reader, Step, dtype_of, instruction
from nbops.targets.emulator.errors import EmulatorError
from nbops.targets.emulator.instructions.common import (
    elementwise,
    finish,
    is_narrow_float,
    rounding_of,
    through_float32,
)
from nbops.targets.emulator.lanes import Active
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []


@instruction("add", "sub", "mul")
def _basic(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if "cc" in parts:
        return _with_carry(decoder, ins, carry_in=False)
    if is_narrow_float(kind):
        return through_float32(decoder, ins, {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name])
    if kind[0] == "f":
        return elementwise(
            decoder, ins, kind, kind, finish(parts, kind, _float_operation(name, rounding_of(parts)))
        )
    if name == "mul":
        return _integer_multiply(decoder, ins)
    function = np.add if name == "add" else np.subtract
    if "sat" in parts:
        return elementwise(decoder, ins, kind, kind, _saturating(function))
    return elementwise(decoder, ins, kind, kind, function)


def _float_operation(name: str, rounding: str) -> Callable[..., Any]:
    if rounding == "rn":
        return {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    if name == "mul":
        return lambda a, b: exact.multiply(a, b, rounding)
    sign = 1 if name == "add" else -1
    return lambda a, b: exact.add(a, sign * b, rounding)


def _saturating(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(a: Any, b: Any) -> Any:
        return np.clip(
            function(a.astype(np.int64), np.asarray(b, np.int64)), -(1 << 31), (1 << 31) - 1
        ).astype(np.int32)

    return run


def _integer_multiply(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    if "wide" in parts:
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        dtype = dtype_of(wide)
        return elementwise(decoder, ins, kind, wide, lambda a, b: np.multiply(a, b, dtype=dtype))
    return elementwise(decoder, ins, kind, kind, exact.high_product if "hi" in parts else np.multiply)


@instruction("mul24", "mad24")
def _mul24(decoder: Decoder, ins: Instruction) -> Step:
    if "sat" in ins.parts:
        raise decoder.unknown(ins)
    kind = ins.parts[-1]
    high = "hi" in ins.parts
    dtype = dtype_of(kind)

    def cut(a: Any) -> Any:
        wide = np.asarray(a).astype(np.int64) & 0xFFFFFF
        return (wide ^ 0x800000) - 0x800000 if dtype.kind == "i" else wide

    def product(a: Any, b: Any, *c: Any) -> Any:
        value = cut(a) * cut(b)
        value = ((value >> 16) if high else value) & 0xFFFFFFFF
        result = value.astype(np.uint32).view(dtype)
        return result + c[0] if c else result

    return elementwise(decoder, ins, kind, kind, product)


@instruction("dp4a")
def _dot_of_bytes(decoder: Decoder, ins: Instruction) -> Step:
    """``c + Σ a[i] b[i]`` over the four bytes of a and b, each signed where its type says so."""
    kinds = ins.parts[1:]
    result = "s32" if "s32" in kinds else "u32"

    def bytes_of(x: Any, kind: str) -> Any:
        each = (np.asarray(x).astype(np.int64)[..., None] >> np.array([0, 8, 16, 24])) & 0xFF
        return (each ^ 0x80) - 0x80 if kind == "s32" else each

    def run(a: Any, b: Any, c: Any) -> Any:
        total = np.asarray(c).astype(np.int64) + (bytes_of(a, kinds[0]) * bytes_of(b, kinds[1])).sum(-1)
        return (total & 0xFFFFFFFF).astype(np.uint32).view(dtype_of(result))

    return elementwise(decoder, ins, [*kinds, result], result, run)


@instruction("fma", "mad")
def _fused(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    if is_narrow_float(kind):
        if kind.startswith("bf16"):
            return through_float32(decoder, ins, exact.fma_to_odd)
        return through_float32(decoder, ins, lambda a, b, c: a.astype(np.float64) * b + c)
    if kind[0] == "f":
        rounding = rounding_of(parts)
        if rounding == "rn":
            return elementwise(decoder, ins, kind, kind, finish(parts, kind, exact.fma))
        return elementwise(
            decoder, ins, kind, kind, finish(parts, kind, lambda a, b, c: exact.fma(a, b, c, rounding))
        )
    if "cc" in parts:
        return _with_carry(decoder, ins, carry_in=False)
    if "wide" in parts:
        wide = f"{kind[0]}{2 * int(kind[1:])}"
        dtype = dtype_of(wide)
        return elementwise(
            decoder, ins, [kind, kind, wide], wide, lambda a, b, c: np.multiply(a, b, dtype=dtype) + c
        )
    if "hi" in parts:
        return elementwise(decoder, ins, kind, kind, lambda a, b, c: exact.high_product(a, b) + c)
    return elementwise(decoder, ins, kind, kind, lambda a, b, c: a * b + c)


# -- extended precision: the carry is a hidden register of each lane -----------------------------------------


@instruction("addc", "subc", "madc")
def _carried(decoder: Decoder, ins: Instruction) -> Step:
    return _with_carry(decoder, ins, carry_in=True)


def _with_carry(decoder: Decoder, ins: Instruction, carry_in: bool) -> Step:
    parts = ins.parts
    name, kind = parts[0].removesuffix("c") if carry_in else parts[0], parts[-1]
    bits = "u" + kind[1:]
    readers = [decoder.read(operand, kind) for operand in ins.operands[1:]]
    write = decoder.write(ins.operands[0], bits)
    dtype, unsigned = dtype_of(kind), dtype_of(bits)

    def run(batch: Batch, active: Active) -> None:
        values = [np.asarray(read(batch, active), dtype) for read in readers]
        if name == "mad":
            product = exact.high_product(values[0], values[1]) if "hi" in parts else values[0] * values[1]
            values = [np.atleast_1d(product), values[2]]
        first, second = (np.atleast_1d(value).view(unsigned) for value in values)
        one = unsigned.type(1)
        carry = batch.carry[active].astype(unsigned) if carry_in else unsigned.type(0)
        if name == "sub":
            partial = first - second
            result = partial - carry
            out = (first < second) | (partial < carry)
        else:
            partial = first + second
            result = partial + carry
            out = (partial < first) | (result < partial)
        write(batch, active, result)
        if "cc" in parts:
            batch.carry[active] = np.broadcast_to(out, result.shape) & bool(one)

    return run


# -- division ------------------------------------------------------------------------------------------------


@instruction("div", "rem")
def _divide(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if kind[0] == "f":
        rounding = rounding_of(parts)
        return elementwise(
            decoder, ins, kind, kind, finish(parts, kind, lambda a, b: exact.divide(a, b, rounding))
        )
    divisor = decoder.read(ins.operands[2], kind)
    step = elementwise(decoder, ins, kind, kind, _truncating(name))

    def run(batch: Batch, active: Active) -> None:
        zero = np.atleast_1d(divisor(batch, active)) == 0
        if zero.any():
            batch.fail(EmulatorError, "an integer is divided by zero", ins, active, int(zero.argmax()))
        step(batch, active)

    return run


def _truncating(name: str) -> Callable[..., Any]:
    """Integer division as in C: the quotient is cut towards zero."""

    def run(a: Any, b: Any) -> Any:
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind == "u":
            return a // b if name == "div" else a % b
        rest = np.fmod(a, b)
        return (a - rest) // b if name == "div" else rest

    return run


# -- min, max, signs, comparisons ----------------------------------------------------------------------------


@instruction("min", "max")
def _extreme(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if is_narrow_float(kind):
        pick = np.minimum if name == "min" else np.maximum
        ignore = np.fmin if name == "min" else np.fmax
        return through_float32(decoder, ins, _signed_zero(pick if "NaN" in parts else ignore, name))
    if kind[0] != "f":
        return elementwise(decoder, ins, kind, kind, np.minimum if name == "min" else np.maximum)
    function: Callable[..., Any] = {
        ("min", True): np.minimum,
        ("max", True): np.maximum,
        ("min", False): np.fmin,
        ("max", False): np.fmax,
    }[name, "NaN" in parts]
    return elementwise(decoder, ins, kind, kind, finish(parts, kind, _signed_zero(function, name)))


def _signed_zero(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """-0 counts as less than +0."""

    def run(a: Any, b: Any) -> Any:
        result = function(a, b)
        zeros = (result == 0) & (a == 0) & (b == 0)
        if np.any(zeros):
            negative = (np.signbit(a) | np.signbit(b)) if name == "min" else (np.signbit(a) & np.signbit(b))
            result = np.where(zeros, np.where(negative, -result.dtype.type(0), result.dtype.type(0)), result)
        return result

    return run


@instruction("neg", "abs")
def _sign(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if is_narrow_float(kind):
        return through_float32(decoder, ins, np.negative if name == "neg" else np.abs)
    function = np.negative if name == "neg" else np.abs
    return elementwise(
        decoder, ins, kind, kind, finish(parts, kind, function) if kind[0] == "f" else function
    )


@instruction("copysign")
def _copysign(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    return elementwise(decoder, ins, kind, kind, lambda sign, value: np.copysign(value, sign))


_COMPARE: dict[str, Callable[..., Any]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}


def comparison(name: str, floating: bool) -> Callable[..., Any]:
    """A comparison; of floats, an ordered one is false and an unordered one (``ltu`` ...) true for NaN."""
    if not floating:
        return _COMPARE[name]
    if name == "num":
        return lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if name == "nan":
        return lambda a, b: np.isnan(a) | np.isnan(b)
    if name == "ne":
        return lambda a, b: np.not_equal(a, b) & ~(np.isnan(a) | np.isnan(b))
    if name in _COMPARE:
        return _COMPARE[name]
    inner = _COMPARE[name[:-1]]
    return lambda a, b: inner(a, b) | np.isnan(a) | np.isnan(b)


_COMBINE: dict[str, Callable[..., Any]] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@instruction("setp", "set")
def _set(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    compare = comparison(parts[1], kind[0] == "f" or kind == "bf16")
    reads = [decoder.read(operand, kind) for operand in ins.operands[1:3]]
    if kind == "bf16":
        reads = [_widened(read) for read in reads]
    combine = next((_COMBINE[part] for part in parts[2:-1] if part in _COMBINE), None)
    third = decoder.predicate(ins.operands[3]) if combine else None
    destinations = ins.operands[0].split("|")
    is_set = parts[0] == "set"
    result_kind = parts[-2] if is_set else "pred"
    writes = [decoder.write(operand, result_kind) for operand in destinations]
    result_dtype = dtype_of(result_kind)
    yes = result_dtype.type(1) if result_dtype.kind in "fb" else np.array([-1]).astype(result_dtype)[0]

    def run(batch: Batch, active: Active) -> None:
        holds = compare(reads[0](batch, active), reads[1](batch, active))
        other = ~holds
        if combine is not None and third is not None:
            last = third(batch, active)
            holds, other = combine(holds, last), combine(other, last)
        if is_set:
            writes[0](batch, active, np.where(holds, yes, result_dtype.type(0)))
            return
        writes[0](batch, active, holds)
        if len(writes) > 1:
            writes[1](batch, active, other)

    return run


def _widened(read: Reader) -> Reader:
    return lambda batch, active: exact.from_bfloat16(read(batch, active))


@instruction("selp")
def _select(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    bits = "b" + str(8 * dtype_of(kind).itemsize)
    return elementwise(
        decoder, ins, [bits, bits, "pred"], bits, lambda a, b, p: np.where(p, a, b), literal=kind
    )


@instruction("slct")
def _select_by_sign(decoder: Decoder, ins: Instruction) -> Step:
    kind, by = ins.parts[-2], ins.parts[-1]
    return elementwise(decoder, ins, [kind, kind, by], kind, lambda a, b, c: np.where(c >= 0, a, b))
