"""Sparse categorical cross-entropy, from probabilities as Keras computes it, and fused from logits.

From probabilities p, clipped to [ε, 1 - ε] with Keras's ε = 1e-7::

    loss = log Σ p[i] - log p[label]

From logits it is that of `nbops.ops.logits`.

On a CPU, a label outside 0 … n-1 raises: ValueError for arrays, InvalidArgumentError in a TensorFlow kernel.
On a GPU it gives NaN. TensorFlow's own op does the same.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from nbops import arrays
from nbops.dtypes import check_real
from nbops.kernel import Array, Scalar
from nbops.op import elementwise, op
from nbops.ops.elementwise import divide, log, multiply, subtract
from nbops.ops.logits import crossentropy_from_logits, one_hot, take_label
from nbops.ops.products import vecdot
from nbops.ops.reductions import sum_row
from nbops.ops.shapes import expand_dims, positions, shape_of
from nbops.targets import cuda
from nbops.tuned import rows_cpu
from nbops.tuned.twins import compiled_as

__all__ = ["sparse_categorical_crossentropy"]

EPSILON = 1e-7  # keras.config.epsilon()


# ---- from probabilities -----------------------------------------------------------------------------


def is_clipped(p: Scalar) -> Scalar:
    return p < type(p)(EPSILON) or p > type(p)(1 - EPSILON)


def clip(p: Scalar) -> Scalar:
    """P, at least ε and at most 1 - ε; NaN stays."""
    low, high = type(p)(EPSILON), type(p)(1 - EPSILON)
    return low if p < low else (high if p > high else p)


clipped = elementwise(name="clipped", integers="float", nanoseconds=0.5)(clip)


@elementwise(name="zero_where_clipped", nanoseconds=0.5)
def zero_where_clipped(p: Scalar, value: Scalar) -> Scalar:
    """Value, or 0 where p is outside [ε, 1 - ε]."""
    return type(value)(0) if is_clipped(p) else value


@compiled_as(rows_cpu.clipped_sum)
def sum_between(p: Array, low: Scalar, high: Scalar) -> Scalar:
    """``Σ p[j]``, each no less than `low` and no more than `high`; NaN stays."""
    total = p.dtype.type(0)
    for j in range(p.shape[0]):
        bounded = low if p[j] < low else p[j]
        total += high if bounded > high else bounded
    return total


def clipped_sum(p: Array) -> Scalar:
    """``Σ clip(p[j])``."""
    return sum_between(p, p.dtype.type(EPSILON), p.dtype.type(1 - EPSILON))


@op("(),(n)->()", types="int64,T->T", integers="float", nanoseconds=0.5)
def crossentropy_from_probabilities(label: Array, p: Array, out: Array) -> None:
    """``log Σ p - log p[label]`` with p clipped to [ε, 1 - ε]."""
    index = label[()]
    if index < 0 or index >= p.shape[0]:
        out[()] = np.nan
        return
    out[()] = np.log(clipped_sum(p)) - np.log(clip(p[index]))


crossentropy_from_probabilities.tune(cuda="nbops.tuned.cuda.rows:crossentropy_from_probabilities_plan")
crossentropy_from_probabilities.labelled("label", "n")


@crossentropy_from_probabilities.piecewise
def _(label: Any, p: Any) -> Any:
    bounded = clipped(p)
    return subtract(log(sum_row(bounded)), log(take_label(label, bounded)))


@crossentropy_from_probabilities.gradient
def _(label: Any, p: Any, out: Any, dout: Any) -> Any:
    return None, crossentropy_from_probabilities_gradient(label, p, dout)


@op("(),(n),()->(n)", types="int64,T,T->T", integers="float", nanoseconds=0.5)
def crossentropy_from_probabilities_gradient(label: Array, p: Array, dout: Array, out: Array) -> None:
    """``dout (1 / Σ p - onehot(label) / p[label])``, and 0 where p was clipped."""
    index = label[()]
    share = dout[()] / clipped_sum(p)
    for j in range(p.shape[0]):
        out[j] = out.dtype.type(0) if is_clipped(p[j]) else share
    if index < 0 or index >= p.shape[0]:
        for j in range(p.shape[0]):
            out[j] = np.nan
    elif not is_clipped(p[index]):
        out[index] -= dout[()] / p[index]


crossentropy_from_probabilities_gradient.tune(
    cuda="nbops.tuned.cuda.rows:crossentropy_from_probabilities_gradient_plan"
)
crossentropy_from_probabilities_gradient.labelled("label", "n")


@crossentropy_from_probabilities_gradient.piecewise
def _(label: Any, p: Any, dout: Any) -> Any:
    total = sum_row(clipped(p))
    at_label = divide(one_hot(label, positions(p), p), clipped(p))
    by_p = subtract(expand_dims(divide(1, total), -1), at_label)
    return zero_where_clipped(p, multiply(expand_dims(dout, -1), by_p))


@crossentropy_from_probabilities_gradient.gradient
def _(label: Any, p: Any, dout: Any, out: Any, upstream: Any) -> Any:
    by_p = crossentropy_from_probabilities_curvature(label, p, dout, upstream)
    one = crossentropy_from_probabilities_gradient(label, p, 1.0)
    return None, by_p, vecdot(upstream, one)


@op("(),(n),(),(n)->(n)", types="int64,T,T,T->T", integers="float", nanoseconds=0.5)
def crossentropy_from_probabilities_curvature(
    label: Array, p: Array, dout: Array, upstream: Array, out: Array
) -> None:
    """The gradient's gradient by p: ``dout (onehot(label) u[label] / p[label]² - Σ u / (Σ p)²)``."""
    index = label[()]
    inside = out.dtype.type(0)
    for j in range(p.shape[0]):
        inside += out.dtype.type(0) if is_clipped(p[j]) else upstream[j]
    total = clipped_sum(p)
    for j in range(p.shape[0]):
        out[j] = out.dtype.type(0) if is_clipped(p[j]) else -dout[()] * inside / (total * total)
    if index < 0 or index >= p.shape[0]:
        for j in range(p.shape[0]):
            out[j] = np.nan
    elif not is_clipped(p[index]):
        out[index] += dout[()] * upstream[index] / (p[index] * p[index])


@crossentropy_from_probabilities_curvature.piecewise
def _(label: Any, p: Any, dout: Any, upstream: Any) -> Any:
    total = sum_row(clipped(p))
    inside = sum_row(zero_where_clipped(p, upstream))
    at_label = divide(multiply(one_hot(label, positions(p), p), upstream), multiply(clipped(p), clipped(p)))
    by_p = subtract(at_label, expand_dims(divide(inside, multiply(total, total)), -1))
    return zero_where_clipped(p, multiply(expand_dims(dout, -1), by_p))


# ---- the public function ----------------------------------------------------------------------------


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, axis: int = -1, *, out: Any = None
) -> Any:
    """The cross-entropy between integer labels and predictions, one loss per label, as in Keras.

    Parameters
    ----------
    y_true : array_like of int, shape (...)
        Labels, 0 … n-1. Floating point labels (Keras passes them so) must be whole.
    y_pred : array_like, shape (..., n)
        Probabilities, or logits.
    from_logits : bool
        Whether `y_pred` comes before the softmax.
    axis : int
        Where `y_pred` keeps its classes.
    out : ndarray, shape (...), optional
        Where to write the losses; may not be given with tensors.

    Returns
    -------
    array, shape (...)
        A tensor where a tensor went in.

    Raises
    ------
    ValueError
        For shapes that don't match, or a label out of range that is not on a GPU.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> loss = nbops.sparse_categorical_crossentropy(np.array([1]), np.array([[0.5, 0.5]]))
    >>> bool(np.isclose(loss[0], np.log(2)))
    True
    """
    rows = crossentropy_from_logits if from_logits else crossentropy_from_probabilities
    if arrays.is_tensorflow(y_true) or arrays.is_tensorflow(y_pred):
        labels, predictions = _tensors(y_true, y_pred)
        if None in (labels.shape.rank, predictions.shape.rank):  # the kernel checks what is not known yet
            return rows(labels, predictions, out=out, axes=None if axis == -1 else [(), (axis,), ()])
    else:
        labels, predictions = (
            x
            if arrays.is_dask(x) or cuda.is_device_array(x)
            else np.asarray(arrays.as_array(x, NAME, argument))
            for x, argument in ((y_true, "y_true"), (y_pred, "y_pred"))
        )
        check_real(labels.dtype, NAME, "y_true")
    shape = shape_of(predictions, NAME)
    axis = operator.index(axis)
    if not -len(shape) <= axis < max(len(shape), 1):
        raise ValueError(f"{NAME}: axis is {axis}, but y_pred is {shape}")
    labels = _one_label_each(labels, shape, axis)
    if arrays.is_dask(labels):
        labels = _checked_later(labels, shape[axis])
    elif isinstance(labels, np.ndarray):
        labels = _checked_labels(labels, shape[axis])
    return rows(labels, predictions, out=out, axes=None if axis == -1 else [(), (axis,), ()])


NAME = "sparse_categorical_crossentropy"


def _tensors(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    if not arrays.is_tensorflow(y_true):  # TensorFlow would lose a mask
        y_true = np.asarray(arrays.as_array(y_true, NAME, "y_true"))
        check_real(y_true.dtype, NAME, "y_true")
    labels = tf.convert_to_tensor(y_true)
    if not (labels.dtype.is_integer or labels.dtype.is_floating):
        raise TypeError(f"{NAME}: y_true has dtype {labels.dtype.name}; expected integers")
    return tf.cast(labels, tf.int64), tf.convert_to_tensor(y_pred)


def _one_label_each(labels: Any, shape: tuple[int, ...], axis: int) -> Any:
    """The labels in the shape of the predictions without their classes; a last axis of 1 is dropped."""
    own = shape_of(labels, NAME)
    wanted = list(shape)
    del wanted[axis]
    if len(own) == len(shape) and own[-1] == 1:
        first = operator.itemgetter((..., 0))
        labels = first(labels) if arrays.is_tensorflow(labels) else arrays.rearranged(labels, first)
        own = own[:-1]
    agree = len(own) == len(wanted) and all(-1 in (m, n) or m == n for m, n in zip(own, wanted, strict=True))
    if not agree:
        raise ValueError(f"{NAME}: y_true is {own} and y_pred is {shape}; expected one label per prediction")
    return labels


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Whole labels from 0 to classes - 1; -1 classes are an unknown number."""
    is_float = labels.dtype.kind not in "iu"
    if is_float and not np.array_equal(labels, np.trunc(labels)):
        raise TypeError(f"{NAME}: y_true has dtype {labels.dtype} and fractions; expected integers")
    wrong = labels[(labels < 0) | ((labels >= classes) & (classes >= 0))]
    if wrong.size:
        raise ValueError(
            f"{NAME}: y_true has the label {str(wrong.flat[0]).removesuffix('.0')}, but y_pred has {classes} "
            f"classes; labels go from 0 to {classes - 1}"
        )
    return labels.astype(np.int64) if is_float else labels


def _checked_later(labels: Any, classes: int) -> Any:
    """`_checked_labels` of each chunk, when it is computed."""
    from nbops import dask

    dtype = labels.dtype if labels.dtype.kind in "iu" else np.dtype(np.int64)
    return dask.by_chunks(_checked_labels, labels, dtype, classes)
