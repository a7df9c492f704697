"""NumPy, written as one who knows it would: out= wherever there is one."""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON, aligned
from nbops.compare.peers import Case, holding

REQUIRES = ("numpy",)


def load() -> None:
    pass


def describe() -> dict[str, Any]:
    return {"versions": {"numpy": np.__version__}, "threads": {}}


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y, zero = given["x"], given["y"], np.zeros((), options["dtype"])
    out = aligned(np.full_like(x, np.nan))

    def into(total: np.ndarray) -> Any:
        return np.maximum(total, zero, out=total)

    runs = {
        "fused": lambda: into(np.add(x, y)),
        "out": lambda: np.maximum(np.add(x, y, out=out), zero, out=out),
        "calls": lambda: np.maximum(np.add(x, y), zero),
    }
    return holding(runs[options["form"]], np.asarray)


def matmul(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    a, b = given["a"], given["b"]
    a = a.T if options["layout"][0] == "T" else a
    b = b.T if options["layout"][1] == "T" else b
    out = aligned(np.full((options["m"], options["n"]), np.nan, options["dtype"]))
    return holding(lambda: np.matmul(a, b, out=out), np.asarray)


def softmax_into(x: np.ndarray, out: np.ndarray, axis: int = -1) -> Any:
    np.subtract(x, x.max(axis, keepdims=True), out=out)
    np.exp(out, out=out)
    return np.divide(out, out.sum(axis, keepdims=True), out=out)


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x = given["x"]
    out = aligned(np.full_like(x, np.nan))
    return holding(lambda: softmax_into(x, out, options["axis"]), np.asarray)


def loss_and_gradient(logits: np.ndarray, labels: np.ndarray, rows: np.ndarray, out: np.ndarray) -> Any:
    """The mean cross-entropy; its gradient goes into `out`, which may be `logits`."""
    np.subtract(logits, logits.max(-1, keepdims=True), out=out)
    chosen = out[rows, labels]
    np.exp(out, out=out)
    total = out.sum(-1)
    loss = np.mean(np.log(total) - chosen)
    out *= (1 / (len(rows) * total))[:, None]
    out[rows, labels] -= np.float32(1 / len(rows))
    return loss


def crossentropy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = given["x"], given["labels"]
    rows, gradient = np.arange(len(x)), aligned(np.full_like(x, np.nan))
    losses: list[Any] = [None]

    def run() -> None:
        losses[0] = loss_and_gradient(x, labels, rows, gradient)

    return Case(run, lambda: {"loss": losses[0], "gradient": gradient})


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = given["x"], given["y"]
    return holding(lambda: np.dot(x, y), np.asarray)


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    """One step with every array allocated before."""
    x, labels, rows = given["x"], given["labels"], np.arange(len(given["x"]))
    names = ("w1", "b1", "w2", "b2")
    weights = {name: given[name].copy() for name in names}
    w1, b1, w2, b2 = weights.values()
    gradients = {name: np.empty_like(weights[name]) for name in names}
    means = {name: np.zeros_like(weights[name]) for name in names}
    hidden = np.empty((len(x), len(b1)), np.float32)
    dhidden, active = np.empty_like(hidden), np.empty(hidden.shape, bool)
    logits = np.empty((len(x), len(b2)), np.float32)
    spare = {name: np.empty_like(weights[name]) for name in names}
    rmsprop = options["optimizer"] == "rmsprop"
    losses: list[Any] = [None]
    zero, rate = np.zeros((), np.float32), np.float32(LEARNING_RATE)
    decay, rest, epsilon = np.float32(RMS_DECAY), np.float32(1 - RMS_DECAY), np.float32(RMS_EPSILON)

    def step() -> None:
        np.matmul(x, w1, out=hidden)
        np.add(hidden, b1, out=hidden)
        np.maximum(hidden, zero, out=hidden)
        np.matmul(hidden, w2, out=logits)
        np.add(logits, b2, out=logits)
        losses[0] = loss_and_gradient(logits, labels, rows, logits)
        np.matmul(hidden.T, logits, out=gradients["w2"])
        np.sum(logits, 0, out=gradients["b2"])
        np.matmul(logits, w2.T, out=dhidden)
        np.greater(hidden, zero, out=active)
        np.multiply(dhidden, active, out=dhidden)
        np.matmul(x.T, dhidden, out=gradients["w1"])
        np.sum(dhidden, 0, out=gradients["b1"])
        for name in names:
            w, g, t = weights[name], gradients[name], spare[name]
            if rmsprop:
                v = means[name]
                np.multiply(g, g, out=t)
                np.multiply(t, rest, out=t)
                np.multiply(v, decay, out=v)
                np.add(v, t, out=v)
                np.add(v, epsilon, out=t)
                np.sqrt(t, out=t)
                np.divide(g, t, out=g)
            np.multiply(g, rate, out=g)
            np.subtract(w, g, out=w)

    return Case(step, lambda: {"loss": losses[0], **weights}, stateful=True)


KINDS = {
    "add_relu": add_relu,
    "matmul": matmul,
    "softmax": softmax,
    "crossentropy": crossentropy,
    "vecdot": vecdot,
    "training_step": training_step,
}
