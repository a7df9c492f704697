"""What stands in for registered ops where TensorFlow's C kernel API is missing: ``tf.numpy_function``.

Same public functions, same gradients. What is lost: the op holds the GIL, a graph holds Python callbacks, and
a SavedModel can't be loaded in another process. An eager call on tensors on a GPU stays there; a graph copies
them to the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nbops.labels import WrongLabelError
from nbops.op import Op
from nbops.tensorflow import device_tensor

__all__ = ["call"]


def call(op: Op, tensors: Sequence[Any], swapped: tuple[bool, ...]) -> Any:
    """Run an op on tensors of its dtypes through ``tf.numpy_function``."""

    @tf.custom_gradient
    def run(*inputs: Any) -> Any:
        plain = [
            tf.linalg.matrix_transpose(x) if swap else x for x, swap in zip(inputs, swapped, strict=True)
        ]
        leader = next(x.dtype for x, kind in zip(plain, op.types.inputs, strict=True) if kind == "T")
        dtypes = [leader if kind == "T" else tf.as_dtype(kind) for kind in op.types.outputs]
        if device_tensor.are_on_gpu(plain):
            results = device_tensor.call(op, plain)
        else:
            results = tf.numpy_function(_on_arrays(op), plain, dtypes, stateful=False, name=op.name)
            results = results if isinstance(results, list | tuple) else [results]
        if all(x.shape.rank is not None for x in plain):
            shapes = [[-1 if n is None else n for n in x.shape] for x in plain]
            for result, shape in zip(results, op.signature.infer(shapes, op.name, op.arguments), strict=True):
                result.set_shape([None if n < 0 else n for n in shape])

        def gradient(*douts: Any) -> Any:
            # Computed again: `results` has no gradient of its own, and second order needs it.
            outputs = tf.nest.flatten(run(*inputs))
            gradients = op.pull_back(plain, outputs, douts)
            return [
                tf.linalg.matrix_transpose(x) if swap and x is not None else x
                for x, swap in zip(gradients, swapped, strict=True)
            ]

        return (results[0] if len(results) == 1 else tuple(results)), gradient

    try:
        return run(*tensors)
    except WrongLabelError as error:  # eager; in a graph TensorFlow makes the same of it
        raise tf.errors.InvalidArgumentError(None, None, str(error)) from None


def _on_arrays(op: Op) -> Any:
    def run(*arrays: np.ndarray) -> Any:
        if op.labels is not None:
            op.labels.check(op.name, arrays)
        results = op(*arrays)
        if isinstance(results, tuple):
            return [np.asarray(result) for result in results]
        return np.asarray(results)

    return run
