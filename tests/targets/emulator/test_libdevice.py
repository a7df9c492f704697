"""Numba's math functions on the emulated device against NumPy in float64: what libdevice compiles to really
runs.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.targets.ptx import ARCHITECTURES, compile_kernel, requires_compiler, run

pytestmark = requires_compiler
if not pytestmark.args[0]:
    from numba import cuda, float32, float64, void

Unary = Callable[[Any], Any]

# name -> (float64 reference, lowest, highest argument, units in the last place of float32 and float64 that
# the CUDA programming guide allows, and half of one for the reference's own rounding)
FUNCTIONS: dict[str, tuple[Unary, float, float, float, float]] = {
    "exp": (np.exp, -80.0, 80.0, 2.5, 1.5),
    "exp2": (np.exp2, -100.0, 100.0, 2.5, 1.5),
    "expm1": (np.expm1, -10.0, 10.0, 1.5, 1.5),
    "log": (np.log, 1e-6, 100.0, 1.5, 1.5),
    "log1p": (np.log1p, -0.9, 10.0, 1.5, 1.5),
    "log2": (np.log2, 1e-6, 100.0, 1.5, 1.5),
    "log10": (np.log10, 1e-6, 100.0, 2.5, 1.5),
    "sin": (np.sin, -10.0, 10.0, 2.5, 2.5),
    "cos": (np.cos, -10.0, 10.0, 2.5, 2.5),
    "tan": (np.tan, -1.5, 1.5, 4.5, 2.5),
    "tanh": (np.tanh, -10.0, 10.0, 2.5, 1.5),
    "sqrt": (np.sqrt, 0.0, 1e6, 0.5, 0.5),
    "erf": (np.vectorize(math.erf), -4.0, 4.0, 2.5, 2.5),
    "floor": (np.floor, -100.0, 100.0, 0.5, 0.5),
    "ceil": (np.ceil, -100.0, 100.0, 0.5, 0.5),
    "atan": (np.arctan, -10.0, 10.0, 2.5, 2.5),
    "asin": (np.arcsin, -1.0, 1.0, 2.5, 2.5),
}


def units(result: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """The largest distance, in units in the last place of the result's dtype."""
    spacing = np.spacing(np.abs(reference).astype(result.dtype)).astype(np.float64)
    return float(np.max(np.abs(result.astype(np.float64) - reference) / spacing))


def kernel_of(name: str) -> Callable[..., None]:
    function = getattr(math, name)

    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = function(x[i])

    return kernel


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str, dtype: type) -> None:
    reference, low, high, single, double = FUNCTIONS[name]
    x = np.random.default_rng(zlib.crc32(name.encode())).uniform(low, high, 1024).astype(dtype)
    out = np.full_like(x, np.nan)
    kind = float32 if dtype is np.float32 else float64
    ptx = compile_kernel(kernel_of(name), void(kind[::1], kind[::1]))
    run(ptx, 4, 256, x, out, outputs=[1])
    assert units(out, reference(x.astype(np.float64))) <= (single if dtype is np.float32 else double)


@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_calls_are_expanded(cc: tuple[int, int]) -> None:
    """float64 sin of large arguments and powers call functions of their own."""

    def kernel(x, out):
        i = cuda.grid(1)
        out[i] = math.sin(x[i]) + math.pow(x[i], 1.5)

    ptx = compile_kernel(kernel, void(float64[::1], float64[::1]), cc)
    assert "call.uni" in ptx
    x = np.concatenate([np.geomspace(1e-3, 1e6, 96), np.geomspace(1e9, 1e14, 32)])
    out = np.full_like(x, np.nan)
    run(ptx, 1, 128, x, out, outputs=[1])
    np.testing.assert_allclose(out, np.sin(x) + np.power(x, 1.5), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("cc", ARCHITECTURES)
def test_special_values(cc: tuple[int, int]) -> None:
    def kernel(x, out):
        i = cuda.grid(1)
        out[0, i] = math.exp(x[i])
        out[1, i] = math.log(x[i])
        out[2, i] = math.tanh(x[i])
        out[3, i] = max(x[i], float32(0))
        out[4, i] = math.sqrt(x[i])

    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 3e38], np.float32)
    out = np.full((5, x.size), 7, np.float32)
    run(compile_kernel(kernel, void(float32[::1], float32[:, ::1]), cc), 1, x.size, x, out, outputs=[1])
    with np.errstate(all="ignore"):
        expected = [np.exp(x), np.log(x), np.tanh(x), np.where(x > 0, x, 0), np.sqrt(x)]
    for got, want, name in zip(out, expected, ("exp", "log", "tanh", "max", "sqrt"), strict=True):
        if name == "max":
            got, want = got[~np.isnan(x)], want[~np.isnan(x)]  # Python's max keeps whichever came first
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=name)
