"""Arrays on a GPU that come by DLPack only, read as those with ``__cuda_array_interface__`` are.

DLPack hands out a capsule with a C structure in it: address, device, shape, strides, dtype. The capsule is
kept as long as the array is used; when it goes, its producer is told.
"""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["Imported", "has_interface", "imported", "is_on_gpu"]

CUDA, CUDA_MANAGED = 2, 13  # DLDeviceType
LEGACY_STREAM = 1
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode


class _Tensor(ctypes.Structure):
    """The head of a DLManagedTensor: its DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype_code", ctypes.c_uint8),
        ("dtype_bits", ctypes.c_uint8),
        ("dtype_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def has_interface(value: Any) -> bool:
    """Whether a value has ``__cuda_array_interface__``."""
    if getattr(value, "requires_grad", False):  # PyTorch refuses the interface then
        value = value.detach()
    return hasattr(value, "__cuda_array_interface__")


def is_on_gpu(value: Any) -> bool:
    """Whether a value offers DLPack, and lies on a GPU."""
    asked = getattr(value, "__dlpack_device__", None)
    return asked is not None and asked()[0] in (CUDA, CUDA_MANAGED)


def imported(value: Any) -> Any:
    """The value itself, or what stands in for it where it is on a GPU and comes by DLPack only."""
    return Imported(value) if not has_interface(value) and is_on_gpu(value) else value


class Imported:
    """An array by DLPack.

    Parameters
    ----------
    source : object
        With ``__dlpack__``; it is asked to have finished before what comes later on the default stream.

    Raises
    ------
    TypeError
        For elements that NumPy has no dtype for.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._capsule = source.__dlpack__(stream=LEGACY_STREAM)
        tensor = _tensor_in(self._capsule)
        kind = _KINDS.get(tensor.dtype_code)
        if kind is None or tensor.dtype_lanes != 1 or tensor.dtype_bits % 8:
            raise TypeError(
                f"a {type(source).__name__} came by DLPack with elements of {tensor.dtype_bits} bits and "
                f"type code {tensor.dtype_code}; expected integers, floating point or bool: convert it first"
            )
        size = tensor.dtype_bits // 8
        shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
        strides = (
            tuple(tensor.strides[axis] * size for axis in range(tensor.ndim)) if tensor.strides else None
        )
        self._interface: dict[str, Any] = {
            "version": 3,
            "shape": shape,
            "typestr": f"{'|' if size == 1 else '<'}{kind}{size}",
            "data": ((tensor.data or 0) + tensor.byte_offset, False),
            "strides": strides,
            "stream": None,
        }

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._interface


def _tensor_in(capsule: Any) -> _Tensor:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return _Tensor.from_address(get_pointer(capsule, b"dltensor"))
