"""The same array elsewhere in memory: every layout that NumPy hands out.

Each function takes an array and returns one with the same shape and values, except `repeated` and
`repeated_first`, which repeat one element (stride 0), as ``broadcast_to`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["LAYOUTS", "REPEATING"]

Array = np.ndarray[Any, Any]


def contiguous(x: Array) -> Array:
    """A copy in C order."""
    return np.array(x, order="C")


def fortran(x: Array) -> Array:
    """A copy in Fortran order."""
    return np.array(x, order="F")


def transposed(x: Array) -> Array:
    """A view of an array whose last two axes are exchanged."""
    return np.swapaxes(np.swapaxes(x, -1, -2).copy(), -1, -2) if x.ndim > 1 else x.copy()


def every(part: slice, x: Array) -> Any:
    """An index that takes this part of every axis; a view even of an array without axes."""
    return (*[part] * x.ndim, ...)


def sliced(x: Array) -> Array:
    """Every second element of every axis of a larger array."""
    large = np.full([2 * n + 1 for n in x.shape], 7, x.dtype)
    view: Array = large[every(slice(1, None, 2), x)]
    view[...] = x
    return view


def reversed_(x: Array) -> Array:
    """Negative strides on every axis."""
    flip = every(slice(None, None, -1), x)
    view: Array = x[flip].copy()[flip]
    return view


def repeated(x: Array) -> Array:
    """Stride 0 on the last axis: the values change to those of its first element."""
    return np.broadcast_to(x[..., :1], x.shape) if x.ndim and x.shape[-1] else x


def repeated_first(x: Array) -> Array:
    """Stride 0 on the first axis."""
    return np.broadcast_to(x[:1], x.shape) if x.ndim and x.shape[0] else x


def read_only(x: Array) -> Array:
    """A copy that refuses to be written."""
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def misaligned(x: Array) -> Array:
    """One byte off."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    view = memory[1:].view(x.dtype) if x.ndim == 0 else np.ndarray(x.shape, x.dtype, memory, 1)
    view = view.reshape(x.shape)
    view[...] = x
    return view


def swapped(x: Array) -> Array:
    """The other byte order (bfloat16 has none)."""
    return x.astype(x.dtype.newbyteorder()) if x.dtype.isbuiltin == 1 else x


#: Every layout by name, the simplest first.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    layout.__name__.rstrip("_"): layout
    for layout in (
        contiguous,
        fortran,
        transposed,
        sliced,
        reversed_,
        repeated,
        repeated_first,
        read_only,
        misaligned,
        swapped,
    )
}
#: Those that change values.
REPEATING = ("repeated", "repeated_first")
