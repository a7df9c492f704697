"""softmax and log_softmax along one axis.

Both subtract the row's maximum first, so that no exponential overflows. The running maximum starts from the
row's first element, never from 0. A NaN, or an infinity that meets another, makes its whole row NaN.

A compiled softmax gives 0 for less than e^-80 of a row's largest share (e^-690 in float64), rather than
subnormal numbers, with which everything after it would be slow.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from nbops import arrays
from nbops.kernel import Array, Scalar, lanes
from nbops.op import Op, elementwise, op
from nbops.ops.elementwise import add, log, maximum, subtract
from nbops.ops.shapes import expand_dims
from nbops.ops.softmax_columns import along_columns, log_softmax_of_columns, softmax_of_columns
from nbops.ops.softmax_gradients import log_softmax_gradient, softmax_gradient
from nbops.tuned import rows_cpu
from nbops.tuned.exponential import exp as exponential
from nbops.tuned.exponential import exp_nonpositive
from nbops.tuned.twins import compiled_as

__all__ = ["log_softmax", "softmax"]


@compiled_as(rows_cpu.largest)
def largest(x: Array) -> Scalar:
    """The row's largest element. A NaN may be passed over: it comes back through the exponential."""
    peak = x[0]
    for j in range(x.shape[0]):
        peak = x[j] if x[j] > peak else peak
    return peak


@compiled_as(rows_cpu.sum_exp_below)
def sum_exp_below(x: Array, peak: Scalar) -> Scalar:
    """``Σ exp(x[j] - peak)``."""
    total = x.dtype.type(0)
    for j in range(x.shape[0]):
        total += np.exp(x[j] - peak)
    return total


@compiled_as(rows_cpu.exp_below)
def exp_below(x: Array, peak: Scalar, out: Array) -> Scalar:
    """Fill ``out[j] = exp(x[j] - peak)`` and return the sum; `out` may be `x`."""
    total = x.dtype.type(0)
    for j in range(x.shape[0]):
        out[j] = np.exp(x[j] - peak)
        total += out[j]
    return total


def softmax_row(x: Array, out: Array) -> None:
    """``out[j] = exp(x[j] - m) / Σ exp(x[i] - m)`` with m the row's maximum; `out` may be `x`."""
    if x.shape[0] > 0:
        scale = out.dtype.type(1) / exp_below(x, largest(x), out)  # the sum is at least 1
        for j in range(x.shape[0]):
            out[j] *= scale


# ---- a row in pieces --------------------------------------------------------------------------------


@op("(n)->(),()", name="peak_and_sum", integers="float", nanoseconds=0.9)
def peak_and_sum(x: Array, peak: Array, total: Array) -> None:
    """A row's largest element m, and ``Σ exp(x[j] - m)``, from which rows in pieces are put together.

    An empty row, or one of -inf alone, is (-inf, 0), which changes nothing that it is combined with.
    """
    peak[()] = -np.inf
    if x.shape[0] > 0:
        peak[()] = largest(x)
    shift = peak[()]
    if shift == -np.inf:
        shift = x.dtype.type(0)
    total[()] = sum_exp_below(x, shift)


@elementwise(name="rescaled", integers="float", nanoseconds=1.0)
def rescaled(total: Scalar, peak: Scalar, higher: Scalar) -> Scalar:
    """A sum of exponentials below `peak`, as one below a higher peak."""
    return total if peak == higher else total * exponential(peak - higher)


def _combine(left: Any, right: Any) -> Any:
    (m, total), (n, other) = left, right
    peak = maximum(m, n)
    return peak, add(rescaled(total, m, peak), rescaled(other, n, peak))


peak_and_sum.split(reduced="n", combine=_combine)


@op("(n),(),()->(n)", name="exp_below_over", integers="float", nanoseconds=0.5)
def exp_below_over(x: Array, peak: Array, total: Array, out: Array) -> None:
    """``out[j] = exp(x[j] - peak) / total``, where no element is above its row's peak."""
    shift, whole = peak[()], total[()]
    for j in lanes(x.shape[0]):
        out[j] = exp_nonpositive(x[j] - shift) / whole


exp_below_over.split("n")


# ---- the ops ----------------------------------------------------------------------------------------

softmax_last = op("(n)->(n)", name="softmax", integers="float", nanoseconds=1.0, in_place=("x",))(softmax_row)


softmax_last.tune(cuda="nbops.tuned.cuda.rows:softmax_plan")


@softmax_last.piecewise
def _(x: Any) -> Any:
    peak, total = peak_and_sum(x)
    return exp_below_over(x, peak, total)


@softmax_last.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return softmax_gradient(out, dout)


@op("(n)->(n)", name="log_softmax", integers="float", nanoseconds=1.0)
def log_softmax_last(x: Array, out: Array) -> None:
    """``out[j] = x[j] - m - log Σ exp(x[i] - m)`` with m the row's maximum."""
    if x.shape[0] > 0:
        peak = largest(x)
        shift = np.log(sum_exp_below(x, peak))
        for j in range(x.shape[0]):
            out[j] = (x[j] - peak) - shift


log_softmax_last.tune(cuda="nbops.tuned.cuda.rows:log_softmax_plan")


@log_softmax_last.piecewise
def _(x: Any) -> Any:
    peak, total = peak_and_sum(x)
    return subtract(subtract(x, expand_dims(peak, -1)), expand_dims(log(total), -1))


@log_softmax_last.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return log_softmax_gradient(out, dout)


def softmax(x: Any, axis: int = -1, *, out: Any = None, target: str | None = None) -> Any:
    """Exponentials along an axis, scaled to a sum of 1.

    Parameters
    ----------
    x : array_like
        Integers or floating point; integers are computed in floating point.
    axis : int
        The axis along which there is one row.
    out : ndarray, optional
        Where to write the result; may not be given with tensors.
    target : str, optional
        See `nbops.use`.

    Returns
    -------
    array, shape of `x`
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _along(softmax_last, softmax_of_columns, x, axis, out, target)


def log_softmax(x: Any, axis: int = -1, *, out: Any = None, target: str | None = None) -> Any:
    """The logarithm of `softmax`, without its loss of small values.

    Parameters
    ----------
    x : array_like
        Integers or floating point; integers are computed in floating point.
    axis : int
        The axis along which there is one row.
    out : ndarray, optional
        Where to write the result; may not be given with tensors.
    target : str, optional
        See `nbops.use`.

    Returns
    -------
    array, shape of `x`
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.log_softmax(np.array([1000.0, 0.0]))
    array([    0., -1000.])
    """
    return _along(log_softmax_last, log_softmax_of_columns, x, axis, out, target)


def _along(rows: Op, columns: Op, x: Any, axis: int, out: Any, target: str | None) -> Any:
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"{rows.name}: axis is {axis!r}; expected one integer") from None
    last = axis == -1 or axis + 1 == arrays.rank(x)
    result = None if last else along_columns(columns, x, axis, out, target)
    if result is not None:
        return result
    axes = None if last else [(axis,), (axis,)]
    return rows(x, out=out, axes=axes, target=target)
