"""``nbops.sparse_categorical_crossentropy`` against Keras's own, alone and as a model's loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import nbops.keras

THEIRS, OURS = keras.losses.sparse_categorical_crossentropy, nbops.sparse_categorical_crossentropy

#: Of labels and predictions.
SHAPES = [
    ((6,), (6, 5)),
    ((6, 1), (6, 5)),
    ((2, 3), (2, 3, 5)),
    ((2, 3, 1), (2, 3, 5)),
    ((0,), (0, 5)),
    ((4,), (4, 1)),
]


def draw(rng: np.random.Generator, shapes: Any, dtype: str = "float32") -> tuple[np.ndarray, Any]:
    """Labels, and predictions that are as good as logits and, nearly all of them, as probabilities."""
    labels = rng.integers(0, shapes[1][-1], shapes[0])
    predictions = rng.uniform(0.05, 0.95, shapes[1])
    predictions[rng.random(shapes[1]) < 0.1] = 0  # clipped
    return labels, tf.cast(predictions, dtype)


def losses_and_gradients(loss: Any, labels: Any, predictions: Any, from_logits: bool) -> list[Any]:
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        values = loss(labels, predictions, from_logits=from_logits)
        total = tf.reduce_sum(values * values)  # upstream gradients that are not 1
    return [values, tape.gradient(total, predictions)]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_values_and_gradients(shapes: Any, from_logits: bool, traced: bool, rng: np.random.Generator) -> None:
    labels, predictions = draw(rng, shapes)
    results = []
    for loss in (OURS, THEIRS):
        compute = tf.function(losses_and_gradients) if traced else losses_and_gradients
        results.append(compute(loss, tf.constant(labels), predictions, from_logits))
    for ours, theirs in zip(*results, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("labels_dtype", ["uint8", "int32", "int64", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(dtype: str, labels_dtype: str, from_logits: bool, rng: np.random.Generator) -> None:
    """The loss has the dtype of the predictions; labels have any, as Keras's pipelines pass them."""
    labels, _ = draw(rng, ((20,), (20, 5)))
    predictions = tf.cast(rng.uniform(0.05, 0.95, (20, 5)), dtype)
    ours, theirs = (loss(tf.cast(labels, labels_dtype), predictions, from_logits) for loss in (OURS, THEIRS))
    assert ours.dtype == theirs.dtype == dtype
    tolerance = {"float64": 1e-6, "float32": 1e-5, "float16": 4e-3, "bfloat16": 4e-2}[dtype]  # Keras's: ε is
    np.testing.assert_allclose(  # 1e-7 as a float32, and below float64's sum of shares
        np.asarray(ours, np.float64), np.asarray(theirs, np.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [
        (np.zeros(3, int), np.ones((4, 5))),
        (np.zeros((3, 2), int), np.ones((3, 5))),
    ],
)
def test_what_keras_refuses_is_refused(labels: Any, predictions: Any) -> None:
    for loss in (OURS, THEIRS):
        with pytest.raises(ValueError):  # noqa: PT011  (each in its own words)
            loss(tf.constant(labels), tf.constant(predictions))


# ---- as a model's loss -----------------------------------------------------------------------------------


def trained(loss: Any, rng: np.random.Generator, **options: Any) -> list[Any]:
    """Losses of two epochs, an evaluation and the weights of a model that labels each of four places."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((4, 6)),
            keras.layers.Masking(),
            nbops.keras.Dense(8, "relu"),
            nbops.keras.Dense(5, "softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.5), loss, weighted_metrics=["accuracy"])
    x, y = rng.normal(size=(30, 4, 6)), rng.integers(0, 5, (30, 4))
    x[rng.random((30, 4)) < 0.2] = 0  # masked: these places have no loss
    if "sample_weight" in options:
        options["sample_weight"] = rng.uniform(0, 2, options["sample_weight"])
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False, **options).history
    return [history["loss"], history["accuracy"], model.evaluate(x, y, verbose=0), *model.get_weights()]


@pytest.mark.parametrize("options", [{}, {"sample_weight": (30, 1)}, {"sample_weight": (30, 4)}], ids=str)
def test_masks_weights_and_reductions_of_a_model(options: Any, rng: np.random.Generator) -> None:
    """Keras masks, weights and averages what the function gives, one loss per label."""
    seed = int(rng.integers(2**31))
    ours, theirs = (trained(loss, np.random.default_rng(seed), **options) for loss in (OURS, THEIRS))
    assert theirs[0][1] < theirs[0][0]  # it learns
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size", "mean_with_sample_weight", None])
@pytest.mark.parametrize("from_logits", [False, True])
def test_in_a_loss_of_keras(reduction: str | None, from_logits: bool, rng: np.random.Generator) -> None:
    """`keras.losses.Loss` with the function inside: its reductions, sample weights and dtype."""

    class Loss(keras.losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return OURS(y_true, y_pred, from_logits)

    labels, predictions = draw(rng, ((6,), (6, 5)), "float64")
    weights = rng.uniform(0, 2, 6)
    ours = Loss(reduction=reduction)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits, reduction=reduction)
    for sample_weight in (None, weights):
        a, b = (loss(labels, predictions, sample_weight) for loss in (ours, theirs))
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_model_with_the_loss_is_saved_and_loaded(tmp_path: Any, rng: np.random.Generator) -> None:
    model = keras.Sequential([keras.Input((6,)), nbops.keras.Dense(5, "softmax")])
    model.compile("sgd", OURS)
    x, y = rng.normal(size=(30, 6)), rng.integers(0, 5, 30)
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
