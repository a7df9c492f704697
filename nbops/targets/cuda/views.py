"""Device arrays rearranged, converted and copied: what ops do with operands besides running their loops.

A view is made by NumPy, from the array's address, and becomes an array of the caller's library again: no
element is read or moved. A copy is a kernel that converts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.cuda import dlpack, is_device_array
from nbops.targets.cuda.residence import address_of, copy, library_of, new_array

__all__ = ["astype", "copy_into", "dtype_of", "reshape", "view"]


class _View:
    """Memory of a device array in another shape, by the interface that all libraries read."""

    def __init__(self, owner: Any, address: np.ndarray) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": address.shape,
            "typestr": address.dtype.str,
            "data": (address.__array_interface__["data"][0], False),
            "strides": address.strides,
            "stream": None,
        }


def dtype_of(x: Any) -> np.dtype[Any]:
    """A device array's dtype as NumPy has it."""
    return address_of(dlpack.imported(x), "dtype", "x").dtype


def view(x: Any, rearrange: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A view of a device array, of the caller's kind.

    Parameters
    ----------
    x : device array
    rearrange : function
        Makes a view of an ndarray, without a look at its elements.
    """
    imported = dlpack.imported(x)
    found = rearrange(address_of(imported, "a view", "x"))
    if not found.size:
        return library_of(x).empty(x, found.shape, found.dtype)
    return library_of(x).view(x, _View(imported, found))


def reshape(x: Any, shape: Any) -> Any:
    """The elements in another shape: a view where they lie in order, else a copy."""
    in_order = address_of(dlpack.imported(x), "reshape", "x").flags.c_contiguous
    return view(x if in_order else _copied(x, dtype_of(x), "reshape"), lambda a: np.reshape(a, shape))


def astype(x: Any, dtype: np.dtype[Any], name: str) -> Any:
    """The array itself where it has this dtype, else a converted copy."""
    return x if dtype_of(x) == dtype else _copied(x, dtype, name)


def _copied(x: Any, dtype: np.dtype[Any], name: str) -> Any:
    result = new_array(x, tuple(x.shape), dtype, name)
    copy(x, result, name)
    return result


def copy_into(out: Any, x: Any, name: str) -> Any:
    """`out` with the elements of `x` in it.

    Raises
    ------
    TypeError
        For an `out` that is on the CPU, or of a dtype that can't hold the result.
    ValueError
        For an `out` of another shape.
    """
    if not is_device_array(out):
        raise TypeError(f"{name}: out is a {type(out).__name__}; expected an array on the GPU")
    if tuple(out.shape) != tuple(x.shape):
        raise ValueError(f"{name}: out is {tuple(out.shape)}; the result's shape is {tuple(x.shape)}")
    if not np.can_cast(dtype_of(x), dtype_of(out), casting="same_kind"):
        raise TypeError(
            f"{name}: the result's dtype {dtype_of(x)} can't be put into out of dtype {dtype_of(out)}"
        )
    copy(x, out, name)
    return out
