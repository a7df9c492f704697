"""Optimizers for TensorFlow variables, updated by nbops's ops; `nbops.nn` takes them as it takes Keras's::

    fit(model, images, labels, epochs=5, optimizer=RMSprop(1e-3))

Importing this module imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from nbops.numpy_nn import rmsprop_mean_square, rmsprop_update, sgd_update
from nbops.ops.dense import dense_weight_gradient
from nbops.ops.gemm import gemm
from nbops.tensorflow import made_by

__all__ = ["SGD", "RMSprop"]


class SGD:
    """Plain gradient descent, ``w ← w - learning_rate gradient``.

    In a graph, a dense layer's gradient ``x.T @ dz`` and the step are one product, ``w - learning_rate
    x.T @ dz``. The gradient itself is computed, once more, only where something else uses it too.

    Parameters
    ----------
    learning_rate : float

    Examples
    --------
    >>> import tensorflow as tf
    >>> from nbops.optimizers import SGD
    >>> w = tf.Variable([1.0, 2.0])
    >>> SGD(0.5).apply_gradients([(tf.constant([4.0, -8.0]), w)])
    >>> w.numpy()
    array([-1.,  6.], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self.learning_rate = learning_rate
        self.variables: list[Any] = []

    def build(self, weights: Sequence[Any]) -> None:
        """Nothing: there is no state."""

    def apply_gradients(self, gradients_and_weights: Iterable[tuple[Any, Any]]) -> None:
        """Update each weight by its gradient."""
        for gradient, weight in gradients_and_weights:
            weight.assign(self._moved(weight, gradient))

    def _moved(self, weight: Any, gradient: Any) -> Any:
        dense_layer = made_by(dense_weight_gradient, gradient)
        if dense_layer is None or not isinstance(self.learning_rate, int | float):
            return sgd_update(weight, tf.convert_to_tensor(gradient), self.learning_rate)
        (x, dz), output = dense_layer
        if output == 0 and weight.shape.rank == 2:
            return _descend(x, dz, weight, self.learning_rate)
        if output == 1 and weight.shape.rank == 1:
            ones = tf.ones((tf.shape(dz)[0], 1), dz.dtype)  # ones.T @ dz is the sum of dz's rows
            return tf.squeeze(_descend(ones, dz, tf.expand_dims(weight, 0), self.learning_rate), 0)
        return sgd_update(weight, gradient, self.learning_rate)


def _descend(x: Any, dz: Any, weight: Any, learning_rate: float) -> Any:
    """``weight - learning_rate x.T @ dz``."""
    return gemm(x, dz, weight, -learning_rate, axes=[(-1, -2), (-2, -1), (-2, -1), (), (-2, -1)])


class RMSprop:
    """``v ← rho v + (1 - rho) gradient²``, ``w ← w - learning_rate gradient / √(v + epsilon)``.

    Each line is one pass over a weight, on every core.

    Parameters
    ----------
    learning_rate, rho, epsilon : float
        Keras's names and defaults.

    References
    ----------
    T. Tieleman and G. Hinton, Lecture 6.5: rmsprop, Coursera: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from nbops.optimizers import RMSprop
    >>> w, optimizer = tf.Variable([1.0, 2.0]), RMSprop(0.5, rho=0.0, epsilon=0.0)
    >>> optimizer.apply_gradients([(tf.constant([4.0, -8.0]), w)])
    >>> w.numpy()
    array([0.5, 2.5], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7) -> None:
        self.learning_rate = learning_rate
        self.rho = rho
        self.epsilon = epsilon
        self.variables: list[Any] = []
        self._mean_squares: dict[Any, Any] = {}

    def build(self, weights: Sequence[Any]) -> None:
        """Make the mean squares, 0 for each weight; those that it has stay."""
        for weight in weights:
            if weight.ref() not in self._mean_squares:
                mean_square = tf.Variable(tf.zeros_like(weight), trainable=False)
                self._mean_squares[weight.ref()] = mean_square
                self.variables.append(mean_square)

    def apply_gradients(self, gradients_and_weights: Iterable[tuple[Any, Any]]) -> None:
        """Update each weight by its gradient."""
        pairs = list(gradients_and_weights)
        self.build([weight for _, weight in pairs])
        for gradient, weight in pairs:
            gradient = tf.convert_to_tensor(gradient)  # rows alone, of an embedding
            mean_square = self._mean_squares[weight.ref()]
            squares = rmsprop_mean_square(mean_square, gradient, self.rho)
            mean_square.assign(squares)
            weight.assign(rmsprop_update(weight, gradient, squares, self.learning_rate, self.epsilon))
