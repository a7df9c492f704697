"""The exponential that compiled loops use: every range of float32 and float64, special values, vectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

import nbops
from nbops import compiler
from nbops.ops.softmax import exp_below
from nbops.tuned.exponential import exp, exp_nonpositive

NAN, INF = np.nan, np.inf


needs_wider = pytest.mark.skipif(
    bool(np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps),
    reason="no floating point wider than float64",
)


def errors_in_ulp(result: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The distance from a wider number, in units of the last place of the result's dtype."""
    info = np.finfo(result.dtype)
    last_place = np.maximum(np.spacing(np.abs(exact).astype(result.dtype)), info.smallest_subnormal)
    return np.asarray(np.abs((result.astype(exact.dtype) - exact) / last_place.astype(exact.dtype)))


def test_float32_is_within_one_ulp_in_every_exponent_range() -> None:
    largest, smallest = np.float32(88.722), np.float32(103.9)
    worst = 0.0
    for bound, sign in ((largest, 0), (smallest, 1 << 31)):
        bits = np.arange(0, bound.view(np.uint32), 509, dtype=np.uint32) | np.uint32(sign)
        x = bits.view(np.float32)
        worst = max(worst, errors_in_ulp(nbops.exp(x), np.exp(x.astype(np.float64))).max())
    assert worst < 1


@needs_wider
@pytest.mark.parametrize(
    ("low", "high"), [(-745.1, -708), (-708, -1), (-1, -1e-3), (-1e-3, 1e-3), (1e-3, 1), (1, 709.78)]
)
def test_float64_is_within_one_ulp(low: float, high: float, rng: np.random.Generator) -> None:
    x = rng.uniform(low, high, 100_000)
    assert errors_in_ulp(nbops.exp(x), np.exp(x.astype(np.longdouble))).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
def test_special_values(dtype: Any, target: str) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([NAN, INF, -INF, 0.0, -0.0, tiny, -tiny, 1e30, -1e30], dtype)
    expected = np.array([NAN, INF, 0, 1, 1, 1, 1, INF, 0], dtype)
    np.testing.assert_array_equal(nbops.exp(x, target=target), expected)


@pytest.mark.parametrize(
    ("dtype", "finite", "infinite", "subnormal", "zero"),
    [(np.float32, 88.72283, 88.72284, -103.97, -103.98), (np.float64, 709.7827, 709.7828, -745.13, -745.14)],
)
def test_edges_of_the_range(
    dtype: Any, finite: float, infinite: float, subnormal: float, zero: float
) -> None:
    result = nbops.exp(np.array([finite, infinite, subnormal, zero], dtype))
    assert np.isfinite(result).tolist() == [True, False, True, True]
    assert result[2] == np.finfo(dtype).smallest_subnormal
    assert result[3] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_length_and_place_gives_the_same_bits(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.uniform(-20, 20, 100).astype(dtype)
    whole = nbops.exp(x)
    for length in range(1, 40):
        assert np.array_equal(nbops.exp(x[3 : 3 + length]), whole[3 : 3 + length])
    assert np.array_equal(nbops.exp(x[::-3]), whole[::-3])


@needs_wider
@pytest.mark.parametrize(("dtype", "wider"), [(np.float32, np.float64), (np.float64, np.longdouble)])
def test_tanh_is_within_two_ulp(dtype: Any, wider: Any, rng: np.random.Generator) -> None:
    for bound in (1e-30, 1e-3, 0.3, 0.7, 3, 25):
        x = rng.uniform(-bound, bound, 100_000).astype(dtype)
        assert errors_in_ulp(nbops.tanh(x), np.tanh(x.astype(wider))).max() <= 2
    x = np.array([NAN, INF, -INF, 30.0, -30.0], dtype)
    np.testing.assert_array_equal(nbops.tanh(x), np.array([NAN, 1, -1, 1, -1], dtype))
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, tiny, -tiny], dtype)
    assert nbops.tanh(x).tobytes() == x.tobytes()


def _fill(x: Any, out: Any) -> None:
    for j in range(x.shape[0]):
        out[j] = exp(x[j])


@pytest.mark.parametrize(("dtype", "packed"), [(np.float32, "ps"), (np.float64, "pd")])
def test_loops_become_vector_instructions(dtype: Any, packed: str) -> None:
    compiled: Callable[..., Any] = njit(**compiler.FLAGS)(_fill)
    x = np.ones(100, dtype)
    compiled(x, np.empty_like(x))
    assembly = next(iter(compiled.inspect_asm().values()))  # type: ignore[attr-defined]
    if "%rsp" not in assembly and "%rdi" not in assembly:
        pytest.skip("not an x86 processor")
    assert re.search(rf"v?(fn?m|mul|add)\w*{packed}\s.*%[xyz]mm", assembly)
    assert not re.search(r"call\w*\s.*\bexpf?\b", assembly)


def test_a_helper_is_plain_when_interpreted() -> None:
    x, out = np.array([1.0, 2.0]), np.empty(2)
    assert exp(np.float32(1)) == np.exp(np.float32(1))
    assert exp_below(x, 2.0, out) == np.exp(-1.0) + 1


@njit
def shares(x: Any, out: Any) -> None:
    for j in range(x.shape[0]):
        out[j] = exp_nonpositive(x[j])


def shares_of(x: np.ndarray) -> np.ndarray:
    out = np.full_like(x, NAN)
    shares(x, out)
    return out


@pytest.mark.parametrize(("dtype", "nothing"), [(np.float32, -80.0), (np.float64, -690.0)])
def test_what_is_next_to_nothing_counts_as_nothing(dtype: Any, nothing: float) -> None:
    below = np.nextafter(dtype(nothing), dtype(-INF))
    x = np.array([0.0, -0.0, nothing, below, -1e30, -INF, NAN], dtype)
    result = shares_of(x)
    np.testing.assert_array_equal(result[[0, 1, 3, 4, 5, 6]], np.array([1, 1, 0, 0, 0, NAN], dtype))
    np.testing.assert_allclose(result[2], np.exp(dtype(nothing)), rtol=float(np.finfo(dtype).eps))


def test_shares_are_within_one_ulp_in_float32() -> None:
    bits = np.arange(0, np.float32(80).view(np.uint32), 509, dtype=np.uint32) | np.uint32(1 << 31)
    x = bits.view(np.float32)
    assert errors_in_ulp(shares_of(x), np.exp(x.astype(np.float64))).max() < 1


@needs_wider
def test_shares_are_within_one_ulp_in_float64(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.uniform(low, 0, 100_000) for low in (-690, -20, -1, -1e-3)])
    assert errors_in_ulp(shares_of(x), np.exp(x.astype(np.longdouble))).max() <= 1
