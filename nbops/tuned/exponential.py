"""The exponential function as plain arithmetic, so that LLVM computes a whole vector of them at once.

A call of the C library's ``exp`` handles one element, and a loop that contains it stays scalar. This one has
no branch and no call::

    k = round(x / ln 2)                  so that |r| <= ln 2 / 2
    r = x - k ln 2                       ln 2 in two parts, the first so short that k times it is exact
    exp(x) = (1 + r (1 + r p(r))) 2^k

p is close to ``(exp(r) - 1 - r) / r²``. In float64 it is the polynomial that agrees with it at Chebyshev's
points, and wrong by 1e-18; in float32 the one of degree 4 whose largest error of exp(r) is least, 3e-9, a
twentieth of an ulp. Both are far below the rounding of the other steps. 2^k is made from bits and
multiplied in two steps, because 2^k itself may be too large or too small for a number where the result is
not. Only the second can round, so subnormal results are rounded once.

**Shares of a row**, as in softmax, are exponentials of what is not above 0, and next to nothing counts as
nothing: below -80 in float32, -690 in float64, the result of `exp_nonpositive` is 0. Then 2^k is a normal
number, made from bits in one step; below, it is anything, and the result does not use it. Subnormal results
would make the products that they enter, up to the end of a backward pass, a hundred times slower.

The method is old: W. J. Cody and W. Waite, Software Manual for the Elementary Functions, 1980, chapter 6; the
rounding by a large constant is in J.-M. Muller et al., Handbook of Floating-Point Arithmetic, chapter 11.

**tanh.** With ``e = exp(-2 |x|) - 1 = q 2^k + (2^k - 1)``, where ``q = r + r² p(r)`` and what r lost to
rounding is added to the second term, nothing cancels, and ``tanh |x| = -e / (e + 2)``. What e, the
denominator and the quotient lost to rounding then corrects the quotient. There is one division, the slowest
of all operations: the quotient and its correction are multiplied by its result.

**Accuracy.** Both exponentials are within 0.9 ulp, tanh within 1.8, in float32 and float64
(tests/test_exponential.py). NaN stays NaN; exp(-inf) is 0 and exp(inf) is inf; subnormal results of exp are
rounded like others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nbops.tuned.lanes import inlined
from nbops.tuned.twins import compiled_as
from nbops.tuned.vectors import multiply_add

__all__ = ["exp", "exp_nonpositive", "tanh"]


@intrinsic
def scale(typingctx: Any, y: Any, shifted: Any) -> Any:
    """``y * 2^k``, where `shifted` is ``k + ROUND``, so that its lowest bits are those of ``k + 2 bias``.

    The exponent field of a number 2^n holds ``n + bias``. Here the two factors' fields are the halves of
    ``k + 2 bias``; shifting them into place drops all other bits.
    """

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        word = ir.IntType(y.bitwidth)
        one, mantissa = word(1), word(23 if y.bitwidth == 32 else 52)
        bits = builder.bitcast(arguments[1], word)
        half = builder.lshr(bits, one)
        product = arguments[0]
        for field in half, builder.sub(bits, half):
            factor = builder.bitcast(builder.shl(field, mantissa), product.type)
            product = builder.fmul(product, factor)
        return product

    return y(y, y), codegen


@intrinsic
def scale_normal(typingctx: Any, y: Any, shifted: Any) -> Any:
    """``y * 2^k`` where 2^k is normal; `shifted` is ``k + ROUND_NORMAL``, whose lowest bits are its field."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        word = ir.IntType(y.bitwidth)
        mantissa = word(23 if y.bitwidth == 32 else 52)
        field = builder.shl(builder.bitcast(arguments[1], word), mantissa)
        return builder.fmul(arguments[0], builder.bitcast(field, arguments[0].type))

    return y(y, y), codegen


# ---- float32 ----------------------------------------------------------------------------------------

F = np.float32
LARGEST_32, SMALLEST_32 = F(89), F(-104)  # beyond these the result is inf or 0
PER_LN2_32 = F(1.44269504)
ROUND_32 = F(1.5 * 2**23 + 2 * 127)  # adding it rounds to a whole number, and leaves that in the lowest bits
ROUND_NORMAL_32 = F(1.5 * 2**23 + 127)
NOTHING_32 = F(-80)  # its exponential counts as 0 beside 1
LN2_HIGH_32, LN2_LOW_32 = F(0.693359375), F(-2.12194440e-4)  # 10 bits and the rest
ZERO_32, ONE_32, TWO_32, FLAT_32 = F(0), F(1), F(2), F(-40)  # tanh is 1 for 2 |x| beyond the last
P0_32, P1_32, P2_32 = F(0.49999994), F(0.16666521), F(0.04166839)
P3_32, P4_32 = F(0.008368712), F(0.0013814621)


@inlined
def parts_float32(x: Any) -> Any:
    """q and k (plus ROUND), such that ``exp(x) = (1 + q) 2^k``."""
    shifted = multiply_add(x, PER_LN2_32, ROUND_32)
    k = shifted - ROUND_32
    high = x - k * LN2_HIGH_32
    low = k * LN2_LOW_32
    r = high - low
    lost = (high - r) - low
    p = multiply_add(P4_32, r, P3_32)
    p = multiply_add(p, r, P2_32)
    p = multiply_add(p, r, P1_32)
    p = multiply_add(p, r, P0_32)
    return r + multiply_add(r * r, p, lost), shifted


@inlined
def power_float32(x: Any, rounding: Any) -> Any:
    """exp(r), and k plus `rounding`."""
    shifted = multiply_add(x, PER_LN2_32, rounding)
    k = shifted - rounding
    r = multiply_add(k, -LN2_LOW_32, multiply_add(k, -LN2_HIGH_32, x))
    p = multiply_add(P4_32, r, P3_32)
    p = multiply_add(p, r, P2_32)
    p = multiply_add(p, r, P1_32)
    p = multiply_add(p, r, P0_32)
    return multiply_add(multiply_add(p, r, ONE_32), r, ONE_32), shifted


def exp_float32(x: Any) -> Any:
    """exp(x) for one float32."""
    x = LARGEST_32 if x > LARGEST_32 else x
    x = SMALLEST_32 if x < SMALLEST_32 else x
    y, shifted = power_float32(x, ROUND_32)
    return scale(y, shifted)


def exp_nonpositive_float32(x: Any) -> Any:
    """exp(x) for one float32 that is not above 0; next to nothing is 0."""
    y, shifted = power_float32(x, ROUND_NORMAL_32)
    return ZERO_32 if x < NOTHING_32 else scale_normal(y, shifted)


def tanh_float32(x: Any) -> Any:
    """tanh(x) for one float32."""
    t = -TWO_32 * x if x > 0 else TWO_32 * x
    t = FLAT_32 if t < FLAT_32 else t
    q, shifted = parts_float32(t)
    power = scale(ONE_32, shifted)
    e = multiply_add(power, q, power - ONE_32)
    e_lost = multiply_add(power, q, (power - ONE_32) - e)
    d = e + TWO_32
    d_lost = (e - (d - TWO_32)) + e_lost
    per_d = ONE_32 / d
    size = -e * per_d
    missing = (multiply_add(-size, d, -e) - e_lost) - size * d_lost
    size = multiply_add(missing, per_d, size)
    size = -size if x < 0 else size
    return x if x == 0 else size


# ---- float64 ----------------------------------------------------------------------------------------

LARGEST_64, SMALLEST_64 = 710.0, -746.0
PER_LN2_64 = 1.4426950408889634
ROUND_64 = 1.5 * 2.0**52 + 2 * 1023
ROUND_NORMAL_64 = 1.5 * 2.0**52 + 1023
NOTHING_64 = -690.0
LN2_HIGH_64, LN2_LOW_64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # 33 bits and the rest
ONE_64, TWO_64, FLAT_64 = 1.0, 2.0, -80.0
P0_64, P1_64, P2_64 = 0.5, 0.1666666666666667, 0.04166666666666667
P3_64, P4_64, P5_64 = 0.008333333333326086, 0.0013888888888881044, 0.0001984126987496931
P6_64, P7_64, P8_64 = 2.4801587330672722e-05, 2.7557255228329665e-06, 2.755726967984683e-07
P9_64, P10_64 = 2.5105284114016776e-08, 2.091576633422056e-09


@inlined
def parts_float64(x: Any) -> Any:
    """q and k (plus ROUND), such that ``exp(x) = (1 + q) 2^k``."""
    shifted = multiply_add(x, PER_LN2_64, ROUND_64)
    k = shifted - ROUND_64
    high = x - k * LN2_HIGH_64
    low = k * LN2_LOW_64
    r = high - low
    lost = (high - r) - low
    p = multiply_add(P10_64, r, P9_64)
    p = multiply_add(p, r, P8_64)
    p = multiply_add(p, r, P7_64)
    p = multiply_add(p, r, P6_64)
    p = multiply_add(p, r, P5_64)
    p = multiply_add(p, r, P4_64)
    p = multiply_add(p, r, P3_64)
    p = multiply_add(p, r, P2_64)
    p = multiply_add(p, r, P1_64)
    p = multiply_add(p, r, P0_64)
    return r + multiply_add(r * r, p, lost), shifted


@inlined
def power_float64(x: Any, rounding: Any) -> Any:
    """exp(r), and k plus `rounding`."""
    shifted = multiply_add(x, PER_LN2_64, rounding)
    k = shifted - rounding
    r = multiply_add(k, -LN2_LOW_64, multiply_add(k, -LN2_HIGH_64, x))
    p = multiply_add(P10_64, r, P9_64)
    p = multiply_add(p, r, P8_64)
    p = multiply_add(p, r, P7_64)
    p = multiply_add(p, r, P6_64)
    p = multiply_add(p, r, P5_64)
    p = multiply_add(p, r, P4_64)
    p = multiply_add(p, r, P3_64)
    p = multiply_add(p, r, P2_64)
    p = multiply_add(p, r, P1_64)
    p = multiply_add(p, r, P0_64)
    return multiply_add(multiply_add(p, r, ONE_64), r, ONE_64), shifted


def exp_float64(x: Any) -> Any:
    """exp(x) for one float64."""
    x = LARGEST_64 if x > LARGEST_64 else x
    x = SMALLEST_64 if x < SMALLEST_64 else x
    y, shifted = power_float64(x, ROUND_64)
    return scale(y, shifted)


def exp_nonpositive_float64(x: Any) -> Any:
    """exp(x) for one float64 that is not above 0; next to nothing is 0."""
    y, shifted = power_float64(x, ROUND_NORMAL_64)
    return 0.0 if x < NOTHING_64 else scale_normal(y, shifted)


def tanh_float64(x: Any) -> Any:
    """tanh(x) for one float64."""
    t = -TWO_64 * x if x > 0 else TWO_64 * x
    t = FLAT_64 if t < FLAT_64 else t
    q, shifted = parts_float64(t)
    power = scale(ONE_64, shifted)
    e = multiply_add(power, q, power - ONE_64)
    e_lost = multiply_add(power, q, (power - ONE_64) - e)
    d = e + TWO_64
    d_lost = (e - (d - TWO_64)) + e_lost
    per_d = ONE_64 / d
    size = -e * per_d
    missing = (multiply_add(-size, d, -e) - e_lost) - size * d_lost
    size = multiply_add(missing, per_d, size)
    size = -size if x < 0 else size
    return x if x == 0 else size


# ---- for both ---------------------------------------------------------------------------------------


@compiled_as({types.float32: exp_float32, types.float64: exp_float64})
def exp(x: Any) -> Any:
    """e to the power x."""
    return np.exp(x)


@compiled_as({types.float32: exp_nonpositive_float32, types.float64: exp_nonpositive_float64})
def exp_nonpositive(x: Any) -> Any:
    """e to the power x, for x that is not above 0; beside 1, next to nothing is 0."""
    return np.exp(x)


@compiled_as({types.float32: tanh_float32, types.float64: tanh_float64})
def tanh(x: Any) -> Any:
    """The hyperbolic tangent of x."""
    return np.tanh(x)
