"""Inputs, float64 results and tolerances: what every peer is given and held to.

An error is ``max |result - oracle| / scale``, where the scale of an element is the sum of the absolute values
that were added up for it, so that cancellation is not blamed on the peer. The tolerance is ``4 eps √n`` for
reductions of length n: rounding errors add up like a random walk, with room for a few ulp of an exponential.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "LEARNING_RATE",
    "RMS_DECAY",
    "RMS_EPSILON",
    "Oracle",
    "aligned",
    "error",
    "inputs",
    "oracle",
    "tolerance",
]

Arrays = dict[str, np.ndarray]
Options = dict[str, Any]

CACHE_LINE = 64
LEARNING_RATE = 1e-3
#: RMSprop: v ← decay v + (1 - decay) g², w ← w - rate g / √(v + epsilon)
RMS_DECAY, RMS_EPSILON = 0.9, 1e-7


class Oracle(NamedTuple):
    """A result in float64, and each element's scale."""

    value: np.ndarray
    scale: np.ndarray


# ---- inputs -----------------------------------------------------------------------------------------


def inputs(kind: str, options: Options) -> Arrays:
    """The operands, the same in every process."""
    made = _INPUTS[kind](np.random.default_rng(0), options)
    return {name: aligned(array) for name, array in made.items()}


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins on a cache line.

    The arrays of PyTorch, JAX and TensorFlow do. NumPy's lie where there was room, one place in four on a
    line, and a small workload takes up to 1.6 times as long on the others: chance would decide the ratio.
    """
    memory = np.empty(array.nbytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _pair(rng: np.random.Generator, options: Options) -> Arrays:
    shape, dtype = tuple(options["shape"]), options["dtype"]
    return {name: rng.standard_normal(shape, dtype=dtype) for name in ("x", "y")}


def _matrices(rng: np.random.Generator, options: Options) -> Arrays:
    """A and B as they are stored: with layout TN, a is k × m."""
    m, k, n, dtype = (options[name] for name in ("m", "k", "n", "dtype"))
    a = (k, m) if options["layout"][0] == "T" else (m, k)
    b = (n, k) if options["layout"][1] == "T" else (k, n)
    return {"a": rng.standard_normal(a, dtype=dtype), "b": rng.standard_normal(b, dtype=dtype)}


def _network(rng: np.random.Generator, options: Options) -> Arrays:
    batch, (size, hidden, classes) = options["batch"], options["sizes"]
    f32 = np.float32
    return {
        "x": rng.random((batch, size), dtype=f32),
        "labels": rng.integers(0, classes, batch),
        "w1": rng.standard_normal((size, hidden), dtype=f32) / f32(math.sqrt(size)),
        "b1": np.zeros(hidden, f32),
        "w2": rng.standard_normal((hidden, classes), dtype=f32) / f32(math.sqrt(hidden)),
        "b2": np.zeros(classes, f32),
    }


def _rows(rng: np.random.Generator, options: Options) -> Arrays:
    return {"x": rng.standard_normal(tuple(options["shape"]), dtype=options["dtype"])}


def _labelled_rows(rng: np.random.Generator, options: Options) -> Arrays:
    samples, classes = options["shape"]
    return {**_rows(rng, options), "labels": rng.integers(0, classes, samples)}


def _vectors(rng: np.random.Generator, options: Options) -> Arrays:
    shape = (options["length"],)
    return {name: rng.random(shape, dtype=options["dtype"]) for name in ("x", "y")}


_INPUTS: dict[str, Callable[[np.random.Generator, Options], Arrays]] = {
    "add_relu": _pair,
    "matmul": _matrices,
    "training_step": _network,
    "softmax": _rows,
    "crossentropy": _labelled_rows,
    "vecdot": _vectors,
}


# ---- results ----------------------------------------------------------------------------------------


def oracle(kind: str, given: Arrays, options: Options) -> dict[str, Oracle]:
    """The results in float64, by name."""
    return _ORACLES[kind](given, options)


def _add_relu(given: Arrays, options: Options) -> dict[str, Oracle]:
    x, y = (given[name].astype(np.float64) for name in ("x", "y"))
    return {"out": Oracle(np.maximum(x + y, 0), np.abs(x) + np.abs(y))}


def _matmul(given: Arrays, options: Options) -> dict[str, Oracle]:
    a, b = (given[name].astype(np.float64) for name in ("a", "b"))
    a = a.T if options["layout"][0] == "T" else a
    b = b.T if options["layout"][1] == "T" else b
    return {"out": Oracle(a @ b, np.abs(a) @ np.abs(b))}


def _softmax(given: Arrays, options: Options) -> dict[str, Oracle]:
    value = _probabilities(given["x"].astype(np.float64), options["axis"])
    return {"out": Oracle(value, value)}


def _probabilities(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max(axis, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis, keepdims=True)
    return shares


def _crossentropy(given: Arrays, options: Options) -> dict[str, Oracle]:
    """The mean loss over the rows, and its gradient by the logits."""
    probabilities = _probabilities(given["x"].astype(np.float64))
    samples = len(probabilities)
    onehot = np.zeros_like(probabilities)
    onehot[np.arange(samples), given["labels"]] = 1
    loss = -np.mean(np.log(probabilities[onehot == 1]))
    return {
        "loss": Oracle(np.asarray(loss), np.asarray(loss)),
        "gradient": Oracle((probabilities - onehot) / samples, (probabilities + onehot) / samples),
    }


def _vecdot(given: Arrays, options: Options) -> dict[str, Oracle]:
    x, y, step = given["x"], given["y"], 1 << 20
    total = math.fsum(
        float(np.dot(x[i : i + step].astype(np.float64), y[i : i + step].astype(np.float64)))
        for i in range(0, len(x), step)
    )
    return {"out": Oracle(np.asarray(total), np.asarray(total))}  # the terms are positive


def _training_step(given: Arrays, options: Options) -> dict[str, Oracle]:
    """The loss, and the weights after one step."""
    x, w1, b1, w2, b2 = (given[name].astype(np.float64) for name in ("x", "w1", "b1", "w2", "b2"))
    hidden = np.maximum(x @ w1 + b1, 0)
    probabilities = _probabilities(hidden @ w2 + b2)
    at = (np.arange(len(x)), given["labels"])
    loss = -np.mean(np.log(probabilities[at]))
    onehot = np.zeros_like(probabilities)
    onehot[at] = 1
    active = hidden > 0
    gradients = _backwards(x, hidden, active, (probabilities - onehot) / len(x), w2)
    # Their scales: the same sums of absolute values, down to those that made a hidden activation.
    summed = np.abs(x) @ np.abs(w1) + np.abs(b1)
    scales = _backwards(np.abs(x), summed, active, (probabilities + onehot) / len(x), np.abs(w2))
    results = {"loss": Oracle(np.asarray(loss), np.asarray(loss))}
    for name, g in gradients.items():
        step, slope = _update(g, options)
        before = given[name].astype(np.float64)
        # The weight and the step are rounded once or twice; only the gradient has a reduction's error.
        rounding = (np.abs(before) + LEARNING_RATE * np.abs(step)) / math.sqrt(max(options["sizes"]))
        results[name] = Oracle(before - LEARNING_RATE * step, LEARNING_RATE * slope * scales[name] + rounding)
    return results


def _backwards(
    x: np.ndarray, hidden: np.ndarray, active: np.ndarray, dz2: np.ndarray, w2: np.ndarray
) -> Arrays:
    """The weights' gradients from the logits'."""
    dz1 = (dz2 @ w2.T) * active
    return {"w1": x.T @ dz1, "b1": dz1.sum(0), "w2": (hidden * active).T @ dz2, "b2": dz2.sum(0)}


def _update(g: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """What the optimizer makes of a gradient in its first step, and by how much that magnifies errors."""
    if options["optimizer"] == "sgd":
        return g, np.ones_like(g)
    v = (1 - RMS_DECAY) * g * g
    if options.get("epsilon") == "outside":  # of the root: torch
        below = np.sqrt(v) + math.sqrt(RMS_EPSILON)
        return g / below, math.sqrt(RMS_EPSILON) / below**2
    below = np.sqrt(v + RMS_EPSILON)
    return g / below, RMS_EPSILON / below**3


_ORACLES: dict[str, Callable[[Arrays, Options], dict[str, Oracle]]] = {
    "add_relu": _add_relu,
    "matmul": _matmul,
    "training_step": _training_step,
    "softmax": _softmax,
    "crossentropy": _crossentropy,
    "vecdot": _vecdot,
}


# ---- agreement --------------------------------------------------------------------------------------


def tolerance(kind: str, options: Options) -> float:
    """The largest error of a right result.

    Examples
    --------
    >>> from nbops.compare.oracles import tolerance
    >>> tolerance("vecdot", {"length": 100, "dtype": "float64"}) == 40 * 2.0**-52
    True
    """
    lengths: dict[str, Callable[[], int]] = {
        "add_relu": lambda: 1,
        "matmul": lambda: options["k"],
        "training_step": lambda: max(options["sizes"]),
        "softmax": lambda: options["shape"][options["axis"]],
        "crossentropy": lambda: options["shape"][1],
        "vecdot": lambda: options["length"],
    }
    eps = np.finfo(options.get("dtype", "float32")).eps
    return 4 * float(eps) * math.sqrt(lengths[kind]())


def error(results: Arrays, expected: dict[str, Oracle]) -> float:
    """The largest error of all results; infinite where one is missing, misshapen or NaN."""
    worst = 0.0
    for name, (value, scale) in expected.items():
        result = results.get(name)
        if result is None or np.shape(result) != value.shape:
            return math.inf
        difference = np.abs(np.asarray(result, np.float64) - value)
        limit = np.maximum(scale, np.finfo(np.float32).tiny)
        largest = float(np.max(difference / limit, initial=0.0))
        worst = max(worst, math.inf if math.isnan(largest) else largest)
    return worst
