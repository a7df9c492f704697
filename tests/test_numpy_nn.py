"""The network on NumPy arrays: the same weights as the formulas in float64, and as TensorFlow's model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.numpy_nn import SGD, Dense, RMSprop, Sequential, training_step

Array = np.ndarray


def by_formulas(
    weights: list[Array], x: Array, labels: Array, means: list[Array] | None, rate: float
) -> tuple[float, list[Array]]:
    """One step of a network of two layers in float64, and the weights after it."""
    w1, b1, w2, b2 = weights
    hidden = np.maximum(x @ w1 + b1, 0)
    z = hidden @ w2 + b2
    e = np.exp(z - z.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    rows = np.arange(len(x))
    loss = float(-np.log(p[rows, labels]).mean())
    p[rows, labels] -= 1
    dz = p / len(x)
    dh = (dz @ w2.T) * (hidden > 0)
    gradients = [x.T @ dh, dh.sum(0), hidden.T @ dz, dz.sum(0)]
    if means is not None:
        for v, g in zip(means, gradients, strict=True):
            v[...] = 0.9 * v + 0.1 * g * g
        gradients = [g / np.sqrt(v + 1e-7) for v, g in zip(means, gradients, strict=True)]
    return loss, [w - rate * g for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize("kind", [SGD, RMSprop])
@pytest.mark.parametrize("batch", [1, 5, 32])
def test_steps_follow_the_formulas(kind: Any, batch: int, rng: np.random.Generator) -> None:
    model = Sequential([Dense(20, 33, "relu", seed=1), Dense(33, 7, seed=2)])
    optimizer = kind(0.05)
    expected = [w.astype(np.float64) for w in model.weights]
    means = [np.zeros_like(w) for w in expected] if kind is RMSprop else None
    for _ in range(4):
        x, labels = rng.normal(size=(batch, 20)).astype(np.float32), rng.integers(0, 7, batch)
        loss = training_step(model, optimizer, x, labels)
        wanted, expected = by_formulas(expected, x.astype(np.float64), labels, means, 0.05)
        assert loss == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    for ours, theirs in zip(model.weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_a_shorter_last_batch_has_a_workspace_of_its_own(rng: np.random.Generator) -> None:
    model = Sequential([Dense(6, 3, seed=0)])
    losses = [
        training_step(model, SGD(0.1), np.ones((n, 6), np.float32), np.ones(n, np.int64)) for n in (4, 2, 4)
    ]
    assert losses == sorted(losses, reverse=True)


def test_it_needs_no_tensorflow(run_python: Any) -> None:
    run_python(
        """
        import sys
        sys.modules["tensorflow"] = None
        import numpy as np
        from nbops.numpy_nn import SGD, Dense, Sequential, training_step
        model = Sequential([Dense(6, 3, seed=0)])
        assert training_step(model, SGD(0.1), np.ones((4, 6), np.float32), np.zeros(4, np.int64)) > 0
        """
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(0, 3), "the sizes are 0 and 3"),
        (lambda: Dense(2, 3, "softmax"), "the last layer gives logits"),
        (lambda: Sequential([]), "there are no layers"),
        (lambda: Sequential([Dense(2, 3), Dense(4, 5)]), "3 outputs is followed by one with 4 inputs"),
    ],
)
def test_mistakes_say_what_they_are(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_product_of_gemm_is_added_in_place(rng: np.random.Generator) -> None:
    """The same bits as with a result of its own, on each way through the kernel and by the short way."""
    for m, k, n in ((1, 300, 40), (3, 7, 500), (70, 410, 130), (33, 5, 1)):
        a, b, c = (rng.normal(size=shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
        expected = nbops.gemm(a, b, c, np.float32(-0.5))
        for _ in range(3):
            own = c.copy()
            assert nbops.gemm(a, b, own, np.float32(-0.5), out=own) is own
            np.testing.assert_array_equal(own, expected)
        np.testing.assert_allclose(expected, c - 0.5 * (a.astype(float) @ b), atol=1e-4)


def test_gemm_onto_what_it_reads_is_as_if_onto_another_array(rng: np.random.Generator) -> None:
    a, b, c = (rng.normal(size=(50, 50)).astype(np.float32) for _ in range(3))
    expected = nbops.gemm(a, b, c, np.float32(2))
    for number in (0, 1):
        operands = [a.copy(), b.copy(), c.copy()]
        for _ in range(2):
            fresh = [x.copy() for x in operands]
            nbops.gemm(*fresh, np.float32(2), out=fresh[number])
            np.testing.assert_array_equal(fresh[number], expected)
    memory = np.zeros((51, 50), np.float32)
    memory[:50] = c
    np.testing.assert_array_equal(nbops.gemm(a, b, memory[:50], np.float32(2), out=memory[1:]), expected)
