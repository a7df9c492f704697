"""The gradients of softmax and log_softmax, each in one pass, from the forward result y::

    softmax       dx[j] = y[j] (dy[j] - Σ y[i] dy[i])
    log_softmax   dx[j] = dy[j] - exp(y[j]) Σ dy[i]

Both read a row of y and of dy, sum over it (float32 in float64), and write a row.
"""

from __future__ import annotations

from typing import Any

from nbops.kernel import Array, lanes
from nbops.op import op
from nbops.ops.elementwise import exp, multiply, negative, subtract
from nbops.ops.products import block_dot, vecdot
from nbops.ops.reductions import block_sum, sum_row
from nbops.ops.shapes import expand_dims
from nbops.tuned.exponential import exp as exponential

__all__ = ["log_softmax_gradient", "softmax_gradient"]


@op("(n),(n)->(n)", integers="float", nanoseconds=0.4)
def softmax_gradient(y: Array, dy: Array, dx: Array) -> None:
    """``dx[j] = y[j] (dy[j] - Σ y[i] dy[i])``: softmax's derivative in terms of its result y."""
    inside = dx.dtype.type(block_dot(y, dy))
    for j in lanes(y.shape[0]):
        dx[j] = y[j] * (dy[j] - inside)


softmax_gradient.tune(cuda="nbops.tuned.cuda.row_gradients:softmax_gradient_plan")


@softmax_gradient.piecewise
def _(y: Any, dy: Any) -> Any:
    return multiply(y, subtract(dy, expand_dims(vecdot(y, dy), -1)))


@softmax_gradient.gradient
def _(y: Any, dy: Any, dx: Any, upstream: Any) -> Any:
    inside, along = expand_dims(vecdot(y, dy), -1), expand_dims(vecdot(upstream, y), -1)
    by_y = subtract(multiply(upstream, subtract(dy, inside)), multiply(along, dy))
    return by_y, softmax_gradient(y, upstream)


@op("(n),(n)->(n)", integers="float", nanoseconds=0.8)
def log_softmax_gradient(y: Array, dy: Array, dx: Array) -> None:
    """``dx[j] = dy[j] - exp(y[j]) Σ dy[i]``: log_softmax's derivative in terms of its result y."""
    total = dx.dtype.type(block_sum(dy))
    for j in lanes(y.shape[0]):
        dx[j] = dy[j] - exponential(y[j]) * total


log_softmax_gradient.tune(cuda="nbops.tuned.cuda.row_gradients:log_softmax_gradient_plan")


@log_softmax_gradient.piecewise
def _(y: Any, dy: Any) -> Any:
    return subtract(dy, multiply(exp(y), expand_dims(sum_row(dy), -1)))


@log_softmax_gradient.gradient
def _(y: Any, dy: Any, dx: Any, upstream: Any) -> Any:
    share = exp(y)
    by_y = negative(multiply(multiply(upstream, share), expand_dims(sum_row(dy), -1)))
    return by_y, subtract(upstream, expand_dims(vecdot(upstream, share), -1))
