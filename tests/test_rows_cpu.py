"""softmax, log_softmax and cross-entropy row by row: accurate, and the same bits wherever a row stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.ops import logits, losses

LENGTHS = [1, 2, 10, 63, 64, 65, 127, 128, 200, 1000]
NAN, INF = np.nan, np.inf


def labels(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.arange(x.shape[0]) % x.shape[1])


def upstream(x: np.ndarray) -> np.ndarray:
    return np.linspace(0.5, 2, x.shape[0]).astype(x.dtype)


ROW_OPS: dict[str, Callable[[np.ndarray], Any]] = {
    "softmax": nbops.softmax,
    "log_softmax": nbops.log_softmax,
    "logits": lambda x: logits.crossentropy_from_logits(labels(x), x),
    "logits_gradient": lambda x: logits.crossentropy_from_logits_gradient(labels(x), x, upstream(x)),
    "both": lambda x: np.c_[logits.crossentropy_and_gradient(labels(x), x, upstream(x))],
    "probabilities": lambda x: losses.crossentropy_from_probabilities(labels(x), np.exp(-np.abs(x))),
    "probabilities_gradient": lambda x: losses.crossentropy_from_probabilities_gradient(
        labels(x), np.exp(-np.abs(x)), upstream(x)
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_softmax_of_every_length(length: int, dtype: Any, rng: np.random.Generator) -> None:
    x = rng.uniform(-4, 4, (5, length)).astype(dtype)
    wide = np.exp(x.astype(np.longdouble) - x.max(axis=1, keepdims=True))
    exact = wide / wide.sum(axis=1, keepdims=True)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(nbops.softmax(x), exact.astype(dtype), rtol=8 * eps)
    np.testing.assert_allclose(nbops.log_softmax(x), np.log(exact).astype(dtype), rtol=0, atol=16 * eps)
    loss = logits.crossentropy_from_logits(labels(x), x)
    expected = -np.log(exact)[np.arange(5), labels(x)]
    np.testing.assert_allclose(loss, expected.astype(dtype), rtol=0, atol=16 * eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROW_OPS)
def test_threads_and_the_other_rows_change_no_bit(name: str, dtype: Any, rng: np.random.Generator) -> None:
    for length in LENGTHS:
        x = (rng.standard_normal((7, length)) * 3).astype(dtype)
        with nbops.use("serial"):
            serial = ROW_OPS[name](x)
        with nbops.use("parallel"):
            assert np.array_equal(ROW_OPS[name](x), serial)
        if name in ("softmax", "log_softmax"):
            for i in range(7):
                assert np.array_equal(ROW_OPS[name](x[i]), serial[i])
            assert np.array_equal(ROW_OPS[name](np.asfortranarray(x)), serial)


@pytest.mark.parametrize("length", [3, 64, 70, 300])
@pytest.mark.parametrize("value", [NAN, INF])
def test_nan_anywhere_makes_its_row_nan(value: float, length: int) -> None:
    for place in {0, 1, length // 2, length - 1}:
        x = np.zeros((3, length), np.float32)
        x[1, place] = value
        assert np.isnan(nbops.softmax(x)).any(axis=1).tolist() == [False, True, False]
        if value != INF:
            assert np.isnan(nbops.softmax(x)[1]).all()
            assert np.isnan(nbops.log_softmax(x)[1]).all()
            assert np.isnan(logits.crossentropy_from_logits(np.zeros(3, int), x)).tolist() == [0, 1, 0]


@pytest.mark.parametrize("length", [3, 64, 70, 300])
def test_the_largest_element_may_stand_anywhere(length: int) -> None:
    for place in range(length):
        x = np.full(length, -500.0, np.float32)
        x[place] = 500
        expected = np.zeros(length, np.float32)
        expected[place] = 1
        assert np.array_equal(nbops.softmax(x), expected)
