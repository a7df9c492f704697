"""Shapes: reshape, transpose, broadcast_to and their kin. Views, as in NumPy; no loop runs.

TensorFlow has no views: there these are TensorFlow's own ops, with TensorFlow's gradients. Dask arrays go
through NumPy's functions to Dask's own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from nbops import arrays
from nbops.targets import cuda

__all__ = ["broadcast_to", "expand_dims", "matrix_transpose", "reshape", "transpose"]


def _tensorflow() -> Any:
    return sys.modules["tensorflow"]


def reshape(x: Any, shape: int | Sequence[int], *, copy: bool | None = None) -> Any:
    """The same elements in another shape; a view where NumPy can give one.

    Parameters
    ----------
    x : array_like
        Of any dtype.
    shape : int or sequence of int
        One length may be -1: what is left.
    copy : bool, optional
        Whether the result has memory of its own; it has where there is no such view, unless given. May not be
        given with tensors, Dask arrays or arrays on a GPU.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        When the number of elements differs, or for ``copy=False`` where there is no such view.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.reshape(np.arange(6), (2, -1))
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    if arrays.is_tensorflow(x):
        arrays.refuse_for_tensors("reshape", copy=copy)
        return _tensorflow().reshape(x, [shape] if isinstance(shape, int) else shape)
    if arrays.is_dask(x):
        from nbops import dask

        arrays.refuse_for_lazy("reshape", copy=copy)
        return dask.reshape(x, shape)
    if cuda.is_device_array(x):
        from nbops.targets.cuda import views

        if copy is not None:
            raise TypeError("reshape: copy= does not go with arrays on a GPU; leave it out")
        return views.reshape(x, shape)
    array = arrays.plain(x)
    result = np.reshape(array, shape)
    if copy is not None and result.size and np.may_share_memory(result, array) == copy:
        if not copy:
            raise ValueError(f"reshape: no view of x has the shape {result.shape}; leave copy=False out")
        return result.copy()
    return result


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """The axes in another order, reversed unless `axes` says which; a view.

    Parameters
    ----------
    x : array_like
        Of any dtype.
    axes : sequence of int, optional
        Which axis of `x` comes first, second and so on.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.transpose(np.zeros((2, 3, 4)), (0, 2, 1)).shape
    (2, 4, 3)
    """
    if arrays.is_tensorflow(x):
        return _tensorflow().transpose(x, axes)
    return arrays.rearranged(x, lambda x: np.transpose(x, axes))


def matrix_transpose(x: Any) -> Any:
    """The last two axes exchanged; a view.

    Parameters
    ----------
    x : array_like, shape (..., m, n)
        Of any dtype.

    Returns
    -------
    array, shape (..., n, m)
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.matrix_transpose(np.zeros((2, 3, 4))).shape
    (2, 4, 3)
    """
    if arrays.is_tensorflow(x):
        return _tensorflow().linalg.matrix_transpose(x)
    return arrays.rearranged(x, lambda x: np.swapaxes(x, -1, -2))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """The array repeated to a shape without a copy; a read-only view.

    Parameters
    ----------
    x : array_like
        Of any dtype.
    shape : sequence of int
        The shape of the result.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        When the shapes don't broadcast.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.broadcast_to(np.array([1, 2]), (2, 2))
    array([[1, 2],
           [1, 2]])
    """
    if arrays.is_tensorflow(x):
        return _tensorflow().broadcast_to(x, shape)
    if arrays.is_dask(x):
        from nbops import dask

        x = dask.ones_in_one_chunk(x)
    return arrays.rearranged(x, lambda x: np.broadcast_to(x, shape))


def expand_dims(x: Any, axis: int) -> Any:
    """The array with a new axis of length 1 at `axis`; a view.

    Parameters
    ----------
    x : array_like
        Of any dtype.
    axis : int
        Where the new axis is in the result; negative counts from the end.

    Returns
    -------
    array
        A tensor where a tensor went in.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.expand_dims(np.array([1, 2]), -1).shape
    (2, 1)
    """
    if arrays.is_tensorflow(x):
        return _tensorflow().expand_dims(x, axis)
    if arrays.is_dask(x) and -x.ndim - 1 <= axis <= x.ndim:  # Dask's own asks for known lengths
        return x[(slice(None),) * (axis % (x.ndim + 1)) + (None,)]
    return arrays.rearranged(x, lambda x: np.expand_dims(x, axis))


def shape_of(x: Any, name: str) -> tuple[int, ...]:
    """The shape of an array, or of a tensor whose rank is known; an unknown length is -1.

    Raises
    ------
    ValueError
        For a tensor of unknown rank.
    """
    if arrays.is_dask(x):
        return tuple(-1 if n != n else int(n) for n in x.shape)
    if not arrays.is_tensorflow(x):
        return np.shape(x)
    if x.shape.rank is None:
        raise ValueError(f"{name}: the tensor's number of axes is unknown; give it a static rank")
    return tuple(-1 if n is None else n for n in x.shape)


def lengths_of(x: Any, name: str) -> tuple[Any, ...]:
    """`shape_of` an array or a tensor, but lengths that are not known while tracing are scalar tensors."""
    shape = shape_of(x, name)
    if -1 not in shape:
        return shape
    lengths = _tensorflow().shape(x)
    return tuple(lengths[axis] if n == -1 else n for axis, n in enumerate(shape))


def positions(x: Any) -> Any:
    """0, 1, 2, … along the last axis of a Dask array, in its chunks."""
    from nbops import dask

    return dask.positions(x)


def broadcast_like(x: Any, model: Any) -> Any:
    """`x` repeated to the shape of `model`."""
    if arrays.is_tensorflow(x):
        tf = _tensorflow()
        return tf.broadcast_to(x, tf.shape(model))
    return broadcast_to(x, np.shape(model))


def sum_to(gradient: Any, operand: Any) -> Any:
    """A gradient summed over the axes along which `operand` was repeated: the adjoint of broadcasting."""
    from nbops.ops.reductions import sum as sum_over

    if arrays.is_tensorflow(gradient):
        return _sum_tensor_to(gradient, operand)
    shape = np.shape(operand)
    own = np.shape(gradient)
    if own == shape:
        return gradient
    extra = len(own) - len(shape)
    axes = tuple(range(extra)) + tuple(
        extra + axis for axis, n in enumerate(shape) if n == 1 and own[extra + axis] != 1
    )
    total = sum_over(gradient, axis=axes)
    return total if np.shape(total) == shape else reshape(total, shape)


def _sum_tensor_to(gradient: Any, operand: Any) -> Any:
    from nbops.ops.reductions import sum as sum_over

    tf = _tensorflow()
    operand = tf.convert_to_tensor(operand, dtype_hint=gradient.dtype)
    own, shape = gradient.shape, operand.shape
    if own.is_fully_defined() and own == shape:
        return gradient
    if own.rank is not None and shape.rank is not None:
        extra = own.rank - shape.rank
        pairs = list(zip(own[extra:], shape, strict=True))
        # A length of 1 in the operand was repeated; a known longer one was not; two unknowns may differ.
        if all(n is not None and (n != 1 or m is not None) for m, n in pairs):
            axes = tuple(range(extra)) + tuple(
                extra + axis for axis, (m, n) in enumerate(pairs) if n == 1 and m != 1
            )
            summed = sum_over(gradient, axis=axes) if axes else gradient
            return tf.reshape(summed, shape)
    wanted = tf.shape(operand)
    axes = tf.raw_ops.BroadcastGradientArgs(s0=wanted, s1=tf.shape(gradient)).r0
    return tf.reshape(tf.reduce_sum(gradient, axes), wanted)
