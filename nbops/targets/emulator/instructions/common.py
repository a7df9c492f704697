"""What the families share: reading operands, applying a function, and the modifiers .ftz and .sat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator import exact
from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.decode import Decoder, Step, dtype_of
from nbops.targets.emulator.lanes import Active, Array
from nbops.targets.emulator.nodes import Instruction

__all__ = ["elementwise", "finish", "flush", "is_narrow_float", "rounding_of", "saturate", "through_float32"]


def elementwise(
    decoder: Decoder,
    ins: Instruction,
    kinds: str | list[str],
    result: str,
    function: Callable[..., Any],
    literal: str | None = None,
) -> Step:
    """``destination = function(sources...)`` with sources of the types `kinds`."""
    sources = ins.operands[1:]
    each = [kinds] * len(sources) if isinstance(kinds, str) else kinds
    reads = [decoder.read(source, kind) for source, kind in zip(sources, each, strict=True)]
    write = decoder.write(ins.operands[0], result)
    if len(reads) == 1:
        (only,) = reads

        def run_one(batch: Batch, active: Active) -> None:
            write(batch, active, function(only(batch, active)))

        return run_one
    if len(reads) == 2:
        first, second = reads

        def run_two(batch: Batch, active: Active) -> None:
            write(batch, active, function(first(batch, active), second(batch, active)))

        return run_two

    def run(batch: Batch, active: Active) -> None:
        write(batch, active, function(*[read(batch, active) for read in reads]))

    return run


def flush(values: Array) -> Array:
    """Subnormal float32 become zeros of their sign."""
    values = np.asarray(values)
    if values.dtype != np.float32:
        return values
    small = np.abs(values) < np.finfo(np.float32).tiny
    return np.where(small, np.copysign(np.float32(0), values), values) if small.any() else values


def saturate(values: Array) -> Array:
    """Into [0, 1]; NaN becomes 0."""
    values = np.asarray(values)
    clipped = np.clip(values, values.dtype.type(0), values.dtype.type(1))
    result: Array = np.where(np.isnan(values) | (clipped == 0), values.dtype.type(0), clipped)
    return result


def finish(parts: list[str], kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with what ``.ftz`` does to its inputs and result, and ``.sat`` to its result."""
    if "ftz" in parts and kind == "f32":
        inner = function

        def function(*values: Any) -> Any:
            return flush(inner(*[flush(value) for value in values]))

    if "sat" in parts:
        unsaturated = function
        return lambda *values: saturate(unsaturated(*values))
    return function


def rounding_of(parts: list[str]) -> str:
    """The rounding of an instruction on floats; to nearest even where none is written."""
    return next((part for part in parts[1:] if part in ("rn", "rz", "rm", "rp")), "rn")


def is_narrow_float(kind: str) -> bool:
    """Whether a type is f16, bf16, or a pair of them."""
    return kind in ("f16", "f16x2", "bf16", "bf16x2")


def through_float32(decoder: Decoder, ins: Instruction, function: Callable[..., Any]) -> Step:
    """16-bit floats, singly or in pairs: widened, computed, rounded once.

    float32 holds sums and products of float16 and bfloat16 well enough that rounding twice changes nothing
    for float16 (24 bits are at least twice 11 and two more) and for bfloat16 (8); a fused multiply-add is
    handed in as a function that computes in float64.
    """
    parts = ins.parts
    kind = parts[-1]
    pair, brain = kind.endswith("x2"), kind.startswith("bf16")
    bits = "b32" if pair else "b16"
    reads = [decoder.read(operand, bits) for operand in ins.operands[1:]]
    write = decoder.write(ins.operands[0], bits)

    def widen(value: Any) -> Array:
        halves = np.atleast_1d(np.asarray(value, dtype_of(bits))).view(np.uint16)
        return exact.from_bfloat16(halves) if brain else halves.view(np.float16).astype(np.float32)

    def run(batch: Batch, active: Active) -> None:
        result = np.atleast_1d(function(*[widen(read(batch, active)) for read in reads]))
        if "relu" in parts:
            result = np.where(result > 0, result, np.where(np.isnan(result), result, 0))
        if "sat" in parts:
            result = saturate(result)
        halves = exact.bfloat16(result) if brain else result.astype(np.float16).view(np.uint16)
        write(batch, active, np.ascontiguousarray(halves).view(dtype_of(bits)))

    return run
