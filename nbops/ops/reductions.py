"""Sums and means over axes.

Two loops do all of it: the sum of a row, and the sum of the rows of a matrix, which reads memory in order
where the summed axis is not the last. A row is summed in blocks of one size, which cores can share; the order
of the additions depends on the length alone, never on the thread count.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbops import arrays
from nbops.dtypes import check_real
from nbops.kernel import Array, Dtypes, Scalar, Tasks, lanes
from nbops.op import Op, op
from nbops.ops.elementwise import divide, multiply
from nbops.ops.shapes import broadcast_like, expand_dims, reshape, shape_of, transpose
from nbops.targets import cuda
from nbops.tuned import sums_cpu
from nbops.tuned.sums_cpu import BLOCK, wide
from nbops.tuned.twins import compiled_as

__all__ = ["mean", "sum"]


@compiled_as(sums_cpu.block_sum)
def block_sum(x: Array) -> Scalar:
    """``Σ x[i]``, in float64 for float32."""
    total = wide(x.dtype.type(0))
    for i in range(x.shape[0]):
        total += x[i]
    return total


@op("(n)->()", nanoseconds=0.1)
def sum_row(x: Array, out: Array) -> None:
    """The sum of a row: of blocks, and then of the blocks' sums in their order."""
    total = wide(x.dtype.type(0))
    for start in range(0, x.shape[0], BLOCK):
        total += block_sum(x[start : start + BLOCK])
    out[()] = total


sum_row.split(reduced="n")


@sum_row.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import blocks_cpu

    return blocks_cpu.block_tasks(sum_row.kernel, dtypes, layout, sums_cpu.block_sum)


sum_row.tune(cuda="nbops.tuned.cuda.sums:row_plan")


@sum_row.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return broadcast_like(expand_dims(dout, -1), x)


@op("(m,n)->(n)", nanoseconds=0.1)
def sum_rows(x: Array, out: Array) -> None:
    """The sum of a matrix's rows."""
    for j in lanes(x.shape[1]):
        out[j] = 0
    for i in range(x.shape[0]):
        for j in lanes(x.shape[1]):
            out[j] += x[i, j]


sum_rows.split("n", reduced="m")


@sum_rows.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import gemm_cpu

    return gemm_cpu.sums_tasks(dtypes[0]) if dtypes[0].kind == "f" else None


sum_rows.tune(cuda="nbops.tuned.cuda.sums:rows_plan")


@sum_rows.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return broadcast_like(expand_dims(dout, -2), x)


def sum(
    x: Any,
    axis: int | Sequence[int] | None = None,
    *,
    dtype: Any = None,
    keepdims: bool = False,
    out: Any = None,
) -> Any:
    """The sum over some axes, or all.

    Parameters
    ----------
    x : array_like
        Integers narrower than 64 bits are summed in 64, as in NumPy; a TensorFlow tensor keeps its dtype.
    axis : int or sequence of int, optional
        All axes unless given.
    dtype : dtype, optional
        To convert `x` to before it is summed.
    keepdims : bool
        Keep the summed axes with length 1.
    out : ndarray, optional
        Where to write the result; may not be given with tensors.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        For an axis that `x` does not have, or one named twice.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.sum(np.array([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    array([4., 6.])
    """
    plain = _loop_of_plain(x, axis) if dtype is None and out is None and not keepdims else None
    if plain is not None:
        return plain(x)
    if arrays.is_tensorflow(x):
        x = x if dtype is None else sys.modules["tensorflow"].cast(x, dtype)
    else:
        x = _as_numbers(x, "sum")
        own = arrays.dtype_of(x)
        if dtype is not None:
            check_real(np.dtype(dtype), "sum", "the result")
            x = arrays.astype(x, np.dtype(dtype), "sum")
        elif own.kind in "iu" and own.itemsize < 8:
            x = arrays.astype(x, np.int64 if own.kind == "i" else np.uint64, "sum")
    shape = shape_of(x, "sum")
    if arrays.is_dask(x):
        shape = (-1,) * len(shape)  # axis by axis: merging axes would move chunks
    axes = normalize(axis, len(shape), "sum")
    result = _sum_axes(x, shape, axes)
    if keepdims:
        for i in axes:
            result = expand_dims(result, i)
    return arrays.into(out, result, "sum")


def _loop_of_plain(x: Any, axis: Any) -> Op | None:
    """The loop that is all there is to a call, as in most: of a float array, along its last or first axis.

    Everything else that a call may be takes longer to tell than a small sum.
    """
    if not arrays.is_plain(x):
        return None
    if (axis is None and x.ndim == 1) or (type(axis) is int and axis in (-1, x.ndim - 1) and x.ndim > 0):
        return sum_row
    return sum_rows if type(axis) is int and axis == 0 and x.ndim == 2 else None


def _as_numbers(x: Any, name: str) -> Any:
    """An ndarray, a Dask array, or an array on a GPU."""
    stays = arrays.is_dask(x) or cuda.is_device_array(x)
    array = x if stays else np.asarray(arrays.as_array(x, name, "x"))
    check_real(arrays.dtype_of(array), name, "x")
    return array


def normalize(axis: int | Sequence[int] | None, ndim: int, name: str) -> list[int]:
    """The axes as sorted non-negative numbers."""
    if axis is None:
        return list(range(ndim))
    several: Sequence[Any] = axis if isinstance(axis, Sequence) else [axis]
    try:
        if any(isinstance(i, bool) for i in several):  # NumPy's are no index
            raise TypeError
        given = [operator.index(i) for i in several]
    except TypeError:
        raise TypeError(f"{name}: axis is {axis!r}; expected an integer, several, or None") from None
    for i in given:
        if not -ndim <= i < ndim:
            raise ValueError(f"{name}: axis is {i}, but the array has {ndim} axes")
    axes = sorted(i % ndim for i in given)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: axis is {tuple(given)}, which names an axis twice")
    return axes


def _sum_axes(x: Any, shape: tuple[int, ...], axes: list[int]) -> Any:
    if not axes and (arrays.is_tensorflow(x) or cuda.is_device_array(x)):
        return multiply(x, 1)  # an op, which checks the dtype
    if not axes:
        return x.copy()[()]
    ndim = len(shape)
    first, last = axes[0], axes[-1]
    if axes != list(range(first, last + 1)):  # bring scattered axes together, at the end
        order = [i for i in range(ndim) if i not in axes] + axes
        shape = tuple(shape[i] for i in order)
        return _sum_axes(transpose(x, order), shape, list(range(ndim - len(axes), ndim)))
    if len(axes) > 1 and -1 not in shape:
        merged = math.prod(shape[first : last + 1])
        x = reshape(x, (*shape[:first], merged, *shape[last + 1 :]))
    elif len(axes) > 1:  # unknown lengths: axis by axis
        return _sum_axes(_sum_axes(x, shape, [last]), (*shape[:last], *shape[last + 1 :]), axes[:-1])
    behind = shape[last + 1 :]
    if not behind:
        return sum_row(x)
    if len(behind) == 1:
        return sum_rows(x)
    if -1 in behind or -1 in shape[:first]:
        return sum_row(x, axes=[(first,), ()])
    merged = math.prod(behind)
    length = math.prod(shape[first : last + 1])
    return reshape(sum_rows(reshape(x, (*shape[:first], length, merged))), (*shape[:first], *behind))


def mean(x: Any, axis: int | Sequence[int] | None = None, *, keepdims: bool = False, out: Any = None) -> Any:
    """The arithmetic mean over some axes, or all; NaN where nothing is averaged.

    Parameters
    ----------
    x : array_like
        Integers are averaged in float64; float16 is summed in float32.
    axis : int or sequence of int, optional
        All axes unless given.
    keepdims : bool
        Keep the averaged axes with length 1.
    out : ndarray, optional
        Where to write the result; may not be given with tensors.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.mean(np.array([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    array([1.5, 3.5])
    """
    plain = _loop_of_plain(x, axis) if out is None and not keepdims else None
    if plain is not None and x.size:
        sums = plain(x)
        number = x.dtype.type(x.size // sums.size)
        return sums / number if isinstance(sums, np.generic) else divide(sums, number)
    if arrays.is_tensorflow(x):
        from nbops import tensorflow

        arrays.refuse_for_tensors("mean", out=out)
        return tensorflow.mean(x, axis, keepdims)
    x = _as_numbers(x, "mean")
    dtype = arrays.dtype_of(x)
    axes = normalize(axis, len(x.shape), "mean")
    count = _count(x, axes)
    result_dtype = dtype if dtype.kind not in "iu" else np.dtype(np.float64)
    wide = np.float32 if dtype.itemsize == 2 and dtype.kind not in "iu" else result_dtype
    total = sum(arrays.astype(x, wide, "mean"), axis, keepdims=keepdims)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        by = np.true_divide if isinstance(total, np.generic) else divide
        average = arrays.astype(by(total, count.astype(wide)), result_dtype, "mean")
    return arrays.into(out, average, "mean")


def _count(x: Any, axes: Sequence[int]) -> Any:
    """The number of elements along some axes, 0-d."""
    if arrays.is_dask(x):
        from nbops import dask

        return dask.count(x, axes)
    return np.int64(math.prod(x.shape[i] for i in axes))
