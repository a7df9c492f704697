"""Cross-entropy between labels and logits: the loss, its gradient, and both in one pass.

With m the row's maximum, and no probability ever rounded to 0::

    loss        = log Σ exp(x[i] - m) - (x[label] - m)
    gradient[i] = dout (exp(x[i] - m) / Σ exp(x[j] - m) - (1 if i is label else 0))

An element of the gradient so small that products with it would be subnormal numbers (below 1e-29 in float32,
1e-298 in float64) is 0. Saturated predictions have many of them, and with subnormal numbers a processor
computes a hundred times slower, in every product of the backward pass.

A label outside 0 … n-1 gives NaN on arrays, whose labels `nbops.sparse_categorical_crossentropy` checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.kernel import Array, Scalar, lanes
from nbops.op import op
from nbops.ops.elementwise import add, divide, log, multiply, subtract
from nbops.ops.products import vecdot
from nbops.ops.shapes import expand_dims, positions
from nbops.ops.softmax import exp_below, largest, peak_and_sum, softmax, sum_exp_below
from nbops.ops.softmax_gradients import softmax_gradient

__all__ = ["crossentropy_and_gradient", "crossentropy_from_logits", "crossentropy_from_logits_gradient"]


NEARLY_SUBNORMAL = 2.0**30  # times the smallest normal number


def spread_exponentials(powers: Array, total: Scalar, index: Scalar, dout: Scalar) -> None:
    """From ``exp(x - m)`` and its sum to the gradient, in place."""
    scale = dout / total
    nothing = powers.dtype.type(np.finfo(powers.dtype).tiny * NEARLY_SUBNORMAL)
    for j in range(powers.shape[0]):
        value = powers[j] * scale
        powers[j] = powers.dtype.type(0) if -nothing < value < nothing else value
    powers[index] -= dout


@op("(),(n)->()", types="int64,T->T", integers="float", nanoseconds=0.9)
def crossentropy_from_logits(label: Array, x: Array, out: Array) -> None:
    """``log Σ exp(x - m) - (x[label] - m)``."""
    index = label[()]
    if index < 0 or index >= x.shape[0]:
        out[()] = np.nan
        return
    peak = largest(x)
    out[()] = np.log(sum_exp_below(x, peak)) - (x[index] - peak)


crossentropy_from_logits.tune(cuda="nbops.tuned.cuda.rows:crossentropy_from_logits_plan")
crossentropy_from_logits.labelled("label", "n")


@crossentropy_from_logits.piecewise
def _(label: Any, x: Any) -> Any:
    peak, total = peak_and_sum(x)
    return subtract(log(total), subtract(take_label(label, x), peak))


@crossentropy_from_logits.gradient
def _(label: Any, x: Any, out: Any, dout: Any) -> Any:
    return None, crossentropy_from_logits_gradient(label, x, dout)


@op("(),(n),()->(n)", types="int64,T,T->T", integers="float", nanoseconds=1.0)
def crossentropy_from_logits_gradient(label: Array, x: Array, dout: Array, out: Array) -> None:
    """``dout (softmax(x) - onehot(label))``."""
    index = label[()]
    if index < 0 or index >= x.shape[0]:
        for j in range(x.shape[0]):
            out[j] = np.nan
        return
    spread_exponentials(out, exp_below(x, largest(x), out), index, dout[()])


crossentropy_from_logits_gradient.tune(cuda="nbops.tuned.cuda.rows:crossentropy_from_logits_gradient_plan")
crossentropy_from_logits_gradient.labelled("label", "n")


@crossentropy_from_logits_gradient.piecewise
def _(label: Any, x: Any, dout: Any) -> Any:
    return multiply(expand_dims(dout, -1), subtract(softmax(x), one_hot(label, positions(x), x)))


@crossentropy_from_logits_gradient.gradient
def curvature(label: Any, x: Any, dout: Any, out: Any, upstream: Any) -> Any:
    by_x = multiply(expand_dims(dout, -1), softmax_gradient(softmax(x), upstream))
    by_dout = subtract(vecdot(upstream, softmax(x)), take_label(label, upstream))
    return None, by_x, by_dout


@op("(),(n),()->(),(n)", types="int64,T,T->T,T", integers="float", nanoseconds=0.9)
def crossentropy_and_gradient(label: Array, x: Array, dout: Array, loss: Array, gradient: Array) -> None:
    """The loss and ``dout (softmax(x) - onehot(label))``, which share their exponentials.

    Where it is known beforehand what the loss will be multiplied by, such as 1 / batch size, this is one pass
    over the logits instead of two.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.ops.logits import crossentropy_and_gradient
    >>> loss, gradient = crossentropy_and_gradient(np.array([0]), np.zeros((1, 2)), np.ones(1))
    >>> bool(np.isclose(loss[0], np.log(2))), gradient.tolist()
    (True, [[-0.5, 0.5]])
    """
    index = label[()]
    if index < 0 or index >= x.shape[0]:
        loss[()] = np.nan
        for j in range(x.shape[0]):
            gradient[j] = np.nan
        return
    peak = largest(x)
    below = x[index] - peak
    total = exp_below(x, peak, gradient)
    loss[()] = np.log(total) - below
    spread_exponentials(gradient, total, index, dout[()])


crossentropy_and_gradient.tune(cuda="nbops.tuned.cuda.rows:crossentropy_and_gradient_plan")
crossentropy_and_gradient.labelled("label", "n")


@crossentropy_and_gradient.piecewise
def _(label: Any, x: Any, dout: Any) -> Any:
    return crossentropy_from_logits(label, x), crossentropy_from_logits_gradient(label, x, dout)


@crossentropy_and_gradient.gradient
def _(label: Any, x: Any, dout: Any, loss: Any, gradient: Any, by_loss: Any, by_gradient: Any) -> Any:
    by_x = crossentropy_from_logits_gradient(label, x, by_loss)
    _, again, by_dout = curvature(label, x, dout, gradient, by_gradient)
    return None, add(by_x, again), by_dout


@op("(),(n)->()", types="int64,T->T", integers="float")
def take_label(label: Array, x: Array, out: Array) -> None:
    """``x[label]``, or NaN where there is no such element."""
    index = label[()]
    if index < 0 or index >= x.shape[0]:
        out[()] = np.nan
    else:
        out[()] = x[index]


@take_label.piecewise
def _(label: Any, x: Any) -> Any:
    value, found = find_label(label, positions(x), x)
    return divide(value, found)  # found is 1; 0 / 0, NaN, where there is no such element


@op("(),(n),(n)->(),()", types="int64,int64,T->T,T", integers="float")
def find_label(label: Array, position: Array, x: Array, value: Array, found: Array) -> None:
    """The element of a piece whose position in the whole row is `label`, and 1; or 0 and 0."""
    value[()] = 0
    found[()] = 0
    for j in range(x.shape[0]):
        if position[j] == label[()]:
            value[()] = x[j]
            found[()] = 1


find_label.split(reduced="n")


@op("(),(n),(n)->(n)", types="int64,int64,T->T", integers="float", nanoseconds=0.5)
def one_hot(label: Array, position: Array, x: Array, out: Array) -> None:
    """1 where the position is `label`, else 0, in the dtype of `x`."""
    for j in lanes(x.shape[0]):
        out[j] = 1 if position[j] == label[()] else 0


one_hot.split("n")
