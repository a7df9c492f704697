"""Keras on TensorFlow: what `Model.fit` does for each batch, without its callbacks and progress bar."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON
from nbops.compare.peers import Case

REQUIRES = ("keras", "tensorflow")

keras: Any = None
tf: Any = None


def load() -> None:
    global keras, tf
    import keras
    import tensorflow as tf


def describe() -> dict[str, Any]:
    return {
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        "threads": {
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads() or "all cores",
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads() or "all cores",
        },
        "kernels": f"Keras on {keras.backend.backend()}",
    }


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    size, hidden, classes = options["sizes"]
    model = keras.Sequential(
        [
            keras.Input((size,)),
            keras.layers.Dense(hidden, "relu"),
            keras.layers.Dense(classes, "softmax"),
        ]
    )
    names = ("w1", "b1", "w2", "b2")
    model.set_weights([given[name] for name in names])
    if options["optimizer"] == "rmsprop":
        optimizer = keras.optimizers.RMSprop(LEARNING_RATE, rho=RMS_DECAY, epsilon=RMS_EPSILON)
    else:
        optimizer = keras.optimizers.SGD(LEARNING_RATE)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    optimizer.build(model.trainable_variables)
    model.make_train_function()
    # fit's inner loop: the train function takes its batch from an iterator.
    batches = iter(tf.data.Dataset.from_tensors((given["x"], given["labels"])).repeat())
    last: list[Any] = [None]

    def run() -> None:
        last[0] = model.train_function(batches)

    def fetch() -> dict[str, Any]:
        return {
            "loss": np.asarray(last[0]["loss"]),
            **dict(zip(names, model.get_weights(), strict=True)),
        }

    return Case(run, fetch, stateful=True)


KINDS = {"training_step": training_step}
