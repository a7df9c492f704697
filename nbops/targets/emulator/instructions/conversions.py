"""cvt between integers and floats of every width, with its roundings and saturation, and cvta between
spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator import exact
from nbops.targets.emulator.batch import LOCAL_WINDOW, SHARED_WINDOW, Batch
from nbops.targets.emulator.decode import Decoder, Step, dtype_of, instruction
from nbops.targets.emulator.instructions.common import elementwise, flush, saturate
from nbops.targets.emulator.lanes import Active, Array
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []

_TO_INTEGRAL: dict[str, Callable[..., Any]] = {
    "rni": np.rint,
    "rmi": np.floor,
    "rpi": np.ceil,
    "rzi": np.trunc,
}
_FLOATS = ("f16", "bf16", "f32", "f64", "tf32", "f16x2", "bf16x2")
_WINDOWS = {"global": 0, "const": 0, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "param": LOCAL_WINDOW}


@instruction("cvt")
def _convert(decoder: Decoder, ins: Instruction) -> Step:
    to, source = ins.parts[-2:]
    if to not in _FLOATS and source not in _FLOATS:
        return _integers(decoder, ins)
    if to in ("f16x2", "bf16x2"):
        return _pair(decoder, ins)
    if to == "tf32":
        return elementwise(decoder, ins, "f32", "b32", _to_tf32(ins))
    if to in _FLOATS and source in _FLOATS:
        return _floats(decoder, ins)
    return _from_integer(decoder, ins) if to in _FLOATS else _to_integer(decoder, ins)


def _integers(decoder: Decoder, ins: Instruction) -> Step:
    to, source = ins.parts[-2:]
    dtype = dtype_of(to)
    limits = np.iinfo(dtype)

    def run(value: Any) -> Any:
        value = np.asarray(value)
        if "sat" in ins.parts:
            own = np.iinfo(value.dtype)
            value = np.clip(value, max(int(limits.min), int(own.min)), min(int(limits.max), int(own.max)))
        return value.astype(dtype)

    return elementwise(decoder, ins, source, to, run)


def _widen(kind: str) -> Callable[[Any], Array]:
    """A float of any type as float32 or float64; exact."""
    return exact.from_bfloat16 if kind == "bf16" else lambda value: np.atleast_1d(value)


def _floats(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    to, source = parts[-2:]
    widen = _widen(source)
    integral = next((_TO_INTEGRAL[part] for part in parts if part in _TO_INTEGRAL), None)
    rounding = next((part for part in parts[1:-2] if part in ("rn", "rz", "rm", "rp")), "rn")
    ftz = "ftz" in parts

    def run(value: Any) -> Any:
        value = widen(value)
        if ftz:
            value = flush(value)
        if integral:
            value = integral(value)
        if "relu" in parts:
            value = np.where(value > 0, value, np.where(np.isnan(value), value, value.dtype.type(0)))
        if to == "bf16":
            result = exact.bfloat16(exact.narrow(value, np.dtype(np.float32), "odd"), rounding)
        else:
            result = exact.narrow(value, dtype_of(to), rounding)
            if ftz:
                result = flush(result)
        return saturate(result) if "sat" in parts else result

    return elementwise(decoder, ins, source, to, run)


def _from_integer(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    to, source = parts[-2:]
    rounding = next((part for part in parts[1:-2] if part in ("rn", "rz", "rm", "rp")), "rn")

    def run(value: Any) -> Any:
        value = np.atleast_1d(value)
        if to == "bf16":
            return exact.bfloat16(exact.from_integer(value, np.dtype(np.float32), "odd"), rounding)
        if to == "f16":
            return exact.narrow(
                exact.from_integer(value, np.dtype(np.float32), "odd"), np.dtype(np.float16), rounding
            )
        return exact.from_integer(value, dtype_of(to), rounding)

    return elementwise(decoder, ins, source, to, run)


def _to_integer(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    to, source = parts[-2:]
    integral = next((_TO_INTEGRAL[part] for part in parts if part in _TO_INTEGRAL), np.trunc)
    widen = _widen(source)
    dtype = dtype_of(to)
    ftz = "ftz" in parts

    def run(value: Any) -> Any:
        value = widen(value)
        return exact.float_to_integer(integral(flush(value) if ftz else value), dtype)

    return elementwise(decoder, ins, source, to, run)


def _pair(decoder: Decoder, ins: Instruction) -> Step:
    """Two float32 to a pair of 16-bit floats; the first operand goes to the upper half."""
    parts = ins.parts
    brain = parts[-2] == "bf16x2"
    if parts[-1] != "f32":
        raise decoder.unknown(ins)
    rounding = next((part for part in parts[1:-2] if part in ("rn", "rz")), "rn")

    def half(value: Any) -> Array:
        value = np.atleast_1d(value)
        if "relu" in parts:
            value = np.where(value > 0, value, np.where(np.isnan(value), value, np.float32(0)))
        if brain:
            return exact.bfloat16(value, rounding).astype(np.uint32)
        return exact.narrow(value, np.dtype(np.float16), rounding).view(np.uint16).astype(np.uint32)

    return elementwise(decoder, ins, "f32", "b32", lambda a, b: (half(a) << np.uint32(16)) | half(b))


def _to_tf32(ins: Instruction) -> Callable[[Any], Array]:
    """float32 -> the 19 bits of tf32; ``rna`` rounds ties away from zero, ``rn`` to even."""
    away = "rna" in ins.parts

    def run(value: Any) -> Array:
        bits = np.atleast_1d(np.asarray(value, np.float32)).view(np.uint32)
        even = np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
        step = np.uint32(0x1000) if away else even
        rounded = (bits + step) & np.uint32(0xFFFFE000)
        return np.where(np.isfinite(np.asarray(value)), rounded, bits & np.uint32(0xFFFFE000))

    return run


@instruction("cvta")
def _convert_address(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = "s" + parts[-1][1:]
    into = "to" in parts
    space = next((name for name in _WINDOWS if any(part.split("::")[0] == name for part in parts)), None)
    if space is None:
        raise decoder.unknown(ins)
    window = -_WINDOWS[space] if into else _WINDOWS[space]
    read = decoder.read(ins.operands[1], kind)
    write = decoder.write(ins.operands[0], kind)

    def run(batch: Batch, active: Active) -> None:
        write(batch, active, read(batch, active) + window if window else read(batch, active))

    return run


@instruction("isspacep")
def _is_space(decoder: Decoder, ins: Instruction) -> Step:
    space = ins.parts[1].split("::")[0]
    low, high = {
        "shared": (SHARED_WINDOW, LOCAL_WINDOW),
        "local": (LOCAL_WINDOW, 2 * LOCAL_WINDOW),
        "global": (2 * LOCAL_WINDOW, 1 << 62),
    }.get(space, (1, 0))
    return elementwise(decoder, ins, "s64", "pred", lambda a: (a >= low) & (a < high))
