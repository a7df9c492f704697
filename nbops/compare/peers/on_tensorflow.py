"""TensorFlow: each workload a `tf.function` on its own ops, updates by its fused optimizer kernels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON
from nbops.compare.peers import Case, Unavailable, holding

REQUIRES = ("tensorflow",)

tf: Any = None


def load() -> None:
    global tf
    import tensorflow as tf


def describe() -> dict[str, Any]:
    threads = tf.config.threading
    return {
        "versions": {"tensorflow": tf.__version__},
        "threads": {
            "intra_op": threads.get_intra_op_parallelism_threads() or "all cores",
            "inter_op": threads.get_inter_op_parallelism_threads() or "all cores",
        },
        "kernels": "Eigen and oneDNN, as TensorFlow chooses",
    }


def _traced(function: Callable[..., Any], *operands: Any) -> Case:
    # As arguments: what a graph captures as a constant may be folded away.
    graph = tf.function(function)
    return holding(lambda: graph(*operands), np.asarray)


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = tf.constant(given["x"]), tf.constant(given["y"])
    if options["form"] == "out":
        raise Unavailable("no out=")
    if options["form"] == "calls":
        return holding(lambda: tf.nn.relu(tf.add(x, y)), np.asarray)
    return _traced(lambda x, y: tf.nn.relu(x + y), x, y)


def matmul(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    left, right = (side == "T" for side in options["layout"])
    return _traced(
        lambda a, b: tf.matmul(a, b, transpose_a=left, transpose_b=right),
        tf.constant(given["a"]),
        tf.constant(given["b"]),
    )


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    return _traced(functools.partial(tf.nn.softmax, axis=options["axis"]), tf.constant(given["x"]))


def _mean_loss(logits: Any, labels: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def crossentropy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    logits, labels = tf.constant(given["x"]), tf.constant(given["labels"])

    @tf.function
    def loss_and_gradient(logits: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = _mean_loss(logits, labels)
        return loss, tape.gradient(loss, logits)

    last: list[Any] = [None]

    def run() -> None:
        last[0] = loss_and_gradient(logits, labels)

    return Case(run, lambda: dict(zip(("loss", "gradient"), map(np.asarray, last[0]), strict=True)))


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    return _traced(lambda x, y: tf.reduce_sum(x * y), tf.constant(given["x"]), tf.constant(given["y"]))


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = tf.constant(given["x"]), tf.constant(given["labels"])
    weights = {name: tf.Variable(given[name]) for name in ("w1", "b1", "w2", "b2")}
    w1, b1, w2, b2 = variables = list(weights.values())
    means, momenta = ([tf.Variable(tf.zeros_like(w)) for w in variables] for _ in range(2))
    rmsprop = options["optimizer"] == "rmsprop"
    raw = tf.raw_ops

    @tf.function
    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            hidden = tf.nn.relu(tf.matmul(x, w1) + b1)
            loss = _mean_loss(tf.matmul(hidden, w2) + b2, labels)
        gradients = tape.gradient(loss, variables)
        for w, v, m, g in zip(variables, means, momenta, gradients, strict=True):
            if rmsprop:
                raw.ResourceApplyRMSProp(
                    var=w.handle,
                    ms=v.handle,
                    mom=m.handle,
                    lr=LEARNING_RATE,
                    rho=RMS_DECAY,
                    momentum=0.0,
                    epsilon=RMS_EPSILON,
                    grad=g,
                )
            else:
                raw.ResourceApplyGradientDescent(var=w.handle, alpha=LEARNING_RATE, delta=g)
        return loss

    losses: list[Any] = [None]

    def run() -> None:
        losses[0] = step(x, labels)

    def fetch() -> dict[str, Any]:
        return {"loss": losses[0].numpy(), **{name: w.numpy() for name, w in weights.items()}}

    return Case(run, fetch, stateful=True)


KINDS = {
    "add_relu": add_relu,
    "matmul": matmul,
    "softmax": softmax,
    "crossentropy": crossentropy,
    "vecdot": vecdot,
    "training_step": training_step,
}
