"""Activations over the rows of a dense layer: outputs of any layout, shared between cores, and their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.testing import LAYOUTS


def shares(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


ACTIVATIONS: dict[str, Any] = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh, "softmax": shares}


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_outputs_of_every_layout_have_the_same_bits(
    activation: str, dtype: Any, threads: int, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 7, 33)).astype(dtype)
    w, b = rng.standard_normal((33, 70)).astype(dtype), rng.standard_normal(70).astype(dtype)
    exact = ACTIVATIONS[activation](x.astype(float) @ w.astype(float) + b)
    with nbops.use(threads=1):
        first = nbops.dense(x, w, b, activation)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(first, exact, rtol=200 * eps, atol=200 * eps)  # of sums of 33 products
    for name in "contiguous", "fortran", "sliced", "reversed", "misaligned":
        out = LAYOUTS[name](np.full((2, 7, 70), np.nan, dtype))
        with nbops.use(threads=threads):
            nbops.dense(x, w, b, activation, out=out)
        assert np.array_equal(out, first), name


@pytest.mark.parametrize("shape", [(0, 5), (1, 5), (3, 0), (1, 1)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_few_rows_and_columns(activation: str, shape: tuple[int, int]) -> None:
    x, w = np.ones((shape[0], 4), np.float32), np.ones((4, shape[1]), np.float32)
    with nbops.use("parallel"):
        out = nbops.dense(x, w, np.zeros(shape[1], np.float32), activation)
    assert out.shape == shape
    assert np.isfinite(out).all()


@pytest.mark.parametrize("n", [1, 10, 63, 64, 65, 1000])
def test_softmax_in_place_has_the_same_bits(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, n)).astype(np.float32) * 30
    expected = nbops.softmax(x)
    assert nbops.softmax(x, out=x) is x
    assert np.array_equal(x, expected)
