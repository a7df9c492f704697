"""Training and evaluation, batch after batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from nbops.checkpoints import Checkpoint, CheckpointError
from nbops.data import BatchGenerator
from nbops.nn.steps import compile_training_step

__all__ = ["Epoch", "Evaluation", "Progress", "evaluate", "fit", "predict"]

# ---- training ---------------------------------------------------------------------------------------


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
