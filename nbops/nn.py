"""A neural network from scratch: the model and training loop of "Deep Learning with Python", chapter 2::

    model = NaiveSequential([NaiveDense(784, 512, nbops.relu), NaiveDense(512, 10, nbops.softmax)])
    fit(model, images, labels, epochs=10, batch_size=128, learning_rate=1e-3)
    loss, accuracy = evaluate(model, test_images, test_labels)

The same classes run on nbops's ops or on TensorFlow's own, ``NaiveDense(..., ops="tensorflow")``; `Ops` lists
all that differs. Importing this module imports TensorFlow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

import nbops
from nbops import ahead
from nbops.checkpoints import Checkpoint, CheckpointError
from nbops.data import BatchGenerator
from nbops.ops.losses import EPSILON
from nbops.optimizers import SGD
from nbops.tensorflow.on_caller import OnCaller
from nbops.warming import GRAPH_STEP

__all__ = [
    "BatchGenerator",
    "Epoch",
    "Evaluation",
    "NaiveDense",
    "NaiveSequential",
    "Ops",
    "Progress",
    "compile_training_step",
    "evaluate",
    "fit",
    "one_training_step",
    "predict",
    "update_weights",
]

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


# ---- training ---------------------------------------------------------------------------------------


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
    ahead.expect(GRAPH_STEP)
    return OnCaller(step)


@dataclass(frozen=True, slots=True)
class Progress:
    """One batch that was trained on; `fit` hands it to ``on_batch``.

    Parameters
    ----------
    epoch, batch : int
        Their numbers, from 0.
    num_batches : int
        How many batches an epoch has.
    batch_size : int
        How many images this batch has.
    loss, accuracy : float
        The average loss and the share of right predictions, before the update.
    """

    epoch: int
    batch: int
    num_batches: int
    batch_size: int
    loss: float
    accuracy: float


@dataclass(slots=True)
class Epoch:
    """What an epoch gave: each batch's loss and accuracy, and the time without the callbacks'.

    ``on_epoch`` may add figures of its own to `metrics`; a checkpoint keeps them.

    Parameters
    ----------
    number : int
        From 0.
    losses, accuracies : list of float
        One of each per batch.
    seconds : float
        The time of the training steps.
    metrics : dict of str to float
        What ``on_epoch`` found.
    """

    number: int
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def fit(
    model: Any,
    images: Any,
    labels: Any,
    epochs: int,
    batch_size: int = 128,
    *,
    learning_rate: float = 1e-3,
    optimizer: Any = None,
    shuffle_seed: int | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[Epoch]:
    """Train a model. Calling it again goes on from where the model is.

    Parameters
    ----------
    model : NaiveSequential
    images : array_like, shape (n, ...)
    labels : array_like of int, shape (n,)
    epochs, batch_size : int
    learning_rate : float
        For plain gradient descent.
    optimizer : keras.optimizers.Optimizer or one of nbops.optimizers, optional
        Instead of plain gradient descent.
    shuffle_seed : int, optional
        See `BatchGenerator`.
    on_batch, on_epoch : function, optional
        Called after each batch with a `Progress`, after each epoch with its `Epoch`.
    checkpoint : nbops.checkpoints.Checkpoint, optional
        Go on from there, where a run was stopped, and write the run's state there: after each epoch, when it
        is due, and before Ctrl-C or SIGTERM stop it. `epochs` then counts from the run's beginning, and the
        weights at the end are those of a run that never stopped.

    Returns
    -------
    list of Epoch

    Raises
    ------
    ValueError
        When there is nothing to train on, or the number of epochs is negative.
    nbops.checkpoints.CheckpointError
        For a checkpoint that is damaged or another run's, or can't be written.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.nn import NaiveDense, NaiveSequential, fit
    >>> model = NaiveSequential([NaiveDense(2, 2, "softmax", seed=0)])
    >>> images, labels = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 0])
    >>> history = fit(model, images, labels, epochs=20, batch_size=2, learning_rate=1.0)
    >>> len(history), history[-1].losses[-1] < history[0].losses[0]
    (20, True)
    """
    images, labels = _training_arrays(model, images, labels)
    _check_flat(labels, "fit")
    if epochs < 0 or not len(images):
        raise ValueError(f"fit: {epochs} epochs of {len(images)} images came; expected at least one image")
    step = compile_training_step(model, images, labels, learning_rate, optimizer=optimizer)
    batches = BatchGenerator(images, labels, batch_size, shuffle_seed=shuffle_seed)
    variables = [*model.weights, *(optimizer.variables if optimizer is not None else ())]
    history: list[Epoch] = []
    saved = None if checkpoint is None else checkpoint.restore(variables)
    if checkpoint is not None and saved is not None:
        batches.state = saved["data"]
        history = [Epoch(**fields) for fields in saved["history"]]
        if len(history) > epochs:
            raise CheckpointError(f"{checkpoint.path}: has {len(history)} epochs; {epochs} were asked for")
    unfinished = bool(history) and len(history[-1].losses) < batches.num_batches

    def state() -> dict[str, Any]:
        return {"data": batches.state, "history": [asdict(epoch) for epoch in history]}

    with nullcontext(_go_on) if checkpoint is None else checkpoint.keep(variables, state) as pause:
        for number in range(len(history) - unfinished, epochs):
            if number == len(history):
                history.append(Epoch(number))
            epoch = history[number]
            for batch, (images_batch, labels_batch) in enumerate(batches, len(epoch.losses)):
                start = time.perf_counter()
                loss, accuracy = (float(x) for x in step(images_batch, labels_batch))
                epoch.seconds += time.perf_counter() - start
                epoch.losses.append(loss)
                epoch.accuracies.append(accuracy)
                if on_batch is not None:
                    on_batch(Progress(number, batch, batches.num_batches, len(labels_batch), loss, accuracy))
                if batch + 1 < batches.num_batches:
                    pause()
            if on_epoch is not None:
                on_epoch(epoch)
            pause(save=True)
    return history


def _go_on(save: bool = False) -> None:
    """What happens between the steps of a run that keeps no checkpoint."""


def _check_flat(labels: np.ndarray, name: str) -> None:
    if labels.ndim != 1:
        raise ValueError(f"{name}: the labels are {labels.shape}; expected one integer per image, shape (n,)")


def _training_arrays(model: Any, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images in the weights' dtype, and integer labels, as arrays."""
    dtype = model.weights[0].dtype.as_numpy_dtype
    return np.asarray(images, dtype), np.asarray(labels)


# ---- what it learned --------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """A model's average loss, and its share of right predictions.

    Parameters
    ----------
    loss, accuracy : float
    """

    loss: float
    accuracy: float


def predict(model: Any, images: Any, batch_size: int = 1000) -> np.ndarray:
    """The model's outputs, computed a batch at a time.

    Parameters
    ----------
    model : NaiveSequential
    images : array_like, shape (n, ...)
    batch_size : int

    Returns
    -------
    ndarray, shape (n, classes)

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.nn import NaiveDense, NaiveSequential, predict
    >>> predict(NaiveSequential([NaiveDense(4, 2, "softmax", seed=0)]), np.zeros((3, 4))).shape
    (3, 2)
    """
    images, _ = _training_arrays(model, images, ())
    batches = BatchGenerator(images, images, batch_size)
    return np.concatenate([np.asarray(model(tf.constant(batch))) for batch, _ in batches])


def evaluate(model: Any, images: Any, labels: Any, batch_size: int = 1000) -> Evaluation:
    """The average loss and the accuracy on images that need not be those trained on.

    Parameters
    ----------
    model : NaiveSequential
    images : array_like, shape (n, ...)
    labels : array_like of int, shape (n,)
    batch_size : int

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        When there are no images, or not as many labels.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.nn import NaiveDense, NaiveSequential, evaluate
    >>> model = NaiveSequential([NaiveDense(4, 2, "softmax", seed=0)])
    >>> evaluate(model, np.zeros((4, 4)), np.array([0, 1, 0, 0])).accuracy
    0.75
    """
    labels = np.asarray(labels)
    _check_flat(labels, "evaluate")
    if len(images) != len(labels) or not len(labels):
        raise ValueError(f"evaluate: {len(images)} images came with {len(labels)} labels")
    predictions = predict(model, images, batch_size)
    losses = model.ops.sparse_categorical_crossentropy(tf.constant(labels), tf.constant(predictions))
    return Evaluation(float(model.ops.mean(losses)), float(np.mean(predictions.argmax(-1) == labels)))
