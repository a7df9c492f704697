"""``Dense``: Keras's dense layer on one nbops op::

    model = keras.Sequential([nbops.keras.Dense(512, "relu"), nbops.keras.Dense(10, "softmax")])
    model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])

It takes Keras's arguments and is saved and loaded as Keras's own layers are; import this module before
loading a model that has one. Importing it imports TensorFlow.

It is a layer of the Keras that ``tf.keras`` is: Keras 3, or with ``TF_USE_LEGACY_KERAS=1`` Keras 2, the
package tf-keras, whose ``fit`` also trains on several machines (Keras 3's does not: see docs/scaling.md).
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import nbops

__all__ = ["Dense"]

#: The variable and its values are TensorFlow's.
_LEGACY = os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true", "True")
keras: Any = importlib.import_module("tf_keras" if _LEGACY else "keras")

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"nbops.keras: Keras's backend is {keras.backend.backend()!r}, but nbops's ops are TensorFlow's; "
        "set the environment variable KERAS_BACKEND=tensorflow before Keras is imported"
    )

#: Keras's activations that `nbops.dense` computes in the same pass as the product.
_FUSED = {getattr(keras.activations, name): name for name in ("linear", "relu", "sigmoid", "softmax", "tanh")}


#: nbops's own functions, which Keras could not save.
_KERAS_NAMES: dict[Any, str] = {getattr(nbops, name): name for name in ("relu", "sigmoid", "softmax", "tanh")}


@keras.saving.register_keras_serializable(package="nbops")
class Dense(keras.layers.Layer):  # type: ignore[misc]
    """``activation(inputs @ kernel + bias)``, the product, bias and activation in one op.

    Parameters
    ----------
    units : int
    activation : str or function, optional
        Any of Keras's. linear, relu, sigmoid, softmax and tanh are fused into the product; others are called
        on its result.
    use_bias : bool
    kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, activity_regularizer, \
kernel_constraint, bias_constraint : optional
        As in `keras.layers.Dense`.
    **kwargs
        As in `keras.layers.Layer`: ``name``, ``dtype``, ``trainable``.

    Raises
    ------
    ValueError
        When `units` is below 1, or the inputs have no batch axis or an unknown last axis.

    Examples
    --------
    >>> import keras, numpy as np, nbops.keras
    >>> model = keras.Sequential([nbops.keras.Dense(512, "relu"), nbops.keras.Dense(10, "softmax")])
    >>> model(np.zeros((3, 784), "float32")).shape
    TensorShape([3, 10])
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"Dense: units is {units!r}; expected an integer of at least 1")
        self.units = units
        self.activation = keras.activations.get(_KERAS_NAMES.get(activation, activation))
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True
        self.supports_jit = False  # XLA knows only its own ops

    def build(self, input_shape: Any) -> None:
        """Make the kernel and the bias for inputs of this shape, (..., k)."""
        size = input_shape[-1]
        if size is None:
            raise ValueError(f"Dense: the inputs are {tuple(input_shape)}; their last axis must be known")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: size})

    def call(self, inputs: Any) -> Any:
        """The layer's outputs, shape (..., units), for inputs of shape (..., k)."""
        import tensorflow as tf

        # A conversion inside call gives the variables the dtype of a mixed-precision policy.
        kernel = tf.convert_to_tensor(self.kernel)
        bias = None if self.bias is None else tf.convert_to_tensor(self.bias)
        # One product of all rows: a batch of products would make one kernel gradient for each.
        inputs = tf.convert_to_tensor(inputs)
        if inputs.dtype != kernel.dtype:  # integers, or floats of a layer that does not cast them
            dtype = self._common_dtype(inputs, kernel)
            inputs, kernel = tf.cast(inputs, dtype), tf.cast(kernel, dtype)
            bias = None if bias is None else tf.cast(bias, dtype)
        rows = inputs if inputs.shape.rank == 2 else tf.reshape(inputs, (-1, inputs.shape[-1]))
        fused = _FUSED.get(self.activation)
        outputs = nbops.dense(rows, kernel, bias, fused)
        if inputs.shape.rank != 2:
            outputs = tf.reshape(outputs, tf.concat([tf.shape(inputs)[:-1], [self.units]], 0))
            outputs.set_shape((*inputs.shape[:-1], self.units))
        return outputs if fused is not None else self.activation(outputs)

    def _common_dtype(self, inputs: Any, kernel: Any) -> Any:
        """What Keras 3 promotes both to; Keras 2 casts the inputs."""
        return kernel.dtype if _LEGACY else keras.backend.result_type(inputs.dtype, kernel.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """(..., units) for (..., k)."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }
