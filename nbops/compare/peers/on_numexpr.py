"""numexpr: elementwise expressions in one pass; `re_evaluate` spares it the parsing."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from nbops.compare.oracles import aligned
from nbops.compare.peers import Case, Unavailable, holding

REQUIRES = ("numexpr",)

numexpr: Any = None


def load() -> None:
    global numexpr
    numexpr = importlib.import_module("numexpr")


def describe() -> dict[str, Any]:
    return {
        "versions": {"numexpr": numexpr.__version__, "numpy": np.__version__},
        "threads": {"numexpr": numexpr.nthreads},
        "kernels": "VML" if numexpr.use_vml else "numexpr's own",
    }


def add_relu(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    if options["form"] == "calls":
        raise Unavailable("an expression is one call")
    out = aligned(np.full_like(given["x"], np.nan)) if options["form"] == "out" else None
    numexpr.validate("where(x + y > 0, x + y, 0)", local_dict=given, out=out)
    return holding(lambda: numexpr.re_evaluate(local_dict=given), np.asarray)


def softmax(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    x, axis = given["x"], options["axis"]
    out = aligned(np.full_like(x, np.nan))

    def run() -> np.ndarray:
        numexpr.evaluate("exp(x - peak)", {"x": x, "peak": x.max(axis, keepdims=True)}, out=out)
        numexpr.evaluate("out / total", {"out": out, "total": out.sum(axis, keepdims=True)}, out=out)
        return out

    return holding(run, np.asarray)


def vecdot(given: dict[str, np.ndarray], options: dict[str, Any]) -> Case:
    numexpr.validate("sum(x * y)", local_dict=given)
    return holding(lambda: numexpr.re_evaluate(local_dict=given), lambda total: np.asarray(total).reshape(()))


KINDS = {"add_relu": add_relu, "softmax": softmax, "vecdot": vecdot}
