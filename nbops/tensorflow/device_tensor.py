"""Eager tensors on TensorFlow's GPU as arrays, for what takes arrays: CuPy, PyTorch, Numba, and the fallback.

TensorFlow's tensors refuse the stream that DLPack's consumers pass. They need none: TensorFlow waits for its
GPU when it hands a tensor out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from nbops.targets.cuda.dlpack import CUDA

__all__ = ["DeviceTensor", "are_on_gpu", "call"]

CPU = 1  # DLDeviceType, beside CUDA


class DeviceTensor:
    """An eager tensor by DLPack.

    Parameters
    ----------
    tensor : tf.Tensor
        On a GPU, or on the CPU. Its memory is shared and must not be written.

    Examples
    --------
    >>> import numpy as np, tensorflow as tf
    >>> from nbops.tensorflow.device_tensor import DeviceTensor
    >>> with tf.device("CPU"):
    ...     x = tf.constant([1.0, 2.0])
    >>> np.from_dlpack(DeviceTensor(x))
    array([1., 2.], dtype=float32)
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __dlpack__(self, **options: Any) -> Any:
        """The tensor's capsule; the stream, and all else that a consumer wishes for, are dropped."""
        if not hasattr(self.tensor, "__dlpack__"):  # TensorFlow 2.18
            return tf.experimental.dlpack.to_dlpack(self.tensor)
        return self.tensor.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        if not hasattr(self.tensor, "__dlpack_device__"):
            place = tf.DeviceSpec.from_string(self.tensor.backing_device)
            return (CUDA if place.device_type == "GPU" else CPU), int(place.device_index)
        kind, number = self.tensor.__dlpack_device__()
        return int(kind), int(number)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceTensor:
        """A new one on the same device, whose memory may be written before anybody else has it."""
        with tf.device(self.tensor.device):
            return DeviceTensor(tf.raw_ops.Empty(shape=list(shape), dtype=tf.as_dtype(dtype), init=False))


def are_on_gpu(tensors: Sequence[Any]) -> bool:
    """Whether these are eager tensors, all on a GPU that nbops can use."""
    from nbops.targets import cuda

    return (
        tf.executing_eagerly()
        and all(
            (hasattr(x, "__dlpack__") or hasattr(x, "backing_device")) and ":GPU:" in (x.device or "")
            for x in tensors
        )
        and cuda.available()
    )


def call(op: Any, tensors: Sequence[Any]) -> list[Any]:
    """Run an op on eager tensors on a GPU, without a copy.

    Parameters
    ----------
    op : Op
    tensors : sequence of tf.Tensor
        Of the dtypes that the op computes in.

    Returns
    -------
    list of tf.Tensor
        When they are computed: TensorFlow's own stream does not wait for ours.
    """
    from nbops.targets import cuda

    results = op(*map(DeviceTensor, tensors))
    cuda.default_device("cuda").synchronize(0)
    return [x.tensor for x in (results if isinstance(results, tuple) else (results,))]
