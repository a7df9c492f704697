"""nbops.optimizers against Keras's: the same weights, eager and in a graph; rows alone as a gradient."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from nbops import optimizers  # noqa: E402

# Numbers that float32 has exactly: Keras keeps its rate in float32.
PAIRS = {
    "sgd": (lambda: optimizers.SGD(0.125), lambda: keras.optimizers.SGD(0.125)),
    "rmsprop": (lambda: optimizers.RMSprop(0.125, 0.75), lambda: keras.optimizers.RMSprop(0.125, 0.75)),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PAIRS)
def test_the_same_weights_as_keras(name, dtype, traced, rng):
    gradients = [rng.standard_normal((5, 3)).astype(dtype) for _ in range(4)]
    start = rng.standard_normal((5, 3)).astype(dtype)
    weights = []
    for make in PAIRS[name]:
        optimizer, w = make(), tf.Variable(start)
        optimizer.build([w])

        def step(gradient, optimizer=optimizer, w=w):
            optimizer.apply_gradients([(gradient, w)])

        step = tf.function(step) if traced else step
        for gradient in gradients:
            step(tf.constant(gradient))
        weights.append(w.numpy())
    assert weights[0].dtype == dtype
    assert not np.array_equal(weights[0], start)
    np.testing.assert_allclose(*weights, rtol=20 * np.finfo(dtype).eps, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", PAIRS)
def test_rows_alone_are_a_gradient(name):
    w, optimizer = tf.Variable([[1.0], [2.0], [3.0]]), PAIRS[name][0]()
    rows = tf.IndexedSlices(tf.constant([[4.0]]), tf.constant([1]), tf.constant([3, 1]))
    optimizer.apply_gradients([(rows, w)])
    assert w.numpy()[[0, 2]].tolist() == [[1.0], [3.0]]
    assert w.numpy()[1, 0] < 2


def test_the_state_is_one_variable_for_each_weight():
    weights, optimizer = [tf.Variable([1.0]), tf.Variable([[2.0]])], optimizers.RMSprop()
    for _ in range(2):
        optimizer.build(weights)
        assert [tuple(v.shape) for v in optimizer.variables] == [(1,), (1, 1)]
    optimizer.apply_gradients([(tf.constant([3.0]), weights[0])])
    np.testing.assert_allclose(optimizer.variables[0], [0.9], rtol=1e-6)  # (1 - rho) gradient²
