"""The loop nest of every elementwise op, written once per number of inputs.

An op puts its formula in the place of `formula`. A nest runs along one row; rows, broadcasting and the split
between cores are the task's business (see `nbops.targets.tasks`).
"""

from __future__ import annotations

from typing import Any

from nbops.kernel import Loop, lanes

__all__ = ["BY_ARITY", "binary", "quaternary", "quinary", "ternary", "unary"]


def formula(*elements: Any) -> Any:
    """Stands in for the op's own formula."""
    raise NotImplementedError


def unary(x: Any, out: Any) -> None:
    for j in lanes(out.shape[0]):
        out[j] = formula(x[j])


def binary(x: Any, y: Any, out: Any) -> None:
    for j in lanes(out.shape[0]):
        out[j] = formula(x[j], y[j])


def ternary(x: Any, y: Any, z: Any, out: Any) -> None:
    for j in lanes(out.shape[0]):
        out[j] = formula(x[j], y[j], z[j])


def quaternary(x: Any, y: Any, z: Any, u: Any, out: Any) -> None:
    for j in lanes(out.shape[0]):
        out[j] = formula(x[j], y[j], z[j], u[j])


def quinary(x: Any, y: Any, z: Any, u: Any, v: Any, out: Any) -> None:
    for j in lanes(out.shape[0]):
        out[j] = formula(x[j], y[j], z[j], u[j], v[j])


BY_ARITY: dict[int, Loop] = {1: unary, 2: binary, 3: ternary, 4: quaternary, 5: quinary}
