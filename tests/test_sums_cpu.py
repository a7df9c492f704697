"""Sums, means and dot products: accurate in blocks and lanes, and the same for any number of threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.tuned.streaming import CACHE_BYTES
from nbops.tuned.sums_cpu import BLOCK

LENGTHS = [0, 1, 63, 64, 65, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_against_exact_sums(length: int, dtype: Any, rng: np.random.Generator) -> None:
    x, y = rng.random(length).astype(dtype), rng.random(length).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    assert float(nbops.sum(x)) == pytest.approx(math.fsum(x.tolist()), rel=eps, abs=0)
    products = (x.astype(np.longdouble) * y.astype(np.longdouble)).sum()
    assert float(nbops.vecdot(x, y)) == pytest.approx(float(products), rel=4 * eps, abs=0)


def test_float32_keeps_what_a_float32_total_would_lose() -> None:
    x = np.full(1 << 25, 0.1, np.float32)
    assert float(nbops.sum(x)) == pytest.approx((1 << 25) * float(np.float32(0.1)), rel=1e-7)
    assert float(nbops.mean(x)) == pytest.approx(float(np.float32(0.1)), rel=1e-7)
    assert float(nbops.vecdot(x, x)) == pytest.approx((1 << 25) * float(np.float32(0.1)) ** 2, rel=1e-7)
    assert nbops.sum(np.array([3e38, 3e38, -3e38], np.float32)) == np.float32(3e38)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8])
def test_threads_change_no_bit(dtype: Any, rng: np.random.Generator) -> None:
    in_memory = CACHE_BYTES // np.dtype(dtype).itemsize + 77
    for length in (1, 1000, BLOCK + 5, 20 * BLOCK + 77, in_memory):
        x, y = (rng.uniform(0, 100, length).astype(dtype) for _ in range(2))
        with nbops.use("serial"):
            expected = nbops.sum(x), nbops.vecdot(x, y)
        for threads in (1, 2, 3):
            with nbops.use("parallel", threads=threads):
                assert (nbops.sum(x), nbops.vecdot(x, y)) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_is_summed_alike_alone_in_a_batch_and_strided(dtype: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, BLOCK + 99)).astype(dtype)
    strided = np.asfortranarray(x)
    for target in ("serial", "parallel"):
        with nbops.use(target):
            batch = nbops.sum(x, axis=1)
            assert batch.tolist() == [nbops.sum(row) for row in x]
            assert nbops.vecdot(x, x).tolist() == [nbops.vecdot(row, row) for row in x]
            assert nbops.vecdot(strided, strided).tolist() == nbops.vecdot(x, x).tolist()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
def test_integers_wrap_around_as_in_numpy(dtype: str, target: str) -> None:
    x = np.arange(300).astype(dtype)
    with nbops.use(target):
        assert nbops.vecdot(x, x) == np.vecdot(x, x)
        assert nbops.vecdot(x, x).dtype == x.dtype
        assert nbops.sum(x) == x.sum()


def test_nan_and_infinity_are_not_lost() -> None:
    for length in (10, 200, 2 * BLOCK):
        for place in (0, length // 2, length - 1):
            x = np.ones(length, np.float32)
            x[place] = np.nan
            assert np.isnan(nbops.sum(x))
            x[place] = np.inf
            assert nbops.sum(x) == np.inf
            assert np.isnan(nbops.vecdot(x, np.where(x == 1, x, 0)))
