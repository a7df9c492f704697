"""A network trained on NumPy arrays alone: forward, backward and update, with nothing in between::

    model = Sequential([Dense(784, 512, "relu"), Dense(512, 10)])
    optimizer = RMSprop(model, learning_rate=1e-3)
    for images, labels in BatchGenerator(...):
        loss = training_step(model, optimizer, images, labels)

One step of a layer ``h = activation(x @ W + b)``, of which each line is one call of a fused kernel::

    h  = dense(x, W, b, activation)          forward: bias and activation in the product's own pass
    dz = relu_gradient(h, dh)                backward
    dx = dz @ W.T                            W is read transposed where it lies
    W  = W - learning_rate x.T @ dz          SGD: the gradient is never written to memory

Where an optimizer needs the gradient itself, ``x.T @ dz`` and the sum for b are one call.

The last layer gives logits; their cross-entropy with the labels and its gradient come from one op, in one
pass. All arrays of a step are made once for a batch size and used again. `nbops.nn` has the same model inside
TensorFlow, with its optimizers, graphs and checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nbops import ahead
from nbops.kernel import Scalar
from nbops.op import elementwise
from nbops.ops.dense import activation_name, dense, dense_weight_gradient
from nbops.ops.elementwise import relu_gradient
from nbops.ops.gemm import gemm
from nbops.ops.logits import crossentropy_and_gradient
from nbops.ops.products import matmul, vecdot
from nbops.tuned.roots import sqrt
from nbops.warming import ARRAY_STEP

__all__ = ["SGD", "Dense", "Optimizer", "RMSprop", "Sequential", "training_step"]


LEAST = 2.0**-60  # the square of a smaller gradient counts as 0: subnormal numbers are slow


@elementwise(integers="float", nanoseconds=0.3)
def rmsprop_mean_square(mean_square: Scalar, gradient: Scalar, rho: Scalar) -> Scalar:
    """``rho v + (1 - rho) gradient²``, where neither v nor the square is so small that it is subnormal."""
    least = type(gradient)(LEAST)
    size = type(gradient)(0) if -least < gradient < least else gradient
    before = type(gradient)(0) if -least * least < mean_square < least * least else mean_square
    return rho * before + (type(rho)(1) - rho) * size * size


@elementwise(integers="float", nanoseconds=0.6)
def rmsprop_update(w: Scalar, gradient: Scalar, mean_square: Scalar, rate: Scalar, epsilon: Scalar) -> Scalar:
    """``w - rate gradient / √(v + epsilon)``."""
    return w - rate * gradient / sqrt(mean_square + epsilon)


@elementwise(integers="float", nanoseconds=0.3)
def sgd_update(w: Scalar, gradient: Scalar, rate: Scalar) -> Scalar:
    """``w - rate gradient``."""
    return w - rate * gradient


class Dense:
    """A dense layer, ``activation(x @ W + b)``, with W uniform in [0, 0.1) and b zero, in float32.

    Parameters
    ----------
    input_size, output_size : int
    activation : {None, "linear", "relu"}
    seed : int or numpy.random.Generator, optional
        The same seed gives the W of `nbops.nn.NaiveDense`.

    Attributes
    ----------
    W : ndarray, shape (input_size, output_size)
    b : ndarray, shape (output_size,)

    Raises
    ------
    ValueError
        For a size below 1, or another activation.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import Dense
    >>> Dense(784, 512, "relu", seed=0)(np.zeros((128, 784), np.float32)).shape
    (128, 512)
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: str | None = None,
        *,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if input_size < 1 or output_size < 1:
            raise ValueError(f"Dense: the sizes are {input_size} and {output_size}; expected at least 1")
        self.activation = activation_name(activation)
        if self.activation not in ("linear", "relu"):
            raise ValueError(
                f"Dense: activation {activation!r}; expected None, 'linear' or 'relu': the last layer gives "
                "logits, and the loss takes their softmax"
            )
        uniform = np.random.default_rng(seed).random((input_size, output_size), dtype=np.float32)
        self.W = uniform * np.float32(0.1)
        self.b = np.zeros(output_size, np.float32)

    def __call__(self, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        result: np.ndarray = dense(x, self.W, self.b, self.activation, out=out)
        return result


class Sequential:
    """Layers that feed one another; the last one's results are logits.

    Parameters
    ----------
    layers : sequence of Dense

    Raises
    ------
    ValueError
        When there are no layers, or one does not fit the next.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import Dense, Sequential
    >>> model = Sequential([Dense(784, 512, "relu", seed=0), Dense(512, 10, seed=1)])
    >>> model(np.zeros((3, 784), np.float32)).shape
    (3, 10)
    """

    def __init__(self, layers: Sequence[Dense]) -> None:
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("Sequential: there are no layers; expected at least one")
        for first, second in zip(self.layers, self.layers[1:], strict=False):
            if first.W.shape[1] != second.W.shape[0]:
                raise ValueError(
                    f"Sequential: a layer with {first.W.shape[1]} outputs is followed by one with "
                    f"{second.W.shape[0]} inputs"
                )
        self._workspaces: dict[int, _Workspace] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def weights(self) -> list[np.ndarray]:
        """Every layer's W and b, in order."""
        return [weight for layer in self.layers for weight in (layer.W, layer.b)]

    def workspace(self, batch_size: int) -> _Workspace:
        """The arrays of a training step."""
        found = self._workspaces.get(batch_size)
        if found is None:
            found = self._workspaces[batch_size] = _Workspace(self, batch_size)
        return found


class _Workspace:
    """What a step computes, for one batch size: each layer's result and the gradient by it."""

    def __init__(self, model: Sequential, batch_size: int) -> None:
        def like_results() -> list[np.ndarray]:
            return [np.empty((batch_size, layer.W.shape[1]), np.float32) for layer in model.layers]

        ahead.expect(ARRAY_STEP)
        self.results, self.backward = like_results(), like_results()
        self.losses = np.empty(batch_size, np.float32)
        self.share = np.full(batch_size, 1 / batch_size, np.float32)


class Optimizer(Protocol):
    """What updates a layer's weights in place; any class with this method will do.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import Dense, Optimizer
    >>> class Signs:
    ...     def update(self, layer, x, dz):
    ...         layer.W -= 0.01 * np.sign(x.T @ dz)
    >>> optimizer: Optimizer = Signs()
    >>> layer = Dense(1, 1, seed=0)
    >>> before = layer.W.copy()
    >>> optimizer.update(layer, np.ones((1, 1), np.float32), np.array([[10.0]], np.float32))
    >>> bool(np.allclose(before - layer.W, 0.01))
    True
    """

    def update(self, layer: Dense, x: np.ndarray, dz: np.ndarray) -> None:
        """Move the weights, given the layer's input and the gradient of ``x @ W + b``."""


class SGD:
    """Plain gradient descent: ``w ← w - learning_rate gradient``.

    Parameters
    ----------
    learning_rate : float

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import SGD, Dense
    >>> layer = Dense(1, 2, seed=0)
    >>> SGD(0.1).update(layer, np.ones((1, 1), np.float32), np.array([[10.0, 20.0]], np.float32))
    >>> layer.b
    array([-1., -2.], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self._step = np.array(-learning_rate, np.float32)

    def update(self, layer: Dense, x: np.ndarray, dz: np.ndarray) -> None:
        """Move the weights, in place."""
        ones = np.broadcast_to(ONE, (1, len(x)))
        gemm(x.T, dz, layer.W, self._step, out=layer.W)
        gemm(ones, dz, layer.b[np.newaxis], self._step, out=layer.b[np.newaxis])


ONE = np.ones((1, 1), np.float32)


class RMSprop:
    """Steps divided by the root of the recent mean square of each weight's gradient, as in Keras.

    In formulas::

        v ← rho v + (1 - rho) gradient²
        w ← w - learning_rate gradient / √(v + epsilon)

    Parameters
    ----------
    learning_rate, rho, epsilon : float

    References
    ----------
    T. Tieleman and G. Hinton, Lecture 6.5: rmsprop, Coursera: Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import Dense, RMSprop
    >>> layer = Dense(1, 1, seed=0)
    >>> optimizer = RMSprop(0.5, rho=0.0, epsilon=0.0)
    >>> optimizer.update(layer, np.ones((1, 1), np.float32), np.array([[10.0]], np.float32))
    >>> layer.b
    array([-0.5], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7) -> None:
        self._rate, self._rho, self._epsilon = (
            np.array(x, np.float32) for x in (learning_rate, rho, epsilon)
        )
        self._kept: dict[Dense, list[tuple[np.ndarray, np.ndarray]]] = {}

    def update(self, layer: Dense, x: np.ndarray, dz: np.ndarray) -> None:
        """Move the weights, in place."""
        weights = layer.W, layer.b
        if layer not in self._kept:
            self._kept[layer] = [(np.zeros_like(w), np.empty_like(w)) for w in weights]
        kept = self._kept[layer]
        dense_weight_gradient(x, dz, out=(kept[0][1], kept[1][1]))
        for w, (v, gradient) in zip(weights, kept, strict=True):
            rmsprop_mean_square(v, gradient, self._rho, out=v)
            rmsprop_update(w, gradient, v, self._rate, self._epsilon, out=w)


def training_step(model: Sequential, optimizer: Optimizer, images: np.ndarray, labels: np.ndarray) -> float:
    """Run the model forwards, its gradients backwards, and update its weights.

    Parameters
    ----------
    model : Sequential
    optimizer : Optimizer
    images : ndarray of float32, shape (batch, inputs)
    labels : ndarray of int64, shape (batch,)
        A label out of range gives a loss of NaN.

    Returns
    -------
    float
        The batch's average loss, before the update.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import SGD, Dense, Sequential, training_step
    >>> model = Sequential([Dense(4, 10, seed=0)])
    >>> loss = training_step(model, SGD(0.1), np.zeros((2, 4), np.float32), np.array([3, 7]))
    >>> round(loss, 4)
    2.3026
    """
    space = model.workspace(len(images))
    inputs = [images, *space.results]
    for layer, x, out in zip(model.layers, inputs, space.results, strict=False):
        layer(x, out=out)
    outputs = space.losses, space.backward[-1]
    crossentropy_and_gradient(labels, space.results[-1], space.share, out=outputs)
    for place in reversed(range(len(model.layers))):
        layer, dz = model.layers[place], space.backward[place]
        if layer.activation == "relu":
            relu_gradient(space.results[place], dz, out=dz)
        if place > 0:
            matmul(dz, layer.W.T, out=space.backward[place - 1])
        optimizer.update(layer, inputs[place], dz)
    return float(vecdot(space.losses, space.share))
