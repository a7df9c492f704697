"""PyTorch, eager, on the CPU; `torch.optim` in its foreach form."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from nbops.compare.oracles import LEARNING_RATE, RMS_DECAY, RMS_EPSILON
from nbops.compare.peers import Case, holding

REQUIRES = ("torch",)

torch: Any = None


def load() -> None:
    global torch
    torch = importlib.import_module("torch")


def describe() -> dict[str, Any]:
    return {
        "versions": {"torch": torch.__version__, "mkl": torch.backends.mkl.is_available()},
        "threads": {"torch": torch.get_num_threads(), "interop": torch.get_num_interop_threads()},
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }


def _tensors(given: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in given.items()}


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = _tensors(given).values()
    out = torch.full_like(x, math.nan)
    runs = {
        "fused": lambda: torch.relu_(torch.add(x, y)),
        "out": lambda: torch.relu_(torch.add(x, y, out=out)),
        "calls": lambda: torch.relu(torch.add(x, y)),
    }
    return holding(runs[options["form"]], np.asarray)


def matmul(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    a, b = _tensors(given).values()
    a = a.T if options["layout"][0] == "T" else a
    b = b.T if options["layout"][1] == "T" else b
    out = torch.full((options["m"], options["n"]), math.nan, dtype=a.dtype)
    return holding(lambda: torch.mm(a, b, out=out), np.asarray)


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x = torch.from_numpy(given["x"])
    out = torch.full_like(x, math.nan)
    return holding(lambda: torch.softmax(x, options["axis"], out=out), np.asarray)


def crossentropy(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = _tensors(given).values()
    x.requires_grad_()
    losses: list[Any] = [None]

    def run() -> None:
        x.grad = None
        losses[0] = torch.nn.functional.cross_entropy(x, labels)
        losses[0].backward()

    return Case(run, lambda: {"loss": losses[0].detach().numpy(), "gradient": x.grad.numpy()})


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, y = _tensors(given).values()
    return holding(lambda: torch.dot(x, y), np.asarray)


def training_step(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, labels = torch.from_numpy(given["x"]), torch.from_numpy(given["labels"])
    weights = {name: torch.tensor(given[name], requires_grad=True) for name in ("w1", "b1", "w2", "b2")}
    w1, b1, w2, b2 = weights.values()
    if options["optimizer"] == "rmsprop":
        # torch adds epsilon to the root, the others add it under the root: this one limits steps alike.
        optimizer = torch.optim.RMSprop(
            weights.values(), lr=LEARNING_RATE, alpha=RMS_DECAY, eps=math.sqrt(RMS_EPSILON), foreach=True
        )
    else:
        optimizer = torch.optim.SGD(weights.values(), lr=LEARNING_RATE, foreach=True)
    losses: list[Any] = [None]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        hidden = torch.relu(torch.addmm(b1, x, w1))
        losses[0] = torch.nn.functional.cross_entropy(torch.addmm(b2, hidden, w2), labels)
        losses[0].backward()
        optimizer.step()

    def fetch() -> dict[str, Any]:
        results = {"loss": losses[0], **weights}
        return {name: tensor.detach().numpy() for name, tensor in results.items()}

    return Case(step, fetch, stateful=True)


#: torch's RMSprop puts epsilon outside the root; the oracle follows.
ORACLE_OPTIONS = {"epsilon": "outside"}

KINDS = {
    "add_relu": add_relu,
    "matmul": matmul,
    "softmax": softmax,
    "crossentropy": crossentropy,
    "vecdot": vecdot,
    "training_step": training_step,
}
