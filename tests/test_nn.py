"""The network from scratch: its layers, batches and training loop, on nbops's ops and on TensorFlow's."""

from __future__ import annotations

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import nbops
import nbops.tensorflow
from nbops import nn
from nbops.nn import BatchGenerator, NaiveDense, NaiveSequential

SUBSET = Path(__file__).parents[1] / "examples" / "data" / "mnist_subset.npz"


@pytest.fixture(scope="module")
def digits():
    with np.load(SUBSET) as file:
        images = {
            part: file[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255 for part in ("train", "test")
        }
        return images["train"], file["y_train"], images["test"], file["y_test"]


def make_model(ops: str, sizes=(784, 512, 10), seed: int = 0) -> NaiveSequential:
    rng = np.random.default_rng(seed)
    activations = ["relu"] * (len(sizes) - 2) + ["softmax"]
    return NaiveSequential(
        [
            NaiveDense(size, next_size, activation, ops=ops, seed=rng)
            for size, next_size, activation in zip(sizes[:-1], sizes[1:], activations, strict=True)
        ]
    )


# ---- the model --------------------------------------------------------------------------------------


def test_initial_weights_are_the_book_s():
    layer = NaiveDense(784, 512, "relu", seed=3)
    assert (layer.W.shape, layer.b.shape) == ((784, 512), (512,))
    assert layer.W.dtype == layer.b.dtype == tf.float32
    assert layer.weights[0] is layer.W
    assert layer.weights[1] is layer.b
    w = layer.W.numpy()
    assert w.min() >= 0
    assert w.max() < 0.1
    assert abs(w.mean() - 0.05) < 1e-3
    assert abs(w.std() - 0.1 / math.sqrt(12)) < 1e-3
    assert not layer.b.numpy().any()


def test_a_seed_gives_both_ops_the_same_weights():
    ours, theirs = make_model("nbops", seed=7), make_model("tensorflow", seed=7)
    for a, b in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert not np.array_equal(ours.weights[0].numpy(), make_model("nbops", seed=8).weights[0].numpy())
    assert not np.array_equal(NaiveDense(3, 4).W.numpy(), NaiveDense(3, 4).W.numpy())


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (None, lambda z: z),
        ("linear", lambda z: z),
        ("relu", lambda z: np.maximum(z, 0)),
        (nbops.relu, lambda z: np.maximum(z, 0)),
        (tf.nn.relu, lambda z: np.maximum(z, 0)),
        ("sigmoid", lambda z: 1 / (1 + np.exp(-z))),
        (tf.nn.tanh, np.tanh),
        (nbops.softmax, lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)),
        (tf.nn.softmax, lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)),
        (lambda z: z * z, lambda z: z * z),
    ],
)
def test_dense_is_activation_of_product_and_bias(ops, activation, expected, rng):
    layer = NaiveDense(5, 4, activation, ops=ops, seed=0)
    layer.b.assign(rng.normal(size=4))
    x = rng.normal(size=(3, 5)).astype(np.float32)
    z = x.astype(np.float64) @ layer.W.numpy() + layer.b.numpy()
    y = layer(tf.constant(x))
    assert isinstance(y, tf.Tensor)
    np.testing.assert_allclose(y, expected(z), rtol=1e-5, atol=1e-6)


def test_what_a_model_cannot_be_made_of():
    with pytest.raises(ValueError, match="unknown activation 'rleu'; expected one of 'linear', 'relu'"):
        NaiveDense(2, 2, "rleu")
    with pytest.raises(TypeError, match="activation is 3"):
        NaiveDense(2, 2, 3)
    with pytest.raises(ValueError, match="sizes are 2 and 0"):
        NaiveDense(2, 0)
    with pytest.raises(ValueError, match="ops is 'torch'; expected one of 'nbops', 'tensorflow'"):
        NaiveDense(2, 2, ops="torch")
    with pytest.raises(ValueError, match="no layers"):
        NaiveSequential([])
    with pytest.raises(ValueError, match="nbops and tensorflow"):
        NaiveSequential([NaiveDense(2, 2), NaiveDense(2, 2, ops="tensorflow")])


# ---- batches ----------------------------------------------------------------------------------------


def test_batches_by_next_as_in_the_book():
    images, labels = np.arange(20).reshape(10, 2), np.arange(10)
    batches = BatchGenerator(images, labels, batch_size=4)
    assert batches.num_batches == len(batches) == 3
    got = [batches.next() for _ in range(batches.num_batches)]
    assert [len(y) for _, y in got] == [4, 4, 2]  # the last partial batch is not lost
    np.testing.assert_array_equal(np.concatenate([x for x, _ in got]), images)
    np.testing.assert_array_equal(np.concatenate([y for _, y in got]), labels)
    with pytest.raises(StopIteration):
        batches.next()


def test_batches_by_iteration_start_again():
    batches = BatchGenerator(np.zeros((10, 2)), np.arange(10), batch_size=5)
    batches.next()
    for _ in range(2):
        assert [list(y) for _, y in batches] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_shuffled_batches():
    images, labels = np.arange(100)[:, None] * 2, np.arange(100)
    batches, same = (BatchGenerator(images, labels, 32, shuffle_seed=5) for _ in range(2))
    epochs = []
    for _ in range(2):
        got, again = list(batches), list(same)
        assert [len(y) for _, y in got] == [32, 32, 32, 4]
        for (x, y), (x2, y2) in zip(got, again, strict=True):
            np.testing.assert_array_equal(x[:, 0], y * 2)  # images keep their labels
            np.testing.assert_array_equal(y, y2)
            np.testing.assert_array_equal(x, x2)
        epochs.append(np.concatenate([y for _, y in got]))
        np.testing.assert_array_equal(np.sort(epochs[-1]), labels)
    assert not np.array_equal(*epochs)


def test_batches_of_what_does_not_fit():
    assert list(BatchGenerator(np.zeros((0, 3)), np.zeros(0))) == []
    with pytest.raises(ValueError, match="3 images came with 2 labels"):
        BatchGenerator(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        BatchGenerator(np.zeros(3), np.zeros(3), 0)


def test_batches_need_no_tensorflow(run_python):
    run_python("import sys, nbops.data; assert 'tensorflow' not in sys.modules")


# ---- gradients --------------------------------------------------------------------------------------


def test_the_gradients_that_the_notebook_prints(rng):
    x = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.multiply(2.0, x), 3.0)
    assert tape.gradient(y, x).numpy() == 2.0

    w, b = tf.Variable(rng.random((2, 2)).astype(np.float32)), tf.Variable(tf.zeros(2))
    x = tf.constant(rng.random((2, 2)).astype(np.float32))
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.matmul(w, x), b)
    by_w, by_b = tape.gradient(y, [w, b])
    np.testing.assert_array_equal(by_b, [2.0, 2.0])
    np.testing.assert_array_equal(by_w[0], by_w[1])
    np.testing.assert_allclose(by_w[0], x.numpy().sum(1), rtol=1e-6)


def test_update_weights_by_plain_gradient_descent():
    w, b = tf.Variable([1.0, 2.0]), tf.Variable(3.0)
    nn.update_weights([tf.constant([10.0, -10.0]), tf.constant(1.0)], [w, b], learning_rate=0.01)
    np.testing.assert_allclose(w, [0.9, 2.1], rtol=1e-6)
    np.testing.assert_allclose(b, 2.99, rtol=1e-6)
    nn.update_weights([tf.constant([1.0, 1.0])], [w])
    np.testing.assert_allclose(w, [0.899, 2.099], rtol=1e-6)
    with pytest.raises(ValueError, match="1 gradients came for 2 weights"):
        nn.update_weights([tf.constant([1.0, 1.0])], [w, b])


def test_update_weights_by_a_keras_optimizer():
    w = tf.Variable([1.0, 2.0])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    for _ in range(2):
        nn.update_weights([tf.constant([1.0, 2.0])], [w], optimizer=optimizer)
    np.testing.assert_allclose(w, [1 - 0.1 - 0.15, 2 - 0.2 - 0.3], rtol=1e-6)


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
def test_one_training_step_by_hand(ops, rng):
    model = make_model(ops, (6, 5, 4))
    before = [w.numpy().astype(np.float64) for w in model.weights]
    x, labels = rng.random((7, 6)).astype(np.float32), rng.integers(0, 4, 7)

    w1, b1, w2, b2 = before
    hidden = np.maximum(x @ w1 + b1, 0)
    z = hidden @ w2 + b2
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    expected_loss = -np.log(p[np.arange(7), labels]).mean()
    dz = (p - np.eye(4)[labels]) / 7
    dhidden = dz @ w2.T * (hidden > 0)
    gradients = [x.T @ dhidden, dhidden.sum(0), hidden.T @ dz, dz.sum(0)]

    loss = nn.one_training_step(model, tf.constant(x), tf.constant(labels), 0.5)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected_loss, rel=1e-5)
    for w, old, gradient in zip(model.weights, before, gradients, strict=True):
        np.testing.assert_allclose(w.numpy(), old - 0.5 * gradient, rtol=1e-4, atol=1e-6)


# ---- the traced step --------------------------------------------------------------------------------


def graph_ops(graph) -> set[str]:
    """The types of all ops in a graph and in the functions that it calls."""
    definition = graph.as_graph_def()
    nodes = [
        *definition.node,
        *(node for function in definition.library.function for node in function.node_def),
    ]
    return {node.op for node in nodes}


@pytest.mark.parametrize("optimizer", [None, "rmsprop", "adam"])
def test_the_traced_step_holds_nbops_ops_only(optimizer):
    if not nbops.tensorflow.uses_registered_ops:
        pytest.skip("the fallback runs ops as PyFunc")
    optimizer = optimizer and keras.optimizers.get(optimizer)
    images, labels = np.zeros((5, 784), np.float32), np.zeros(5, np.uint8)
    model = make_model("nbops")
    step = nn.compile_training_step(model, images, labels, optimizer=optimizer)
    found = graph_ops(step.get_concrete_function(images, labels).graph)
    assert {name for name in found if name.startswith("Nbops")}
    forbidden = {
        "PyFunc",
        "EagerPyFunc",
        "PyFuncStateless",
        "MatMul",
        "BatchMatMulV2",
        "Relu",
        "ReluGrad",
        "Softmax",
    }
    assert not found & forbidden

    theirs = nn.compile_training_step(make_model("tensorflow"), images, labels)
    found = graph_ops(theirs.get_concrete_function(images, labels).graph)
    assert {"MatMul", "Relu"} <= found
    assert not {name for name in found if name.startswith("Nbops")}


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
def test_a_shorter_last_batch_is_not_traced_again(ops):
    images, labels = np.zeros((10, 6), np.float32), np.zeros(10, np.int64)
    step = nn.compile_training_step(make_model(ops, (6, 4)), images, labels)
    for images_batch, labels_batch in BatchGenerator(images, labels, 4):
        step(images_batch, labels_batch)
    assert step.experimental_get_tracing_count() == 1


# ---- training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [None, "adam", "rmsprop"])
def test_both_ops_give_the_same_losses(digits, optimizer):
    images, labels, *_ = digits
    losses = []
    for ops in ("nbops", "tensorflow"):
        chosen = optimizer and keras.optimizers.get(optimizer)
        (epoch,) = nn.fit(make_model(ops), images, labels, epochs=1, optimizer=chosen)
        losses.append(epoch.losses)
    assert len(losses[0]) == math.ceil(len(images) / 128)
    # RMSprop's first steps throw this model far: after ten, 1e-7 in a weight is 1e-2 in the loss.
    compared = slice(6) if optimizer == "rmsprop" else slice(None)
    np.testing.assert_allclose(losses[0][compared], losses[1][compared], rtol=0, atol=1e-3)


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
def test_a_step_is_the_same_eager_and_traced(ops, rng):
    images, labels = rng.random((8, 6)).astype(np.float32), rng.integers(0, 4, 8)
    losses = []
    for traced in (False, True):
        model = make_model(ops, (6, 4))
        model.layers[0].W.assign(model.layers[0].W * 2000)  # some probabilities are clipped
        step = nn.compile_training_step(model, images, labels)
        loss = step(images, labels)[0] if traced else nn.one_training_step(model, images, labels)
        losses.append([float(loss), *model.weights[1].numpy()])
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-7)


def test_training_learns(digits):
    images, labels, test_images, test_labels = digits
    model = make_model("nbops")
    history = nn.fit(
        model, images, labels, epochs=6, optimizer=keras.optimizers.Adam(3e-3), shuffle_seed=0, batch_size=64
    )
    assert [epoch.number for epoch in history] == list(range(6))
    assert all(epoch.seconds > 0 for epoch in history)
    assert np.mean(history[-1].losses) < 0.5 * np.mean(history[0].losses)
    loss, accuracy = nn.evaluate(model, test_images, test_labels)
    assert accuracy > 0.8
    assert loss < 1.0


@pytest.mark.parametrize("optimizer", [None, "rmsprop"])
def test_training_goes_on_where_it_stopped(digits, optimizer):
    images, labels = digits[0][:300], digits[1][:300]
    ends = []
    for rounds in ((2,), (1, 1)):
        model, chosen = make_model("nbops"), optimizer and keras.optimizers.get(optimizer)
        for epochs in rounds:
            nn.fit(model, images, labels, epochs, optimizer=chosen)
        ends.append([w.numpy() for w in model.weights])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)
    nn.fit(model, images[:7], labels[:7], 1, batch_size=3, optimizer=chosen)  # other shapes are welcome


def test_fit_tells_its_progress():
    images, labels = np.random.default_rng(0).random((10, 6)), np.arange(10) % 4
    batches, epochs = [], []
    history = nn.fit(
        make_model("nbops", (6, 4)), images, labels, 2, 4, on_batch=batches.append, on_epoch=epochs.append
    )
    assert history == epochs
    assert [(p.epoch, p.batch, p.num_batches, p.batch_size) for p in batches] == [
        (epoch, batch, 3, size) for epoch in range(2) for batch, size in enumerate((4, 4, 2))
    ]
    assert [p.loss for p in batches] == history[0].losses + history[1].losses
    assert [p.accuracy for p in batches] == history[0].accuracies + history[1].accuracies


def test_fit_leaves_its_inputs_alone():
    images, labels = np.random.default_rng(0).random((10, 6)), np.arange(10) % 4
    copies = images.copy(), labels.copy()
    images.flags.writeable = labels.flags.writeable = False
    nn.fit(make_model("nbops", (6, 4)), images, labels, 1, 4, shuffle_seed=0)
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


def test_fit_of_nothing():
    model = make_model("nbops", (6, 4))
    assert nn.fit(model, np.zeros((1, 6)), [0], 0) == []
    with pytest.raises(ValueError, match="at least one image"):
        nn.fit(model, np.zeros((0, 6)), np.zeros(0, int), 1)
    with pytest.raises(ValueError, match="-1 epochs"):
        nn.fit(model, np.zeros((1, 6)), [0], -1)
    with pytest.raises(ValueError, match="2 images came with 1 labels"):
        nn.fit(model, np.zeros((2, 6)), [0], 1)


def test_evaluate_and_predict(rng):
    model = make_model("nbops", (6, 4))
    images, labels = rng.random((25, 6)), rng.integers(0, 4, 25)
    p = nn.predict(model, images, batch_size=10)
    assert p.shape == (25, 4)
    np.testing.assert_allclose(p, model(tf.constant(images, tf.float32)), rtol=1e-6)
    loss, accuracy = nn.evaluate(model, images, labels, batch_size=10)
    assert loss == pytest.approx(-np.log(p[np.arange(25), labels]).mean(), rel=1e-5)
    assert accuracy == np.mean(p.argmax(1) == labels)
    with pytest.raises(ValueError, match="25 images came with 3 labels"):
        nn.evaluate(model, images, labels[:3])
    with pytest.raises(ValueError, match="0 images"):
        nn.evaluate(model, images[:0], labels[:0])
