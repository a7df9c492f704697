"""The model: layers, and the ops that they compute with, nbops's or TensorFlow's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import nbops
from nbops.ops.losses import EPSILON

__all__ = ["OPS", "NaiveDense", "NaiveSequential", "Ops"]

# ---- the ops a model is made of ---------------------------------------------------------------------


class Ops(NamedTuple):
    """What a model computes with; `OPS` has nbops's and TensorFlow's.

    Parameters
    ----------
    name : str
    dense : function
        Takes x, w, b and an activation's name or None.
    sparse_categorical_crossentropy : function
        Takes labels and probabilities, and gives one loss per label.
    mean : function
        Takes a tensor, and gives the mean of all its elements.
    """

    name: str
    dense: Callable[..., Any]
    sparse_categorical_crossentropy: Callable[..., Any]
    mean: Callable[[Any], Any]


_TENSORFLOW_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "sigmoid": tf.nn.sigmoid,
    "softmax": tf.nn.softmax,
    "tanh": tf.nn.tanh,
}
#: Functions that `Ops.dense` knows by name, whichever library they came from.
_NAMES = {function: name for name, function in _TENSORFLOW_ACTIVATIONS.items()} | {
    nbops.relu: "relu",
    nbops.sigmoid: "sigmoid",
    nbops.softmax: "softmax",
    nbops.tanh: "tanh",
}


def _tensorflow_dense(x: Any, w: Any, b: Any, activation: str | None) -> Any:
    return _TENSORFLOW_ACTIVATIONS[activation or "linear"](tf.matmul(x, w) + b)


def _tensorflow_crossentropy(labels: Any, probabilities: Any) -> Any:
    # Keras's formula. Its function takes another one in a graph, where it looks behind the softmax for the
    # logits; written out, a step gives the same eager and traced, and the same as nbops.
    clipped = tf.clip_by_value(probabilities, EPSILON, 1 - EPSILON)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int64), tf.math.log(clipped))


OPS = {
    "nbops": Ops("nbops", nbops.dense, nbops.sparse_categorical_crossentropy, nbops.mean),
    "tensorflow": Ops("tensorflow", _tensorflow_dense, _tensorflow_crossentropy, tf.reduce_mean),
}


def _find_ops(ops: str | Ops) -> Ops:
    if isinstance(ops, Ops):
        return ops
    if ops not in OPS:
        raise ValueError(f"ops is {ops!r}; expected one of {', '.join(map(repr, OPS))}, or an Ops")
    return OPS[ops]


# ---- the model --------------------------------------------------------------------------------------


class NaiveDense:
    """A dense layer, ``activation(inputs @ W + b)``, with W uniform in [0, 0.1) and b zero.

    Parameters
    ----------
    input_size, output_size : int
    activation : str, function or None
        ``"relu"``, ``"sigmoid"``, ``"softmax"``, ``"tanh"``, ``"linear"``, or the function of nbops or
        TensorFlow: fused into the layer's one op. Any other function is called on ``inputs @ W + b``.
    ops : {"nbops", "tensorflow"} or Ops
    seed : int or numpy.random.Generator, optional
        Gives the same W for both `ops`. Share one generator between a model's layers.

    Attributes
    ----------
    W : tf.Variable, shape (input_size, output_size)
    b : tf.Variable, shape (output_size,)

    Raises
    ------
    ValueError
        For a size below 1, or an unknown activation or `ops`.
    TypeError
        For an activation that is neither a name nor a function.

    Examples
    --------
    >>> import tensorflow as tf, nbops
    >>> from nbops.nn import NaiveDense
    >>> layer = NaiveDense(784, 512, nbops.relu, seed=0)
    >>> layer(tf.zeros((128, 784))).shape
    TensorShape([128, 512])
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        activation: str | Callable[[Any], Any] | None = None,
        *,
        ops: str | Ops = "nbops",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        if input_size < 1 or output_size < 1:
            raise ValueError(f"NaiveDense: the sizes are {input_size} and {output_size}; expected at least 1")
        self.ops = _find_ops(ops)
        self.activation = activation
        self._fused, self._after = _split_activation(activation)
        uniform = np.random.default_rng(seed).random((input_size, output_size), dtype=np.float32)
        self.W = tf.Variable(uniform * np.float32(0.1), name="W")
        self.b = tf.Variable(np.zeros(output_size, np.float32), name="b")

    def __call__(self, inputs: Any) -> Any:
        outputs = self.ops.dense(inputs, self.W, self.b, self._fused)
        return outputs if self._after is None else self._after(outputs)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.W.shape))
        return f"NaiveDense({sizes}, {self.activation!r}, ops={self.ops.name!r})"

    @property
    def weights(self) -> list[Any]:
        """W and b."""
        return [self.W, self.b]


def _split_activation(activation: Any) -> tuple[str | None, Callable[[Any], Any] | None]:
    """The activation that the dense op fuses, and the function to call after it."""
    if activation is None:
        return None, None
    if isinstance(activation, str):
        if activation not in _TENSORFLOW_ACTIVATIONS:
            raise ValueError(
                f"NaiveDense: unknown activation {activation!r}; expected one of "
                f"{', '.join(map(repr, _TENSORFLOW_ACTIVATIONS))}, or a function"
            )
        return activation, None
    if not callable(activation):
        raise TypeError(f"NaiveDense: activation is {activation!r}; expected a name, a function or None")
    return (_NAMES[activation], None) if activation in _NAMES else (None, activation)


class NaiveSequential:
    """Layers that feed one another.

    Parameters
    ----------
    layers : sequence of NaiveDense, or of callables with ``weights``

    Raises
    ------
    ValueError
        When there are no layers, or when they run on different ops.

    Examples
    --------
    >>> import numpy as np, tensorflow as tf
    >>> from nbops.nn import NaiveDense, NaiveSequential
    >>> rng = np.random.default_rng(0)
    >>> model = NaiveSequential(
    ...     [NaiveDense(784, 512, "relu", seed=rng), NaiveDense(512, 10, "softmax", seed=rng)]
    ... )
    >>> [tuple(w.shape) for w in model.weights]
    [(784, 512), (512,), (512, 10), (10,)]
    >>> model(tf.zeros((3, 784))).shape
    TensorShape([3, 10])
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("NaiveSequential: there are no layers; expected at least one")
        found = {layer.ops.name: layer.ops for layer in self.layers if hasattr(layer, "ops")}
        if len(found) > 1:
            raise ValueError(f"NaiveSequential: the layers run on {' and '.join(sorted(found))}; choose one")
        self.ops = next(iter(found.values()), OPS["nbops"])

    def __call__(self, inputs: Any) -> Any:
        x = inputs
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def weights(self) -> list[Any]:
        """Every layer's weights, in order."""
        return [weight for layer in self.layers for weight in layer.weights]
