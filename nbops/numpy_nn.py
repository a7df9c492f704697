"""A network trained on NumPy arrays alone: forward, backward and update, with nothing in between.

    model = Sequential([Dense(784, 512, "relu"), Dense(512, 10)])
    optimizer = RMSprop(model, learning_rate=1e-3)
    for images, labels in BatchGenerator(...):
        loss = training_step(model, optimizer, images, labels)

One step of a layer ``h = activation(x @ W + b)``, of which each line is one call of a fused kernel::

    h  = dense(x, W, b, activation)                    forward: bias and activation in the product's own pass
    dz = relu_gradient(h, dh)                          backward
    dW, db = dense_weight_gradient(x, dz)              one call for both
    dx = dz @ W.T                                      W is read transposed where it lies
    W  = W - learning_rate dW                          the update, in place

The last layer gives logits; the loss is their cross-entropy with the labels, and its gradient comes from one
op as well. All arrays of a step are made once for a batch size and used again. `nbops.nn` has the same model
inside TensorFlow, with its optimizers, graphs and checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nbops.op import elementwise
from nbops.ops.dense import activation_name, dense, dense_weight_gradient
from nbops.ops.elementwise import relu_gradient
from nbops.ops.losses import crossentropy_from_logits, crossentropy_from_logits_gradient
from nbops.ops.products import matmul, vecdot

__all__ = ["SGD", "Dense", "Optimizer", "RMSprop", "Sequential", "training_step"]


@elementwise(integers="float", nanoseconds=0.3)
def sgd_update(w: Any, gradient: Any, rate: Any) -> Any:
    """``w - rate gradient``."""
    return w - rate * gradient


@elementwise(integers="float", nanoseconds=0.3)
def rmsprop_mean_square(mean_square: Any, gradient: Any, rho: Any) -> Any:
    """``rho v + (1 - rho) gradient²``."""
    return rho * mean_square + (type(rho)(1) - rho) * gradient * gradient


@elementwise(integers="float", nanoseconds=0.6)
def rmsprop_update(w: Any, gradient: Any, mean_square: Any, rate: Any, epsilon: Any) -> Any:
    """``w - rate gradient / √(v + epsilon)``."""
    return w - rate * gradient / np.sqrt(mean_square + epsilon)


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
    """What a step computes, for one batch size: each layer's result and the gradients."""

    def __init__(self, model: Sequential, batch_size: int) -> None:
        def like_results() -> list[np.ndarray]:
            return [np.empty((batch_size, layer.W.shape[1]), np.float32) for layer in model.layers]

        self.results, self.backward = like_results(), like_results()
        self.gradients = [(np.empty_like(layer.W), np.empty_like(layer.b)) for layer in model.layers]
        self.losses = np.empty(batch_size, np.float32)
        self.share = np.full(batch_size, 1 / batch_size, np.float32)


class Optimizer(Protocol):
    """What updates weights in place."""

    def update(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None: ...


class SGD:
    """Plain gradient descent: ``w ← w - learning_rate gradient``.

    Parameters
    ----------
    learning_rate : float

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.numpy_nn import SGD
    >>> w = np.array([1.0, 2.0], np.float32)
    >>> SGD(0.1).update([w], [np.array([10.0, 10.0], np.float32)])
    >>> w
    array([0., 1.], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self._rate = np.array(learning_rate, np.float32)

    def update(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        """Move the weights, in place."""
        for w, gradient in zip(weights, gradients, strict=True):
            sgd_update(w, gradient, self._rate, out=w)


class RMSprop:
    """Steps divided by the root of the recent mean square of each weight's gradient, as in Keras::

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
    >>> from nbops.numpy_nn import RMSprop
    >>> w = np.array([1.0], np.float32)
    >>> RMSprop(0.1, rho=0.0, epsilon=0.0).update([w], [np.array([5.0], np.float32)])
    >>> w
    array([0.9], dtype=float32)
    """

    def __init__(self, learning_rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7) -> None:
        self._rate, self._rho, self._epsilon = (
            np.array(x, np.float32) for x in (learning_rate, rho, epsilon)
        )
        self._mean_squares: list[np.ndarray] = []

    def update(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        """Move the weights, in place; the same weights must come each time."""
        if not self._mean_squares:
            self._mean_squares = [np.zeros_like(w) for w in weights]
        for w, gradient, v in zip(weights, gradients, self._mean_squares, strict=True):
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
    crossentropy_from_logits(labels, space.results[-1], out=space.losses)
    crossentropy_from_logits_gradient(labels, space.results[-1], space.share, out=space.backward[-1])
    for place in reversed(range(len(model.layers))):
        layer, dz = model.layers[place], space.backward[place]
        if layer.activation == "relu":
            relu_gradient(space.results[place], dz, out=dz)
        dense_weight_gradient(inputs[place], dz, out=space.gradients[place])
        if place > 0:
            matmul(dz, layer.W.T, out=space.backward[place - 1])
    optimizer.update(model.weights, [gradient for pair in space.gradients for gradient in pair])
    return float(vecdot(space.losses, space.share))
