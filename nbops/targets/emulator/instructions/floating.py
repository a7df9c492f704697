"""Functions of floats: sqrt, rcp, rsqrt, ex2, lg2, sin, cos, tanh, and the class tests.

An approximate instruction gives the correctly rounded float64 result rounded to float32, which lies within
the error that the PTX manual states for it; hardware may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator import exact
from nbops.targets.emulator.decode import Decoder, Step, instruction
from nbops.targets.emulator.instructions.common import (
    elementwise,
    finish,
    is_narrow_float,
    through_float32,
)
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda x: 1.0 / x,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sqrt": np.sqrt,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}


@instruction(*_FUNCTIONS)
def _function(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if is_narrow_float(kind):
        return through_float32(decoder, ins, _FUNCTIONS[name])
    exactly = next((part for part in parts[1:] if part in ("rn", "rz", "rm", "rp")), None)
    if exactly and name == "rcp":
        return elementwise(
            decoder, ins, kind, kind, finish(parts, kind, lambda x: exact.divide(x.dtype.type(1), x, exactly))
        )
    if exactly and name == "sqrt":
        return elementwise(
            decoder, ins, kind, kind, finish(parts, kind, lambda x: exact.square_root(x, exactly))
        )
    if exactly:
        raise decoder.unknown(ins)
    function = _FUNCTIONS[name]
    if kind == "f64":
        return elementwise(decoder, ins, kind, kind, _upper_half(function) if "approx" in parts else function)

    def approximate(x: Any) -> Any:
        return function(np.asarray(x, np.float64)).astype(np.float32)

    return elementwise(decoder, ins, kind, kind, finish(parts, kind, approximate))


def _upper_half(function: Callable[..., Any]) -> Callable[..., Any]:
    """``rcp.approx.ftz.f64`` and its kin look at, and give, the upper 32 bits only."""
    top = np.uint64(0xFFFFFFFF00000000)

    def run(x: Any) -> Any:
        bits = np.atleast_1d(np.asarray(x, np.float64)).view(np.uint64) & top
        values = bits.view(np.float64)
        tiny = np.finfo(np.float64).tiny
        values = np.where(np.abs(values) < tiny, np.copysign(0.0, values), values)
        result = np.atleast_1d(function(values))
        result = np.where(np.abs(result) < tiny, np.copysign(0.0, result), result)
        cut = (result.view(np.uint64) & top).view(np.float64)
        return np.where(np.isnan(result), np.nan, cut)

    return run


@instruction("testp")
def _test(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    tests: dict[str, Callable[..., Any]] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & ((np.abs(x) >= np.finfo(x.dtype).tiny) | (x == 0)),
        "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
    }
    if parts[1] not in tests:
        raise decoder.unknown(ins)
    return elementwise(decoder, ins, kind, "pred", tests[parts[1]])
