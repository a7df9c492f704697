"""Products: vecdot, matvec, vecmat, matmul and dot, named and broadcast as in NumPy.

Axes before the core axes broadcast, so every product is batched. Accumulation is in the operands' dtype
(float32 for half precision), in the order of the loop.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nbops import arrays
from nbops.kernel import Array, Dtypes, Scalar, Tasks, lanes, prange
from nbops.op import Op, op
from nbops.ops.elementwise import multiply
from nbops.ops.shapes import expand_dims, lengths_of, reshape, shape_of, transpose
from nbops.tuned import sums_cpu
from nbops.tuned.sums_cpu import BLOCK, wide
from nbops.tuned.twins import compiled_as

__all__ = ["dot", "matmul", "matvec", "vecdot", "vecmat"]

# `axes=` of a matrix product, as in NumPy: where each matrix keeps its rows and columns. The gradients read
# their operands transposed this way, without a copy.
_AS_IS, _TRANSPOSED = (-2, -1), (-1, -2)


@compiled_as(sums_cpu.block_dot)
def block_dot(x: Array, y: Array) -> Scalar:
    """``Σ x[i] y[i]``, in float64 for float32."""
    total = wide(x.dtype.type(0))
    for i in range(x.shape[0]):
        total += wide(x[i]) * wide(y[i])
    return total


@op("(n),(n)->()", nanoseconds=0.15)
def vecdot(x: Array, y: Array, out: Array) -> None:
    """The dot product of two vectors, ``out = Σ x[i] y[i]``; 0 for empty ones.

    Raises
    ------
    ValueError
        When the last axes differ or the others don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> float(nbops.vecdot(np.array([1.0, 2.0]), np.array([3.0, 4.0])))
    11.0
    """
    total = wide(x.dtype.type(0))
    for start in range(0, x.shape[0], BLOCK):
        total += block_dot(x[start : start + BLOCK], y[start : start + BLOCK])
    out[()] = total


vecdot.split(reduced="n")


@vecdot.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import blocks_cpu

    return blocks_cpu.block_tasks(vecdot.kernel, dtypes, layout, sums_cpu.block_dot)


vecdot.tune(cuda="nbops.tuned.cuda.vector_products:vecdot_plan")


@vecdot.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    column = expand_dims(dout, -1)
    return multiply(column, y), multiply(column, x)


@compiled_as(sums_cpu.row_dot)
def row_dot(row: Array, x: Array) -> Scalar:
    """``Σ row[j] x[j]``."""
    total = row.dtype.type(0)
    for j in range(row.shape[0]):
        total += row[j] * x[j]
    return total


@op("(m,n),(n)->(m)", nanoseconds=0.15)
def matvec(a: Array, x: Array, out: Array) -> None:
    """A matrix times a vector, ``out[i] = Σ a[i, j] x[j]``.

    Raises
    ------
    ValueError
        When a.shape[-1] differs from x.shape[-1] or the other axes don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.matvec(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    for i in prange(a.shape[0]):
        out[i] = row_dot(a[i], x)


matvec.split("m", reduced="n")
matvec.tune(cuda="nbops.tuned.cuda.vector_products:matvec_plan")


@matvec.gradient
def _(a: Any, x: Any, out: Any, dout: Any) -> Any:
    return multiply(expand_dims(dout, -1), expand_dims(x, -2)), vecmat(dout, a)


@op("(m),(m,n)->(n)", nanoseconds=0.1)
def vecmat(x: Array, a: Array, out: Array) -> None:
    """A vector times a matrix, ``out[j] = Σ x[i] a[i, j]``.

    Raises
    ------
    ValueError
        When x.shape[-1] differs from a.shape[-2] or the other axes don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.vecmat(np.array([1.0, 10.0]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([31., 42.])
    """
    for j in lanes(a.shape[1]):
        out[j] = 0
    for i in range(a.shape[0]):
        for j in lanes(a.shape[1]):
            out[j] += x[i] * a[i, j]


vecmat.split("n", reduced="m")


@vecmat.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import gemm_cpu

    return gemm_cpu.row_tasks(dtypes[0]) if dtypes[0].kind == "f" else None


vecmat.tune(cuda="nbops.tuned.cuda.vector_products:vecmat_plan")


@vecmat.gradient
def _(x: Any, a: Any, out: Any, dout: Any) -> Any:
    return matvec(a, dout), multiply(expand_dims(x, -1), expand_dims(dout, -2))


@op("(m,k),(k,n)->(m,n)", nanoseconds=0.1)
def matmul(a: Array, b: Array, out: Array) -> None:
    """The matrix product, ``out[i, j] = Σ a[i, p] b[p, j]``.

    An array of one axis is a row on the left and a column on the right, as in NumPy, and the result lacks the
    axis. TensorFlow's matmul takes no such tensors.

    Raises
    ------
    ValueError
        When a.shape[-1] differs from b.shape[-2] or the other axes don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    for i in prange(a.shape[0]):
        for j in lanes(b.shape[1]):
            out[i, j] = 0
        for p in range(a.shape[1]):
            for j in lanes(b.shape[1]):
                out[i, j] += a[i, p] * b[p, j]


matmul.split("m,n", reduced="k")


@matmul.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import gemm_cpu

    return gemm_cpu.product_tasks(dtypes[0]) if dtypes[0].kind == "f" else None


matmul.tune(cuda="nbops.tuned.cuda.products:matmul_plan")


@matmul.fewer_axes
def _(a: int, b: int) -> Op | None:
    if (a > 1 and b > 1) or 0 in (a, b):
        return None
    return matvec if a > 1 else vecmat if b > 1 else vecdot


@matmul.gradient
def _(a: Any, b: Any, out: Any, dout: Any) -> Any:
    return (
        matmul(dout, b, axes=[_AS_IS, _TRANSPOSED, _AS_IS]),
        matmul(a, dout, axes=[_TRANSPOSED, _AS_IS, _AS_IS]),
    )


def dot(a: Any, b: Any, *, out: Any = None) -> Any:
    """NumPy's dot: picks the product by the operands' number of axes.

    A number times an array is `multiply`; two vectors give `vecdot`; a vector on the right `matvec`; on the
    left `vecmat`; two matrices `matmul`. With more axes, ``out[i, j, k, m] = Σ a[i, j, :] b[k, :, m]``.

    Parameters
    ----------
    a, b : array_like
        Integers or floating point.
    out : ndarray, optional
        Where to write the result; may not be given with tensors.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        When a.shape[-1] differs from b's contracted axis.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.dot(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0]))
    array([21., 43.])
    """
    a_shape, b_shape = shape_of(a, "dot"), shape_of(b, "dot")
    if not a_shape or not b_shape:
        return multiply(a, b, out=out)
    if len(b_shape) == 1:
        return vecdot(a, b, out=out) if len(a_shape) == 1 else matvec(a, b, out=out)
    if len(b_shape) == 2:
        return vecmat(a, b, out=out) if len(a_shape) == 1 else matmul(a, b, out=out)
    ndim = len(b_shape)
    if arrays.is_dask(a) or arrays.is_dask(b):  # merging axes would move chunks: a batch of products instead
        if len(a_shape) == 1:
            return arrays.into(out, vecmat(a, b), "dot")
        for _ in range(ndim - 2):
            a = expand_dims(a, -3)
        return arrays.into(out, np.moveaxis(matmul(a, b), -2, len(a_shape) - 2), "dot")
    # b's contracted axis first, its others behind as the columns of one matrix
    behind = transpose(b, (ndim - 2, *range(ndim - 2), ndim - 1))
    contracted, *columns = lengths_of(behind, "dot")
    matrix = reshape(behind, (contracted, math.prod(columns)))
    product = vecmat(a, matrix) if len(a_shape) == 1 else matmul(a, matrix)
    return arrays.into(out, reshape(product, (*lengths_of(a, "dot")[:-1], *columns)), "dot")
