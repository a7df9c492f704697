"""A dense layer in one op: ``activation(x @ w + b)``, and its gradients.

The product, the bias and the activation touch each output row while it is in the cache. Backwards, with
``dz`` the gradient before the activation::

    dx = dz @ w.T        dw, db = x.T @ dz, Σ dz     (one op for both)

A TensorFlow graph with matmul, add and an activation in a row says the same; write ``dense`` to have it
fused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops import arrays
from nbops.kernel import Array, Dtypes, Kernel, Tasks, lanes, prange
from nbops.op import Op, op
from nbops.ops.elementwise import (
    add,
    add_relu,
    relu,
    relu_gradient,
    sigmoid,
    sigmoid_gradient,
    tanh,
    tanh_gradient,
)
from nbops.ops.products import matmul
from nbops.ops.reductions import sum_rows
from nbops.ops.shapes import expand_dims, shape_of
from nbops.ops.softmax import softmax, softmax_row
from nbops.ops.softmax_gradients import softmax_gradient
from nbops.targets import cuda
from nbops.tuned.exponential import exp as exponential
from nbops.tuned.exponential import tanh as hyperbolic_tangent

__all__ = ["dense"]


# ---- activations of one row, in place ---------------------------------------------------------------


def linear_row(row: Array) -> None:
    pass


def relu_row(row: Array) -> None:
    for j in range(row.shape[0]):
        row[j] = 0 if row[j] < 0 else row[j]


def sigmoid_row(row: Array) -> None:
    one = row.dtype.type(1)
    for j in range(row.shape[0]):
        row[j] = one / (one + exponential(-row[j]))


def tanh_row(row: Array) -> None:
    for j in range(row.shape[0]):
        row[j] = hyperbolic_tangent(row[j])


def softmax_in_place(row: Array) -> None:
    softmax_row(row, row)


def activate(row: Any) -> None:
    """Stands in for the activation of a row."""
    raise NotImplementedError


# ---- forward ----------------------------------------------------------------------------------------


def dense_loop(x: Array, w: Array, b: Array, out: Array) -> None:
    """``out[i] = activate(Σ x[i, p] w[p] + b)``, row by row."""
    for i in prange(x.shape[0]):
        for j in lanes(w.shape[1]):
            out[i, j] = b[j]
        for p in range(x.shape[1]):
            for j in lanes(w.shape[1]):
                out[i, j] += x[i, p] * w[p, j]
        activate(out[i])


def _dense_op(name: str, row: Any, derivative: Any) -> Op:
    """The dense op with one activation; `derivative(out, dout)` is its gradient."""
    result = op("(m,k),(k,n),(n)->(m,n)", name=f"dense_{name}", integers="float", nanoseconds=0.1)(dense_loop)
    result.kernel = Kernel(dense_loop, result.signature, result.name, activate=row)

    # a row of softmax must stay whole; the bias and the activation come after all of a sum
    result.split("m" if name == "softmax" else "m,n")

    @result.piecewise
    def _(x: Any, w: Any, b: Any) -> Any:
        product, bias = matmul(x, w), expand_dims(b, -2)
        return add_relu(product, bias) if name == "relu" else _unfused[name](add(product, bias))

    @result.tune
    def _(dtypes: Dtypes, layout: int) -> Tasks | None:
        from nbops.tuned import dense_cpu, gemm_cpu

        if name in ("linear", "relu"):
            return gemm_cpu.dense_tasks(dtypes[0], name)
        return dense_cpu.activated_dense_tasks(dtypes[0], row)

    result.tune(cuda="nbops.tuned.cuda.products:dense_plan")

    @result.gradient
    def _(x: Any, w: Any, b: Any, out: Any, dout: Any) -> Any:
        dz = derivative(out, dout)
        dw, db = dense_weight_gradient(x, dz)
        return matmul(dz, w, axes=[(-2, -1), (-1, -2), (-2, -1)]), dw, db

    return result


# ---- backward ---------------------------------------------------------------------------------------


@op("(m,k),(m,n)->(k,n),(n)", nanoseconds=0.1)
def dense_weight_gradient(x: Array, dz: Array, dw: Array, db: Array) -> None:
    """``dw = x.T @ dz`` and ``db = Σ dz``, the gradients of a dense layer's weights and bias."""
    for j in lanes(dz.shape[1]):
        db[j] = 0
    for i in range(dz.shape[0]):
        for j in lanes(dz.shape[1]):
            db[j] += dz[i, j]
    for p in prange(x.shape[1]):
        for j in lanes(dz.shape[1]):
            dw[p, j] = 0
        for i in range(x.shape[0]):
            for j in lanes(dz.shape[1]):
                dw[p, j] += x[i, p] * dz[i, j]


dense_weight_gradient.split("n", reduced="m")


@dense_weight_gradient.piecewise
def _(x: Any, dz: Any) -> Any:
    return matmul(x, dz, axes=[(-1, -2), (-2, -1), (-2, -1)]), sum_rows(dz)


@dense_weight_gradient.tune
def _(dtypes: Dtypes, layout: int) -> Tasks | None:
    from nbops.tuned import gemm_cpu

    return gemm_cpu.weight_gradient_tasks(dtypes[0]) if dtypes[0].kind == "f" else None


dense_weight_gradient.tune(cuda="nbops.tuned.cuda.products:weight_gradient_plan")


@dense_weight_gradient.gradient
def _(x: Any, dz: Any, dw: Any, db: Any, ddw: Any, ddb: Any) -> Any:
    return matmul(dz, ddw, axes=[(-2, -1), (-1, -2), (-2, -1)]), _by_activation["linear"](x, ddw, ddb)


_by_activation = {
    name: _dense_op(name, row, derivative)
    for name, row, derivative in (
        ("linear", linear_row, lambda out, dout: dout),
        ("relu", relu_row, relu_gradient),
        ("sigmoid", sigmoid_row, sigmoid_gradient),
        ("tanh", tanh_row, tanh_gradient),
        ("softmax", softmax_in_place, softmax_gradient),
    )
}
_unfused: dict[str, Callable[..., Any]] = {
    "linear": lambda z: z,
    "relu": relu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "softmax": softmax,
}


def activation_name(activation: Any) -> str:
    """The name of an activation given as a name, as None (linear), or as nbops's own function.

    Raises
    ------
    ValueError
        For an activation that the dense op does not fuse.
    """
    if activation is None:
        return "linear"
    for name, function in _unfused.items():
        if activation is function or (isinstance(activation, str) and activation == name):
            return name
    raise ValueError(
        f"dense: unknown activation {activation!r}; expected None, one of {list(_by_activation)}, or nbops's "
        "function of that name; call any other function on the result"
    )


def dense(
    x: Any,
    w: Any,
    b: Any = None,
    activation: Any = None,
    *,
    out: Any = None,
    target: str | None = None,
) -> Any:
    """A dense layer, ``activation(x @ w + b)``.

    Parameters
    ----------
    x : array_like, shape (..., m, k)
    w : array_like, shape (k, n)
    b : array_like, shape (n,), optional
        Zero unless given.
    activation : {None, "linear", "relu", "sigmoid", "tanh", "softmax"} or nbops's function of that name
    out : ndarray, shape (..., m, n), optional
        Where to write the result; may not be given with tensors.
    target : str, optional
        See `nbops.use`.

    Returns
    -------
    array, shape (..., m, n)
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        For shapes that don't match, or an unknown activation.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> x, w, b = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [1.0, -1.0]]), np.array([0.5, 0.5])
    >>> nbops.dense(x, w, b, "relu")
    array([[3.5, 0. ]])
    """
    name = activation_name(activation)
    if b is not None:
        return _by_activation[name](x, w, b, out=out, target=target)
    unknown = -1 in shape_of(w, "dense")[-1:] if arrays.is_dask(w) else False
    if unknown or any(arrays.is_tensorflow(operand) or cuda.is_device_array(operand) for operand in (x, w)):
        if name == "linear":
            return matmul(x, w, out=out, target=target)
        return _unfused[name](matmul(x, w, target=target), out=out, target=target)
    zero = np.zeros(np.shape(w)[-1:], getattr(w, "dtype", np.float64))
    return _by_activation[name](x, w, zero, out=out, target=target)
