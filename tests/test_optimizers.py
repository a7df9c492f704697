"""nbops.optimizers against Keras's: the same weights, eager and in a graph; rows alone as a gradient."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import nbops  # noqa: E402
from nbops import optimizers  # noqa: E402
from nbops import tensorflow as bridge  # noqa: E402

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


def _dense_step(optimizer, weights, change=lambda gradient: gradient):
    """A step of gradient descent of one dense layer, to be traced."""

    @tf.function
    def step(x, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((nbops.dense(x, *weights, "tanh") - target) ** 2)
        gradients = [change(gradient) for gradient in tape.gradient(loss, weights)]
        optimizer.apply_gradients(zip(gradients, weights, strict=True))

    return step


@pytest.mark.skipif(not bridge.uses_registered_ops, reason="the fallback's graph has no ops of nbops")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_dense_layer_descends_in_one_product(dtype, rng):
    start = rng.standard_normal((5, 3)).astype(dtype), rng.standard_normal(3).astype(dtype)
    x, target = rng.standard_normal((7, 5)).astype(dtype), rng.standard_normal((7, 3)).astype(dtype)
    ends = []
    for optimizer in optimizers.SGD(0.125), keras.optimizers.SGD(0.125):
        weights = [tf.Variable(value) for value in start]
        step = _dense_step(optimizer, weights)
        used = {op.type for op in step.get_concrete_function(x, target).graph.get_operations()}
        assert ("NbopsGemmTNNN" in used) == isinstance(optimizer, optimizers.SGD)
        assert "NbopsSgdUpdate" not in used
        for _ in range(3):
            step(x, target)
        ends.append([w.numpy() for w in weights])
    for ours, theirs, before in zip(*ends, start, strict=True):
        assert not np.array_equal(ours, before)
        np.testing.assert_allclose(ours, theirs, rtol=50 * np.finfo(dtype).eps, atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("change", [lambda g: g, lambda g: tf.clip_by_norm(g, 0.01)])
@pytest.mark.parametrize("axes", [(), (2,)])
def test_gradients_that_are_changed_and_those_of_a_batch_of_matrices(axes, change, rng):
    start = rng.standard_normal((5, 3)), rng.standard_normal(3)
    x, target = rng.standard_normal((*axes, 7, 5)), rng.standard_normal((*axes, 7, 3))
    ends = []
    for optimizer in optimizers.SGD(0.125), keras.optimizers.SGD(0.125):
        weights = [tf.Variable(value) for value in start]
        _dense_step(optimizer, weights, change)(x, target)
        ends.append([w.numpy() for w in weights])
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("weight", "bias", "x", "rate"),
    [
        ((3, 3, 3), (3,), (3, 7, 3), [0.1, 0.2, 0.3]),
        ((5, 3), (3,), (7, 5), [0.1, 0.2, 0.3]),
        ((5, 3), (3,), (7, 5), np.uint8(1)),
        ((5, 3), (3,), (7, 5), np.float32(0.1)),
        ((5, 3), (3,), (7, 5), 1),
        ((5, 3), (2, 3), (2, 7, 5), 0.1),
        ((2, 5, 3), (2, 3), (2, 7, 5), 0.1),
        ((5, 0), (0,), (7, 5), 0.1),
        ((0, 3), (3,), (7, 0), 0.1),
        ((5, 3), (3,), (0, 5), 0.1),
    ],
)
def test_a_graph_and_eager_steps_agree_for_every_rate_and_shape(weight, bias, x, rate, rng):
    rate = np.array(rate, np.float32) if isinstance(rate, list) else rate
    start = [rng.standard_normal(shape).astype("float32") for shape in (weight, bias)]
    x = rng.standard_normal(x).astype("float32")
    ends = []
    for trace in (lambda step: step), tf.function:
        weights, optimizer = [tf.Variable(value) for value in start], optimizers.SGD(rate)

        @trace
        def step(weights=weights, optimizer=optimizer):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(nbops.dense(x, *weights, "tanh"))
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

        step()
        ends.append([w.numpy() for w in weights])
    for eager, graph in zip(*ends, strict=True):
        np.testing.assert_allclose(graph, eager, rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_wanted_too_is_still_there(rng):
    w, b = tf.Variable(rng.standard_normal((5, 3))), tf.Variable(np.zeros(3))
    x = rng.standard_normal((7, 5))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(nbops.dense(x, w, b))
        gradients = tape.gradient(loss, [w, b])
        optimizers.SGD(0.5).apply_gradients(zip(gradients, [w, b], strict=True))
        return gradients

    before = w.numpy()
    gradients = step()
    np.testing.assert_allclose(gradients[0], np.broadcast_to(x.sum(0)[:, None], (5, 3)))
    np.testing.assert_allclose(w, before - 0.5 * gradients[0].numpy())
    np.testing.assert_allclose(b, -0.5 * gradients[1].numpy())
