"""What the benchmarks share: seeded arrays, and the implementations that stand beside each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import nbops


def array(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Normal numbers; the same for the same arguments."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def implementation(name: str, ours: Callable[..., Any], numpys: Callable[..., Any]) -> Callable[..., Any]:
    """A function to time: NumPy's, or nbops's on a target, warmed up by the caller."""
    if name == "numpy":
        return numpys

    def run(*operands: Any, **keywords: Any) -> Any:
        with nbops.use(name):
            return ours(*operands, **keywords)

    return run


IMPLEMENTATIONS = ["serial", "parallel", "numpy"]
