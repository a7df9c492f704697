"""Elementwise ops: one formula each; the loop nest around them is `nbops.ops.nests`.

All broadcast as NumPy's ufuncs do. NaN passes through every op. Integers wrap around; exp, log, sqrt, tanh
and sigmoid promote them to floating point as NumPy's exp does, divide to float64. Gradients are written with
the ops themselves, so second derivatives need nothing more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.kernel import Scalar
from nbops.op import elementwise
from nbops.tuned.exponential import exp as exponential
from nbops.tuned.exponential import tanh as hyperbolic_tangent
from nbops.tuned.roots import sqrt as square_root

__all__ = [
    "add",
    "add_relu",
    "divide",
    "exp",
    "log",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "relu",
    "sigmoid",
    "sqrt",
    "subtract",
    "tanh",
]

# ---- arithmetic -------------------------------------------------------------------------------------


@elementwise
def add(x: Scalar, y: Scalar) -> Scalar:
    """The sum of two arrays, element by element.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.add(np.array([1.0, 2.0]), 10)
    array([11., 12.])
    """
    return x + y


@add.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return dout, dout


@elementwise
def subtract(x: Scalar, y: Scalar) -> Scalar:
    """The difference of two arrays, element by element.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.subtract(np.array([1.0, 2.0]), 10)
    array([-9., -8.])
    """
    return x - y


@subtract.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return dout, negative(dout)


@elementwise
def multiply(x: Scalar, y: Scalar) -> Scalar:
    """The product of two arrays, element by element.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.multiply(np.array([1.0, 2.0]), np.array([[3.0], [4.0]]))
    array([[3., 6.],
           [4., 8.]])
    """
    return x * y


@multiply.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return multiply(dout, y), multiply(dout, x)


@elementwise(integers="float64", nanoseconds=0.6)
def divide(x: Scalar, y: Scalar) -> Scalar:
    """The quotient of two arrays, element by element; x / 0 is ±inf and 0 / 0 is NaN.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.divide(np.array([1, 2]), np.array([4, 0]))
    array([0.25,  inf])
    """
    return x / y


@divide.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return divide(dout, y), negative(divide(multiply(dout, out), y))


@elementwise
def negative(x: Scalar) -> Scalar:
    """-x, element by element; negative(0.0) is -0.0.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.negative(np.array([1.0, -2.0]))
    array([-1.,  2.])
    """
    return -x


@negative.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return negative(dout)


# ---- the larger, the smaller, the positive part -----------------------------------------------------


@elementwise
def maximum(x: Scalar, y: Scalar) -> Scalar:
    """The larger of two elements; NaN if either is NaN. Where they are equal, it is the first.

    The gradient goes to the element that was taken: to x where they are equal.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.maximum(np.array([1.0, np.nan, 3.0]), 2.0)
    array([ 2., nan,  3.])
    """
    return x if x >= y or x != x else y


@maximum.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return keep_where_taken(x, out, dout), keep_where_not_taken(x, out, dout)


@elementwise
def minimum(x: Scalar, y: Scalar) -> Scalar:
    """The smaller of two elements; NaN if either is NaN. Where they are equal, it is the first.

    The gradient goes to the element that was taken: to x where they are equal.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.minimum(np.array([1.0, np.nan, 3.0]), 2.0)
    array([ 1., nan,  2.])
    """
    return x if x <= y or x != x else y


@minimum.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    return keep_where_taken(x, out, dout), keep_where_not_taken(x, out, dout)


@elementwise
def keep_where_taken(x: Scalar, taken: Scalar, value: Scalar) -> Scalar:
    """Value where `taken`, the larger or smaller of two, is x, else 0."""
    return value if x == taken or x != x else type(value)(0)


@keep_where_taken.gradient
def _(x: Any, taken: Any, value: Any, out: Any, dout: Any) -> Any:
    return None, None, keep_where_taken(x, taken, dout)


@elementwise
def keep_where_not_taken(x: Scalar, taken: Scalar, value: Scalar) -> Scalar:
    """0 where `taken`, the larger or smaller of two, is x, else value."""
    return type(value)(0) if x == taken or x != x else value


@keep_where_not_taken.gradient
def _(x: Any, taken: Any, value: Any, out: Any, dout: Any) -> Any:
    return None, None, keep_where_not_taken(x, taken, dout)


@elementwise
def relu(x: Scalar) -> Scalar:
    """The positive part of x: 0 where x < 0, else x. NaN stays NaN; relu(-inf) is 0.

    The gradient at 0 is 0.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.relu(np.array([-1.0, np.nan, 2.0]))
    array([ 0., nan,  2.])
    """
    return type(x)(0) if x < 0 else x


@relu.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return relu_gradient(out, dout)


@elementwise
def relu_gradient(y: Scalar, dy: Scalar) -> Scalar:
    """dy where y > 0, else 0: the derivative of relu in terms of its result y."""
    return dy if y > 0 else type(dy)(0)


@relu_gradient.gradient
def _(y: Any, dy: Any, out: Any, dout: Any) -> Any:
    return None, relu_gradient(y, dout)


@elementwise
def add_relu(x: Scalar, y: Scalar) -> Scalar:
    """relu(x + y) in one pass over memory.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.add_relu(np.array([-3.0, 2.0]), 1.0)
    array([0., 3.])
    """
    total = type(x)(x + y)  # integers wrap around before they are cut
    return type(x)(0) if total < 0 else total


@add_relu.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    dtotal = relu_gradient(out, dout)
    return dtotal, dtotal


# ---- transcendental functions -----------------------------------------------------------------------


@elementwise(integers="float", nanoseconds=0.8)
def exp(x: Scalar) -> Scalar:
    """e to the power x; exp(-inf) is 0, and too large an x gives inf.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.exp(np.array([0.0, -np.inf]))
    array([1., 0.])
    """
    return exponential(x)


@exp.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return multiply(dout, out)


@elementwise(integers="float", nanoseconds=5.0)
def log(x: Scalar) -> Scalar:
    """The natural logarithm; log(0) is -inf, and NaN below 0.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.log(np.array([1.0, 0.0]))
    array([  0., -inf])
    """
    return np.log(x)


@log.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return divide(dout, x)


@elementwise(integers="float", nanoseconds=1.0)
def sqrt(x: Scalar) -> Scalar:
    """The square root; NaN below 0, and sqrt(-0.0) is -0.0.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.sqrt(np.array([4.0, 2.25]))
    array([2. , 1.5])
    """
    return square_root(x)


@sqrt.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return divide(dout, add(out, out))


@elementwise(integers="float", nanoseconds=1.6)
def tanh(x: Scalar) -> Scalar:
    """The hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.tanh(np.array([0.0, np.inf]))
    array([0., 1.])
    """
    return hyperbolic_tangent(x)


@tanh.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return tanh_gradient(out, dout)


@elementwise
def tanh_gradient(y: Scalar, dy: Scalar) -> Scalar:
    """dy (1 - y²), the derivative of tanh in terms of its result y."""
    return dy * (type(y)(1) - y * y)


@tanh_gradient.gradient
def _(y: Any, dy: Any, out: Any, dout: Any) -> Any:
    return negative(multiply(multiply(add(y, y), dy), dout)), tanh_gradient(y, dout)


@elementwise(integers="float", nanoseconds=1.2)
def sigmoid(x: Scalar) -> Scalar:
    """1 / (1 + exp(-x)), the logistic function.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    return type(x)(1) / (type(x)(1) + exponential(-x))


@sigmoid.gradient
def _(x: Any, out: Any, dout: Any) -> Any:
    return sigmoid_gradient(out, dout)


@elementwise
def sigmoid_gradient(y: Scalar, dy: Scalar) -> Scalar:
    """dy · y (1 - y), the derivative of sigmoid in terms of its result y."""
    return dy * y * (type(y)(1) - y)


@sigmoid_gradient.gradient
def _(y: Any, dy: Any, out: Any, dout: Any) -> Any:
    return multiply(multiply(dout, dy), subtract(1, add(y, y))), sigmoid_gradient(y, dout)
