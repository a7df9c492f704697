"""A traced function that runs on the thread that calls it.

TensorFlow's executor gives the ops of a graph to a pool of threads, so that independent ops run side by side.
Waking them takes longer than many a small op (some 0.2 ms for a call), and nbops's ops use every core
themselves. TensorFlow also has an executor that runs one op after the other where it is called; a
``tf.function`` can't choose it, but the op that calls a function can.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["OnCaller"]


class OnCaller:
    """A ``tf.function`` with one input signature, run by one thread: the caller's.

    Parameters
    ----------
    function : tf.function
        Made with an ``input_signature``. Attributes that `OnCaller` lacks are those of this function.

    Notes
    -----
    It is the function itself when it is called inside another graph, under a distribution strategy or with
    what does not fit the signature, where there is a GPU, when a result is no tensor, and when it has
    branches or loops, for which that executor has no code.

    Examples
    --------
    >>> import tensorflow as tf
    >>> from nbops.tensorflow.on_caller import OnCaller
    >>> double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((None,), tf.float32)])
    >>> OnCaller(double)(tf.constant([1.0, 2.0])).numpy()
    array([2., 4.], dtype=float32)
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._concrete: Any = None
        self._signature: list[tuple[tf.DType, tf.TensorShape]] = []
        self._results: list[tf.DType] = []
        self._flat = False  # whether the result is a tuple of tensors
        self._alone = not tf.config.list_logical_devices("GPU")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)

    def __call__(self, *arguments: Any) -> Any:
        if not self._alone or not tf.executing_eagerly() or tf.distribute.has_strategy():
            return self.function(*arguments)
        if tf.config.functions_run_eagerly():
            return self.function(*arguments)
        if self._concrete is None:
            self._trace()
            return self(*arguments)
        tensors = [tf.convert_to_tensor(value) for value in arguments]
        if len(tensors) != len(self._signature) or not all(
            tensor.dtype == dtype and shape.is_compatible_with(tensor.shape)
            for (dtype, shape), tensor in zip(self._signature, tensors, strict=True)
        ):
            return self.function(*arguments)
        concrete = self._concrete
        try:
            results = tf.raw_ops.StatefulPartitionedCall(
                args=[*tensors, *concrete.captured_inputs],
                Tout=self._results,
                f=concrete,
                executor_type="SINGLE_THREADED_EXECUTOR",
            )
        except tf.errors.FailedPreconditionError as error:
            if "Single-threaded executor does not support" not in error.message:
                raise
            self._alone = False  # it refuses branches and loops, before it runs anything
            return self.function(*arguments)
        return (
            tuple(results) if self._flat else tf.nest.pack_sequence_as(concrete.structured_outputs, results)
        )

    def _trace(self) -> None:
        """Trace the function, and keep what TensorFlow would work out anew in each call, for some 30 µs."""
        concrete = self.function.get_concrete_function()
        self._signature = [(spec.dtype, spec.shape) for spec in self.function.input_signature]
        self._results = [tensor.dtype for tensor in concrete.outputs]
        structure = concrete.structured_outputs
        self._flat = type(structure) is tuple and all(isinstance(part, tf.Tensor) for part in structure)
        self._alone = all(isinstance(part, tf.Tensor) for part in tf.nest.flatten(structure))
        self._concrete = concrete
