"""The ops that are registered with TensorFlow, by number: so compiled code names one when it calls Python."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from nbops.op import Op
from nbops.tensorflow.c_api import function

__all__ = ["Registered", "address_of", "dtypes_of", "set_status", "variants"]


@dataclass
class Registered:
    """One registered TensorFlow op: an nbops op, and which of its matrices it reads transposed."""

    op: Op
    swapped: tuple[bool, ...]
    name: str
    wrapper: Any = None
    descriptor: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    slots: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    keep: list[Any] = field(default_factory=list)  # memory and machine code that TensorFlow points to


#: A descriptor's NUMBER is the index into it.
variants: list[Registered] = []


def dtypes_of(op: Op, dtype: int) -> tuple[np.dtype[Any], ...]:
    """The operands' dtypes where T is TensorFlow's type number `dtype`."""
    own = tf.as_dtype(dtype).as_numpy_dtype
    kinds: Sequence[str] = op.types.inputs + op.types.outputs
    return tuple(np.dtype(own if kind == "T" else kind) for kind in kinds)


def set_status(status: int, code: int, message: str) -> None:
    """Give a TF_Status an error."""
    set_it = function("TF_SetStatus", None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)
    set_it(status, code, message.encode())


def address_of(callback: Any) -> int:
    """Where the machine code of a ctypes callback lies."""
    return int(ctypes.cast(callback, ctypes.c_void_p).value or 0)
