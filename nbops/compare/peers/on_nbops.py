"""nbops as its users call it: public functions on arrays, and the training step of `nbops.nn`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import nbops
from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON, aligned
from nbops.compare.peers import Case, Unavailable, holding
from nbops.ops.logits import crossentropy_and_gradient

REQUIRES = ("numba",)


def load() -> None:
    if importlib.util.find_spec("tensorflow") is not None:
        importlib.import_module("tensorflow")  # nbops.nn compiles when it is imported: that is a first call's


def describe() -> dict[str, Any]:
    import llvmlite
    import numba

    from nbops import dispatch
    from nbops.targets import cpu

    dispatch.start()
    return {
        "versions": {
            "nbops": nbops.__version__,
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "numpy": np.__version__,
        },
        "threads": {f"nbops, {cpu.launcher()}": int(cpu.STATE[cpu.WORKERS])},
        "kernels": "nbops's own, compiled for this CPU",
    }


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = given["x"], given["y"]
    out = aligned(np.full_like(x, np.nan))
    runs = {
        "fused": lambda: nbops.add_relu(x, y),
        "out": lambda: nbops.add_relu(x, y, out=out),
        "calls": lambda: nbops.relu(nbops.add(x, y)),
    }
    return holding(runs[options["form"]], np.asarray)


def matmul(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    a, b = given["a"], given["b"]
    a = a.T if options["layout"][0] == "T" else a
    b = b.T if options["layout"][1] == "T" else b
    out = aligned(np.full((options["m"], options["n"]), np.nan, options["dtype"]))
    return holding(lambda: nbops.matmul(a, b, out=out), np.asarray)


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x = given["x"]
    out = aligned(np.full_like(x, np.nan))
    return holding(lambda: nbops.softmax(x, options["axis"], out=out), np.asarray)


def crossentropy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = given["x"], given["labels"]
    share = np.full(len(x), 1 / len(x), np.float32)
    last: list[Any] = [None, None]

    def run() -> None:
        losses, last[1] = crossentropy_and_gradient(labels, x, share)
        last[0] = nbops.mean(losses)

    return Case(run, lambda: {"loss": last[0], "gradient": last[1]})


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = given["x"], given["y"]
    return holding(lambda: nbops.vecdot(x, y), np.asarray)


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    path = options["path"]
    if path not in TRAINING_PATHS:
        raise Unavailable(f"no training path {path!r}; expected one of {', '.join(TRAINING_PATHS)}")
    return TRAINING_PATHS[path](given, options)


def _through_graph(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """`nn.compile_training_step`: nbops's ops in a tf.function, and its optimizers."""
    if importlib.util.find_spec("tensorflow") is None:
        raise Unavailable("TensorFlow is not installed; the step through tf.function needs it")
    import tensorflow as tf

    from nbops import nn

    size, hidden, classes = options["sizes"]
    layers = [nn.NaiveDense(size, hidden, "relu"), nn.NaiveDense(hidden, classes, "softmax")]
    model = nn.NaiveSequential(layers)
    weights = dict(zip(("w1", "b1", "w2", "b2"), model.weights, strict=True))
    for name, variable in weights.items():
        variable.assign(given[name])
    optimizer = None
    if options["optimizer"] == "rmsprop":
        from nbops.optimizers import RMSprop

        optimizer = RMSprop(LEARNING_RATE, RMS_DECAY, RMS_EPSILON)
    step = nn.compile_training_step(model, given["x"], given["labels"], LEARNING_RATE, optimizer=optimizer)
    x, labels = tf.constant(given["x"]), tf.constant(given["labels"])
    last: list[Any] = [None]

    def run() -> None:
        last[0] = step(x, labels)

    def fetch() -> dict[str, Any]:
        return {"loss": last[0][0].numpy(), **{name: w.numpy() for name, w in weights.items()}}

    return Case(run, fetch, stateful=True)


def _on_arrays(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """`numpy_nn.training_step`: no TensorFlow."""
    from nbops import numpy_nn

    size, hidden, classes = options["sizes"]
    model = numpy_nn.Sequential(
        [numpy_nn.Dense(size, hidden, "relu", seed=0), numpy_nn.Dense(hidden, classes, seed=0)]
    )
    weights = dict(zip(("w1", "b1", "w2", "b2"), model.weights, strict=True))
    for name, array in weights.items():
        array[...] = given[name]
    optimizer: numpy_nn.Optimizer = numpy_nn.SGD(LEARNING_RATE)
    if options["optimizer"] == "rmsprop":
        optimizer = numpy_nn.RMSprop(LEARNING_RATE, RMS_DECAY, RMS_EPSILON)
    x, labels = given["x"], given["labels"].astype(np.int64)
    last: list[Any] = [None]

    def run() -> None:
        last[0] = numpy_nn.training_step(model, optimizer, x, labels)

    return Case(run, lambda: {"loss": last[0], **weights}, stateful=True)


#: The ways nbops runs a training step.
TRAINING_PATHS: dict[str, Callable[[dict[str, np.ndarray], dict[str, Any]], Case]] = {
    "numpy": _on_arrays,
    "tf.function": _through_graph,
}

KINDS = {
    "add_relu": add_relu,
    "matmul": matmul,
    "softmax": softmax,
    "crossentropy": crossentropy,
    "vecdot": vecdot,
    "training_step": training_step,
}
