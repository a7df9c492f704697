"""nbops ops as TensorFlow ops, with gradients.

Importing this module (or calling an op on a TensorFlow value, which does it) registers every op that exists,
and from then on every op that is defined. A SavedModel made with nbops ops loads in a process that has
imported it.

``NBOPS_TENSORFLOW_OPS=numpy_function`` chooses the fallback on purpose; see `nbops.tensorflow.fallback`.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nbops import dispatch
from nbops.execution import normalize_axes
from nbops.op import Op, on_definition, registry
from nbops.tensorflow import c_api, fallback, registration

__all__ = ["call", "mean", "uses_registered_ops"]

_HALF = (tf.float16, tf.bfloat16)
_registered: dict[tuple[Op, tuple[bool, ...]], registration.Registered] = {}


def _use_registered_ops() -> bool:
    if os.environ.get("NBOPS_TENSORFLOW_OPS", "") == "numpy_function":
        return False
    missing = c_api.missing_symbols()
    if missing:
        warnings.warn(
            f"this TensorFlow ({tf.__version__}) does not export {missing[0]}"
            + (f" and {len(missing) - 1} more symbols" if len(missing) > 1 else "")
            + " of the C kernel API, so nbops ops run as tf.numpy_function: slower, holding the GIL, and "
            "not loadable from a SavedModel in another process",
            RuntimeWarning,
            stacklevel=3,
        )
    return not missing


#: Whether ops run as registered TensorFlow ops (else as ``tf.numpy_function``).
uses_registered_ops: bool = _use_registered_ops()


def _leave_as_written() -> None:
    """Tell AutoGraph that nothing in nbops depends on a tensor's value: its loops and branches stay Python's.

    AutoGraph would write each function of nbops that a ``tf.function`` reaches anew, for seconds; it spares
    Keras and NumPy by the same list. Should a TensorFlow have no such list, tracing only takes longer.
    """
    with contextlib.suppress(ImportError, AttributeError):
        config: Any = importlib.import_module("tensorflow.python.autograph.core.config")
        config.CONVERSION_RULES = (config.DoNotConvert("nbops"), *config.CONVERSION_RULES)


_leave_as_written()


def _register(ops: list[Op]) -> None:
    if uses_registered_ops:
        _registered.update(registration.register(ops))


def call(op: Op, operands: Sequence[Any], axes: Any = None) -> Any:
    """Run an op on TensorFlow values: what `Op.__call__` does with them.

    Parameters
    ----------
    op : Op
    operands : sequence
        Tensors and variables, and arrays and numbers, which take the tensors' dtype.
    axes : optional
        As for `Op.__call__`.

    Returns
    -------
    tf.Tensor or tuple of tf.Tensor
        In the tensors' dtype.

    Raises
    ------
    TypeError
        For dtypes that the op does not take, or tensors of different dtypes: nothing is promoted here, as
        everywhere in TensorFlow.
    ValueError
        When shapes that are known in a graph break the signature.
    tf.errors.InvalidArgumentError
        When shapes that are known only when it runs do.

    Examples
    --------
    >>> import tensorflow as tf, nbops, nbops.tensorflow
    >>> nbops.tensorflow.call(nbops.relu, [tf.constant([-1.0, 2.0])]).numpy()
    array([0., 2.], dtype=float32)
    """
    dispatch.decide_tensorflow(op.name)
    tensors, result_dtype = _convert(op, operands)
    if axes is None:
        result = _call_last(op, tensors, (False,) * op.n_inputs)
    else:
        result = _call_with_axes(op, tensors, axes)
    if result_dtype is None:
        return result
    return tf.nest.map_structure(lambda x: tf.cast(x, result_dtype), result)


def made_by(op: Op, tensor: Any) -> tuple[list[Any], int] | None:
    """The inputs and the number of the output, where a graph's tensor is what `op` computed; else None."""
    entry = _registered.get((op, (False,) * op.n_inputs))
    if entry is None or not tf.is_symbolic_tensor(tensor) or tensor.op.type != entry.name:
        return None
    return list(tensor.op.inputs), tensor.value_index


def _call_last(op: Op, tensors: list[Any], swapped: tuple[bool, ...]) -> Any:
    if not tf.executing_eagerly() and all(x.shape.rank is not None for x in tensors):
        shapes = [[-1 if n is None else n for n in x.shape] for x in tensors]
        shapes = [
            [*shape[:-2], shape[-1], shape[-2]] if swap else shape
            for shape, swap in zip(shapes, swapped, strict=True)
        ]
        op.signature.infer(shapes, op.name, op.arguments)
    if not uses_registered_ops:
        return fallback.call(op, tensors, swapped)
    result = _registered[op, swapped].wrapper(*tensors)
    return tuple(result) if isinstance(result, list | tuple) else result


def _call_with_axes(op: Op, tensors: list[Any], axes: Any) -> Any:
    """Read transposed matrices in place; move other core axes to the end, and the result's back."""
    places = normalize_axes(op, axes)
    swapped = []
    for index, own in enumerate(places[: op.n_inputs]):
        rank = tensors[index].shape.rank
        if rank is None and any(axis >= 0 for axis in own):
            raise ValueError(f"{op.name}: axes {own} need a tensor with a known number of axes")
        _check_range(op, rank, own)
        negative = tuple(axis - rank if axis >= 0 else axis for axis in own)
        swapped.append(negative == (-1, -2))
        if negative not in ((-1, -2), tuple(range(-len(own), 0))):
            tensors[index] = _move_axes(op, tensors[index], negative, to_last=True)
    pattern = tuple(swapped)
    if pattern not in registration.variants_of(op):
        tensors = [
            tf.linalg.matrix_transpose(x) if swap else x for x, swap in zip(tensors, pattern, strict=True)
        ]
        pattern = (False,) * op.n_inputs
    result = _call_last(op, tensors, pattern)
    results = list(result) if isinstance(result, tuple) else [result]
    for index, own in enumerate(places[op.n_inputs :]):
        if own and tuple(own) != tuple(range(-len(own), 0)):
            results[index] = _move_axes(op, results[index], own, to_last=False)
    return results[0] if len(results) == 1 else tuple(results)


def _move_axes(op: Op, tensor: Any, axes: Sequence[int], to_last: bool) -> Any:
    rank = tensor.shape.rank
    if rank is None:
        raise ValueError(f"{op.name}: axes {tuple(axes)} need a tensor with a known number of axes")
    _check_range(op, rank, axes)
    own = [axis % rank for axis in axes]
    order = [axis for axis in range(rank) if axis not in own] + own
    return tf.transpose(tensor, order if to_last else np.argsort(order))


def _check_range(op: Op, rank: int | None, axes: Sequence[int]) -> None:
    for axis in axes:
        if rank is not None and not -rank <= axis < rank:
            raise ValueError(f"{op.name}: axis {axis} is out of range for a tensor with {rank} axes")


def _convert(op: Op, operands: Sequence[Any]) -> tuple[list[Any], tf.DType | None]:
    """The operands as tensors of the dtypes that the op computes in, and the dtype to cast the result to."""
    from nbops.arrays import as_array, is_tensorflow
    from nbops.dtypes import check_real

    kinds = op.types.inputs
    for x, argument in zip(operands, op.arguments, strict=True):
        if isinstance(x, tf.RaggedTensor):
            raise TypeError(f"{op.name}: {argument} is ragged; expected rows of one length: x.to_tensor()")
        if not is_tensorflow(x) and not isinstance(x, list | tuple):  # which may hold tensors
            values = as_array(x, op.name, argument)  # refuses what would lose a mask or units
            if isinstance(values, np.ndarray):
                check_real(values.dtype, op.name, argument)
    found = {
        tf.as_dtype(x.dtype)
        for x, kind in zip(operands, kinds, strict=True)
        if kind == "T" and is_tensorflow(x)
    }
    if len(found) > 1:
        names = " and ".join(sorted(dtype.name for dtype in found))
        raise TypeError(
            f"{op.name}: the tensors have dtypes {names}; TensorFlow promotes nothing: convert with tf.cast"
        )
    leader = found.pop() if found else None
    if leader is None:
        generic = [x for x, kind in zip(operands, kinds, strict=True) if kind == "T"]
        leader = tf.as_dtype(np.result_type(*generic)) if generic else tf.float32
    allowed = registration.allowed_dtypes(op)
    computed = tf.float32 if leader in _HALF else leader
    if computed not in allowed:
        names = ", ".join(dtype.name for dtype in (*_HALF, *allowed))
        raise TypeError(f"{op.name}: dtype {leader.name} came; expected one of {names}: convert with tf.cast")
    tensors = []
    for x in operands:
        if leader.is_integer and isinstance(x, np.ndarray | np.generic) and x.dtype.kind == "f":
            raise TypeError(
                f"{op.name}: {x.dtype} came with tensors of dtype {leader.name}, and would lose fractions "
                "there: convert one of them"
            )
    for x, kind in zip(operands, kinds, strict=True):
        own = leader if kind == "T" else tf.as_dtype(kind)
        tensor = tf.convert_to_tensor(x, dtype=None if kind != "T" and is_tensorflow(x) else own)
        if kind != "T" and own.is_integer and not tensor.dtype.is_integer:
            raise TypeError(f"{op.name}: a tensor of dtype {tensor.dtype.name} came; expected integers")
        wanted = computed if kind == "T" else own
        tensors.append(tensor if tensor.dtype == wanted else tf.cast(tensor, wanted))
    return tensors, (leader if leader in _HALF else None)


def mean(x: Any, axis: Any, keepdims: bool) -> Any:
    """`nbops.mean` of a tensor.

    Parameters
    ----------
    x : tf.Tensor
    axis : int, sequence of int or None
        All axes where it is None.
    keepdims : bool
        Keep the averaged axes with length 1.

    Returns
    -------
    tf.Tensor

    Raises
    ------
    TypeError
        For integers, which TensorFlow would not promote.
    ValueError
        For an axis that `x` does not have, or one named twice; for an unknown number of axes.

    Examples
    --------
    >>> import tensorflow as tf, nbops.tensorflow
    >>> float(nbops.tensorflow.mean(tf.constant([1.0, 2.0]), None, False))
    1.5
    """
    from nbops.ops.elementwise import divide
    from nbops.ops.reductions import normalize
    from nbops.ops.reductions import sum as sum_over
    from nbops.ops.shapes import shape_of

    x = tf.convert_to_tensor(x)
    if not x.dtype.is_floating:
        raise TypeError(f"mean: dtype {x.dtype.name} came; expected floating point: convert with tf.cast")
    axes = normalize(axis, len(shape_of(x, "mean")), "mean")
    wide = tf.cast(x, tf.float32) if x.dtype in _HALF else x
    total = sum_over(wide, axes, keepdims=keepdims)
    known = [x.shape[i] for i in axes]
    if all(known):
        return tf.cast(divide(total, math.prod(known)), x.dtype)
    count = tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), axes)), wide.dtype)
    # Where nothing is averaged the result is NaN, but not as 0 / 0, whose gradient has a gradient of NaN.
    average = divide(total, tf.maximum(count, 1))
    return tf.cast(tf.where(count > 0, average, tf.constant(np.nan, wide.dtype)), x.dtype)


if uses_registered_ops:
    dispatch.start()
    _register(list(registry.values()))
    on_definition.append(lambda op: _register([op]))
