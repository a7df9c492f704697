"""One training step: forwards, backwards, and the update of the weights; eager, or as a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nbops.optimizers import SGD
from nbops.tensorflow.on_caller import OnCaller

__all__ = ["compile_training_step", "one_training_step", "update_weights"]


def update_weights(
    gradients: Sequence[Any], weights: Sequence[Any], learning_rate: float = 1e-3, *, optimizer: Any = None
) -> None:
    """Move the weights against their gradients: ``w ← w - learning_rate × gradient``.

    Parameters
    ----------
    gradients : sequence of tf.Tensor
    weights : sequence of tf.Variable
    learning_rate : float
    optimizer : keras.optimizers.Optimizer, optional
        Updates the weights in its own way, with its own learning rate.

    Raises
    ------
    ValueError
        When there are not as many gradients as weights.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from nbops.nn import update_weights
    >>> w = tf.Variable([1.0, 2.0])
    >>> update_weights([tf.constant([10.0, 10.0])], [w], learning_rate=0.1)
    >>> w.numpy()
    array([0., 1.], dtype=float32)
    """
    if len(gradients) != len(weights):
        raise ValueError(f"update_weights: {len(gradients)} gradients came for {len(weights)} weights")
    if optimizer is not None:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return
    for gradient, weight in zip(gradients, weights, strict=True):
        if tf.distribute.has_strategy() or not isinstance(gradient, tf.Tensor):  # copies, or rows alone
            weight.assign_sub(learning_rate * gradient)
        else:
            rate = tf.cast(learning_rate, weight.dtype)
            tf.raw_ops.ResourceApplyGradientDescent(var=weight.handle, alpha=rate, delta=gradient)


def one_training_step(
    model: Any,
    images_batch: Any,
    labels_batch: Any,
    learning_rate: float = 1e-3,
    *,
    optimizer: Any = None,
) -> Any:
    """Run the model forwards, its gradients backwards, and update its weights.

    Parameters
    ----------
    model : NaiveSequential
    images_batch : tf.Tensor, shape (batch, ...)
    labels_batch : tf.Tensor of int, shape (batch,)
    learning_rate : float
    optimizer : keras.optimizers.Optimizer, optional

    Returns
    -------
    tf.Tensor, shape ()
        The batch's average loss, before the update.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from nbops.nn import NaiveDense, NaiveSequential, one_training_step
    >>> model = NaiveSequential([NaiveDense(4, 10, "softmax", seed=0)])
    >>> float(one_training_step(model, tf.zeros((2, 4)), tf.constant([3, 7]))).__round__(4)
    2.3026
    """
    return _step(model, images_batch, labels_batch, learning_rate, optimizer)[0]


def _step(model: Any, images: Any, labels: Any, learning_rate: float, optimizer: Any) -> tuple[Any, Any]:
    """One training step: the batch's average loss, and the predictions it was computed from."""
    with tf.GradientTape() as tape:
        predictions = model(images)
        per_sample_losses = model.ops.sparse_categorical_crossentropy(labels, predictions)
        average_loss = model.ops.mean(per_sample_losses)
    gradients = tape.gradient(average_loss, model.weights)
    if optimizer is None and model.ops.name == "nbops" and not tf.distribute.has_strategy():
        optimizer = SGD(learning_rate)
    update_weights(gradients, model.weights, learning_rate, optimizer=optimizer)
    return average_loss, predictions


def _share_right(labels: Any, predictions: Any) -> Any:
    matches = tf.argmax(predictions, axis=-1) == tf.cast(labels, tf.int64)
    return tf.reduce_mean(tf.cast(matches, tf.float32))


def compile_training_step(
    model: Any, images: Any, labels: Any, learning_rate: float = 1e-3, *, optimizer: Any = None
) -> Any:
    """`one_training_step` as a graph that takes a batch of any length.

    Parameters
    ----------
    model : NaiveSequential
    images : ndarray, shape (n, ...)
    labels : ndarray, shape (n,)
        These tell the shape and dtype of one image and label.
    learning_rate : float
    optimizer : keras.optimizers.Optimizer, optional

    Returns
    -------
    function
        Takes images and labels, and gives the average loss and the share of right predictions. It is a
        tf.function, traced once; a shorter last batch does not trace it again. On nbops's ops it runs on the
        calling thread (see `nbops.tensorflow.on_caller.OnCaller`).

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.nn import NaiveDense, NaiveSequential, compile_training_step
    >>> model = NaiveSequential([NaiveDense(4, 10, "softmax", seed=0)])
    >>> images, labels = np.zeros((2, 4), np.float32), np.array([3, 7])
    >>> loss, accuracy = compile_training_step(model, images, labels)(images, labels)
    >>> float(loss).__round__(4), float(accuracy)
    (2.3026, 0.0)
    """
    if optimizer is not None:
        optimizer.build(model.weights)  # its variables cannot be made inside a graph
    signature = [tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in (images, labels)]

    def training_step(images_batch: Any, labels_batch: Any) -> tuple[Any, Any]:
        loss, predictions = _step(model, images_batch, labels_batch, learning_rate, optimizer)
        return loss, _share_right(labels_batch, predictions)

    step = tf.function(training_step, input_signature=signature)
    if model.ops.name != "nbops":
        return step
    return OnCaller(step)
