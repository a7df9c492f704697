"""The general matrix product of the BLAS: a product that is scaled and added to something.

::

    out = c + alpha a @ b

With ``out=c`` it is a running sum of products, and with ``alpha = -learning_rate`` it is a step of gradient
descent whose gradient ``a @ b`` is never written to memory. Axes before the core axes broadcast.
"""

from __future__ import annotations

from typing import Any

from nbops.kernel import Array, Dtypes, Tasks, lanes, prange
from nbops.op import op
from nbops.ops.elementwise import multiply
from nbops.ops.products import matmul, vecdot
from nbops.ops.reductions import sum as sum_over
from nbops.ops.shapes import expand_dims

__all__ = ["gemm"]


@op("(m,k),(k,n),(m,n),()->(m,n)", nanoseconds=0.1, in_place=("c",))
def gemm(a: Array, b: Array, c: Array, alpha: Array, out: Array) -> None:
    """``c + alpha a @ b``; `out` may be `c`.

    Raises
    ------
    ValueError
        When a.shape[-1] differs from b.shape[-2], the last two axes of `c` are not those of the product, or
        the other axes don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> c = np.ones((1, 1))
    >>> nbops.gemm(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), c, -0.5, out=c)
    array([[-4.5]])
    >>> c
    array([[-4.5]])
    """
    factor = alpha[()]  # before the loop: Numba's parallel compiler makes a 0-d array in it a number
    for i in prange(a.shape[0]):
        for j in lanes(b.shape[1]):
            total = out.dtype.type(0)
            for p in range(a.shape[1]):
                total += a[i, p] * b[p, j]
            out[i, j] = c[i, j] + factor * total


gemm.split("m,n")


@gemm.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import gemm_cpu

    return gemm_cpu.gemm_tasks_of(dtypes[0]) if dtypes[0].kind == "f" else None


gemm.tune(cuda="nbops.tuned.cuda.products:gemm_plan")


@gemm.gradient
def _(a: Any, b: Any, c: Any, alpha: Any, out: Any, dout: Any) -> Any:
    alphas = expand_dims(alpha, -1)
    scaled = multiply(expand_dims(alphas, -1), dout)
    return (
        matmul(scaled, b, axes=[(-2, -1), (-1, -2), (-2, -1)]),
        matmul(a, scaled, axes=[(-1, -2), (-2, -1), (-2, -1)]),
        dout,
        sum_over(vecdot(matmul(a, b), dout), axis=-1),
    )
