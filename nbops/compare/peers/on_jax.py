"""JAX on the CPU, every workload one jitted function. It has no out=, so that form is not its."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON
from nbops.compare.peers import Case, Unavailable, holding

REQUIRES = ("jax", "jaxlib")

jax: Any = None
jnp: Any = None


def load() -> None:
    global jax, jnp
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")

    jax.config.update("jax_enable_x64", True)  # float64 stays float64; float32 is unchanged


def describe() -> dict[str, Any]:
    jaxlib: Any = importlib.import_module("jaxlib")
    return {
        "versions": {"jax": jax.__version__, "jaxlib": jaxlib.__version__},
        "threads": {"XLA": "all cores"},
        "kernels": f"XLA on {jax.default_backend()}",
    }


def _jitted(function: Callable[..., Any], *operands: Any) -> Case:
    compiled = jax.jit(function)
    return holding(lambda: compiled(*operands).block_until_ready(), np.asarray)


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = jnp.asarray(given["x"]), jnp.asarray(given["y"])
    if options["form"] == "out":
        raise Unavailable("no out=")
    if options["form"] == "calls":
        return holding(lambda: jax.nn.relu(jnp.add(x, y)).block_until_ready(), np.asarray)
    return _jitted(lambda x, y: jnp.maximum(x + y, 0), x, y)


def matmul(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    left, right = options["layout"]

    def product(a: Any, b: Any) -> Any:
        return jnp.matmul(a.T if left == "T" else a, b.T if right == "T" else b)

    return _jitted(product, jnp.asarray(given["a"]), jnp.asarray(given["b"]))


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    return _jitted(functools.partial(jax.nn.softmax, axis=options["axis"]), jnp.asarray(given["x"]))


def _mean_loss(logits: Any, labels: Any) -> Any:
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def crossentropy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = jnp.asarray(given["x"]), jnp.asarray(given["labels"], jnp.int32)
    compiled = jax.jit(jax.value_and_grad(_mean_loss))
    last: list[Any] = [None]

    def run() -> None:
        last[0] = jax.block_until_ready(compiled(x, labels))

    return Case(run, lambda: dict(zip(("loss", "gradient"), map(np.asarray, last[0]), strict=True)))


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    return _jitted(jnp.vecdot, jnp.asarray(given["x"]), jnp.asarray(given["y"]))


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = jnp.asarray(given["x"]), jnp.asarray(given["labels"], jnp.int32)
    names = ("w1", "b1", "w2", "b2")
    weights = {name: jnp.array(given[name]) for name in names}
    means = {name: jnp.zeros_like(w) for name, w in weights.items()}
    rmsprop = options["optimizer"] == "rmsprop"

    def mean_loss(weights: dict[str, Any], x: Any, labels: Any) -> Any:
        hidden = jax.nn.relu(x @ weights["w1"] + weights["b1"])
        return _mean_loss(hidden @ weights["w2"] + weights["b2"], labels)

    def step(weights: dict[str, Any], means: dict[str, Any], x: Any, labels: Any) -> Any:
        loss, gradients = jax.value_and_grad(mean_loss)(weights, x, labels)
        if rmsprop:
            means = {name: RMS_DECAY * means[name] + (1 - RMS_DECAY) * g * g for name, g in gradients.items()}
            gradients = {name: g / jnp.sqrt(means[name] + RMS_EPSILON) for name, g in gradients.items()}
        weights = {name: w - LEARNING_RATE * gradients[name] for name, w in weights.items()}
        return loss, weights, means

    compiled = jax.jit(step, donate_argnums=(0, 1))
    state: list[Any] = [None, weights, means]

    def run() -> None:
        state[:] = jax.block_until_ready(compiled(state[1], state[2], x, labels))

    def fetch() -> dict[str, Any]:
        return {"loss": np.asarray(state[0]), **{name: np.asarray(w) for name, w in state[1].items()}}

    return Case(run, fetch, stateful=True)


KINDS = {
    "add_relu": add_relu,
    "matmul": matmul,
    "softmax": softmax,
    "crossentropy": crossentropy,
    "vecdot": vecdot,
    "training_step": training_step,
}
