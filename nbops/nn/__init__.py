"""A neural network from scratch: the model and training loop of "Deep Learning with Python", chapter 2::

    model = NaiveSequential([NaiveDense(784, 512, nbops.relu), NaiveDense(512, 10, nbops.softmax)])
    fit(model, images, labels, epochs=10, batch_size=128, learning_rate=1e-3)
    loss, accuracy = evaluate(model, test_images, test_labels)

The same classes run on nbops's ops or on TensorFlow's own, ``NaiveDense(..., ops="tensorflow")``; `Ops` lists
all that differs. Importing this module imports TensorFlow. Where kernels are not yet kept on disk, it starts
to compile what a training step calls (see `nbops.ahead`).
"""

from __future__ import annotations

from nbops import ahead
from nbops.warming import GRAPH_STEP

ahead.expect(GRAPH_STEP)  # before the imports below, which may have to compile TensorFlow's side of the ops

from nbops.data import BatchGenerator  # noqa: E402
from nbops.nn.layers import NaiveDense, NaiveSequential, Ops  # noqa: E402
from nbops.nn.loops import Epoch, Evaluation, Progress, evaluate, fit, predict  # noqa: E402
from nbops.nn.steps import compile_training_step, one_training_step, update_weights  # noqa: E402

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
