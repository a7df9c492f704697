"""Arithmetic that NumPy does not have: fused multiply-add, directed rounding, high halves, bfloat16.

Every function here is exact: the result is the mathematical one, rounded once as asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nbops.targets.emulator.lanes import Array

__all__ = [
    "add",
    "bfloat16",
    "divide",
    "float_to_integer",
    "fma",
    "fma_to_odd",
    "from_bfloat16",
    "from_integer",
    "high_product",
    "multiply",
    "narrow",
    "square_root",
]


@intrinsic
def _fused(context: Any, a: Any, b: Any, c: Any) -> Any:
    """``llvm.fma``: one rounding, by the processor's instruction or by libm."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return a(a, a, a), generate


@functools.cache
def _fma_ufunc() -> Callable[..., Array]:
    def fused(a, b, c):  # type: ignore[no-untyped-def]
        return _fused(a, b, c)

    signatures = [kind(kind, kind, kind) for kind in (types.float32, types.float64)]
    made: Callable[..., Array] = numba.vectorize(signatures)(fused)
    return made


def fma(a: Array, b: Array, c: Array, rounding: str = "rn") -> Array:
    """``a * b + c``, rounded once."""
    nearest = _fma_ufunc()(a, b, c)
    if rounding == "rn":
        return nearest
    product, below = _product(a, b)
    total, error = _sum(product, np.asarray(c, product.dtype))
    if nearest.dtype == np.float32:  # all in float64: the product is exact, the sum has one error term
        rest = _sign_of_sum(total - nearest.astype(np.float64), error, np.zeros_like(total))
    else:
        rest = _sign_of_sum(total - nearest, error, below)
    return _directed(nearest, rest, rounding)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """A product as a float64 and what that float64 leaves out."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == np.float32:
        wide = a.astype(np.float64) * b.astype(np.float64)
        return wide, np.zeros_like(wide)
    product = a * b
    return product, _fma_ufunc()(a, b, -product)


def _sum(a: Array, b: Array) -> tuple[Array, Array]:
    """A sum and its error (Knuth's TwoSum)."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def _sign_of_sum(a: Array, b: Array, c: Array) -> Array:
    """The sign of ``a + b + c``: of the leading term once the terms no longer overlap."""
    for _ in range(3):
        a, b = _sum(a, b)
        b, c = _sum(b, c)
    leading = np.where(a != 0, a, np.where(b != 0, b, c))
    return np.sign(leading)


def _directed(nearest: Array, sign_of_rest: Array, rounding: str) -> Array:
    """Move a value rounded to nearest as `rounding` asks; the exact value lies beyond by the sign given."""
    one = nearest.dtype.type
    up = np.nextafter(nearest, one(np.inf))
    down = np.nextafter(nearest, one(-np.inf))
    finite = np.isfinite(nearest)
    positive = np.where(nearest == 0, sign_of_rest > 0, nearest > 0)
    if rounding == "rp":
        result = np.where((sign_of_rest > 0) & finite, up, nearest)
    elif rounding == "rm":
        result = np.where((sign_of_rest < 0) & finite, down, nearest)
    else:
        inward = np.where(positive, sign_of_rest < 0, sign_of_rest > 0) & finite
        result = np.where(inward, np.where(positive, down, up), nearest)
    return result.astype(nearest.dtype)


def add(a: Array, b: Array, rounding: str) -> Array:
    """``a + b`` rounded as asked."""
    total = a + b
    if rounding == "rn":
        return total
    wide_a, wide_b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    wide, error = _sum(wide_a, wide_b)
    return _directed(
        total, _sign_of_sum(wide - total.astype(np.float64), error, np.zeros_like(wide)), rounding
    )


def multiply(a: Array, b: Array, rounding: str) -> Array:
    """``a * b`` rounded as asked."""
    product = a * b
    if rounding == "rn":
        return product
    wide, below = _product(a, b)
    return _directed(
        product, _sign_of_sum(wide - product.astype(np.float64), below, np.zeros_like(wide)), rounding
    )


def divide(a: Array, b: Array, rounding: str) -> Array:
    """``a / b`` rounded as asked."""
    quotient = a / b
    if rounding == "rn":
        return quotient
    rest = _fma_ufunc()(-quotient, np.asarray(b), np.asarray(a))
    sign = np.where(np.isfinite(rest), np.sign(rest) * np.sign(b), 0)
    return _directed(quotient, sign, rounding)


def square_root(a: Array, rounding: str) -> Array:
    """The square root rounded as asked."""
    root = np.sqrt(a)
    if rounding == "rn":
        return root
    rest = _fma_ufunc()(-root, root, np.asarray(a))
    return _directed(root, np.where(np.isfinite(rest), np.sign(rest), 0), rounding)


def high_product(a: Array, b: Array) -> Array:
    """The upper half of the double-width product of two integers."""
    a, b = np.asarray(a), np.asarray(b)
    dtype = a.dtype
    bits = 8 * dtype.itemsize
    if bits < 64:
        wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
        result: Array = ((a.astype(wide) * b.astype(wide)) >> wide.type(bits)).astype(dtype)
        return result
    unsigned = np.uint64
    low, half = unsigned(0xFFFFFFFF), unsigned(32)
    x, y = a.astype(unsigned), b.astype(unsigned)
    xl, xh, yl, yh = x & low, x >> half, y & low, y >> half
    middle = (xl * yl >> half) + (xh * yl & low) + (xl * yh & low)
    high = xh * yh + (xh * yl >> half) + (xl * yh >> half) + (middle >> half)
    if dtype.kind == "i":
        high = high - np.where(a < 0, y, unsigned(0)) - np.where(b < 0, x, unsigned(0))
    result = high.astype(dtype)
    return result


def float_to_integer(values: Array, dtype: np.dtype[Any]) -> Array:
    """Integral floats to integers: out of range gives the nearest end, NaN 0 (the top bit in 64 bits)."""
    values = np.atleast_1d(np.asarray(values, np.float64))
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)  # the float64 nearest to a 64-bit limit is above it
    result = np.zeros(values.shape, dtype)
    inside = (values > low) & (values < high)
    result[inside] = values[inside].astype(dtype)
    result[values >= high] = limits.max
    result[values <= low] = limits.min
    if dtype.itemsize == 8:
        result[np.isnan(values)] = np.array([1 << 63], np.uint64).view(dtype)[0]
    return result


def bfloat16(values: Array, rounding: str = "rn") -> Array:
    """float32 -> the bits of bfloat16, to nearest even (or cut off, for ``rz``)."""
    bits = np.atleast_1d(np.asarray(values, np.float32)).view(np.uint32)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    step = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)) if rounding == "rn" else np.uint32(0)
    rounded = ((bits + step) >> np.uint32(16)).astype(np.uint16)
    return np.where(nan, np.uint16(0x7FFF), rounded)


def from_bfloat16(bits: Array) -> Array:
    """The bits of bfloat16 -> float32; exact."""
    return (np.atleast_1d(bits).astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(values: Array, dtype: np.dtype[Any], rounding: str) -> Array:
    """A float to another width, rounded as asked; ``odd`` keeps a later rounding to fewer bits exact."""
    values = np.atleast_1d(values)
    nearest = values.astype(dtype)
    if rounding == "rn" or dtype.itemsize >= values.dtype.itemsize:
        return nearest
    rest = np.sign(values - nearest.astype(values.dtype))
    rest = np.where(np.isinf(nearest) & np.isfinite(values), -np.sign(nearest), rest)
    return _to_odd(nearest, rest) if rounding == "odd" else _round_overflow(nearest, rest, rounding)


def from_integer(values: Array, dtype: np.dtype[Any], rounding: str) -> Array:
    """An integer to a float, rounded as asked."""
    nearest = values.astype(dtype)
    if rounding == "rn":
        return nearest
    top = float(np.iinfo(values.dtype).max) + 1.0  # a power of two; no value reaches it
    over = nearest >= dtype.type(top)
    back = np.where(over, dtype.type(0), nearest).astype(values.dtype)
    rest = np.where(over, -1, np.where(values > back, 1, np.where(values < back, -1, 0)))
    return _to_odd(nearest, rest) if rounding == "odd" else _directed(nearest, rest, rounding)


def _round_overflow(nearest: Array, rest: Array, rounding: str) -> Array:
    """Directed rounding that also brings back what overflowed in rounding to nearest."""
    largest = np.finfo(nearest.dtype).max
    overflowed = np.isinf(nearest) & (rest != 0)
    finite = np.where(overflowed, np.copysign(largest, nearest), nearest).astype(nearest.dtype)
    result = _directed(finite, np.where(overflowed, -rest, rest), rounding)
    return result


def _to_odd(nearest: Array, rest: Array) -> Array:
    """Rounded to nearest -> rounded to odd: an inexact result ends in a 1."""
    cut = _round_overflow(nearest, rest, "rz")
    bits = cut.view(f"u{cut.itemsize}")
    return np.where((rest != 0) & np.isfinite(cut), bits | bits.dtype.type(1), bits).view(cut.dtype)


def fma_to_odd(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 that hold bfloat16, rounded to odd: rounding it again to bfloat16 is exact."""
    product, _ = _product(np.asarray(a, np.float32), np.asarray(b, np.float32))
    total, error = _sum(product, np.asarray(c, np.float64))
    nearest = total.astype(np.float32)
    rest = _sign_of_sum(total - nearest.astype(np.float64), error, np.zeros_like(total))
    rest = np.where(np.isinf(nearest) & np.isfinite(total), -np.sign(nearest), rest)
    return _to_odd(nearest, np.where(np.isnan(rest), 0, rest))
