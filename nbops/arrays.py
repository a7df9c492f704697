"""What an array is, where it lives, and the one place that allocates.

NumPy arrays go to compiled loops as they are, whatever their strides; lists, numbers and objects with
``__array__`` become NumPy arrays first; TensorFlow values go to the registered TensorFlow op, and Dask arrays
to `nbops.dask`, chunk by chunk.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nbops import large_arrays
from nbops.targets import cuda

__all__ = [
    "allocate",
    "as_array",
    "astype",
    "check_labels_agree",
    "checked_out",
    "dtype_of",
    "into",
    "is_dask",
    "is_tensorflow",
    "keep",
    "native",
    "plain",
    "rank",
    "rearranged",
    "refuse_for_lazy",
    "refuse_for_tensors",
]


def is_tensorflow(value: Any) -> bool:
    """Whether a value is TensorFlow's (or Keras's) own: a tensor or a variable."""
    if "tensorflow" not in sys.modules:
        return False
    return hasattr(value, "__tf_tensor__") or hasattr(value, "_as_graph_element")


def is_dask(value: Any) -> bool:
    """Whether a value is a Dask array."""
    module = sys.modules.get("dask.array")
    return module is not None and isinstance(value, module.Array)


def keep(value: Any) -> Any:
    """A value that NumPy's functions know how to handle, such as a Dask array, as it is; else an ndarray."""
    if hasattr(type(value), "__array_function__") and not isinstance(value, np.ndarray):
        return value
    return plain(value)


def plain(value: Any, name: str = "this function", argument: str = "the operand") -> np.ndarray:
    """A value as an ndarray.

    Raises
    ------
    TypeError
        For masked arrays, whose mask would be lost.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: {argument} is a masked array, and its mask would be ignored; "
            "pass x.filled(...) or x.compressed()"
        )
    return np.asarray(value)


def rearranged(value: Any, rearrange: Any) -> Any:
    """What a function of NumPy's makes of an array, one that only arranges elements anew, as a view.

    Of an array on a GPU it is a view there, of its library's kind.
    """
    if cuda.is_device_array(value):
        from nbops.targets.cuda import views

        return views.view(value, rearrange)
    return rearrange(keep(value))


def dtype_of(array: Any) -> np.dtype[Any]:
    """An array's dtype as NumPy has it, wherever the array is."""
    if cuda.is_device_array(array):
        from nbops.targets.cuda import views

        return views.dtype_of(array)
    dtype: np.dtype[Any] = array.dtype
    return dtype


def astype(array: Any, dtype: Any, name: str) -> Any:
    """The array itself where it has this dtype, else a converted copy where it is."""
    if cuda.is_device_array(array):
        from nbops.targets.cuda import views

        return views.astype(array, np.dtype(dtype), name)
    return array.astype(dtype, copy=False)


def rank(value: Any) -> int | None:
    """The number of axes of an array, a tensor or a number; None where TensorFlow doesn't know it."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return int(np.ndim(value))
    return shape.rank if hasattr(shape, "rank") else len(shape)


def as_array(value: Any, name: str, argument: str) -> Any:
    """An operand as a NumPy array; a Python number stays what it is (NEP 50 calls it weak).

    Raises
    ------
    TypeError
        For masked arrays, matrices, arrays with an arithmetic of their own (units, labels) and everything
        that is not numbers.
    """
    if type(value) is np.ndarray or type(value) in (int, float):
        return value
    if isinstance(value, np.matrix):
        raise TypeError(f"{name}: {argument} is a matrix, whose * differs; pass np.asarray(x)")
    if _has_own_arithmetic(value) or str(getattr(value, "dtype", "")) == "category":
        raise TypeError(
            f"{name}: {argument} is a {type(value).__name__}, whose own arithmetic would be ignored; "
            "pass np.asarray(x)"
        )
    try:
        array = plain(value, name, argument)
    except ValueError as error:
        raise TypeError(f"{name}: {argument} is no rectangular array of numbers: {error}") from None
    if array.dtype.kind not in "iufV":
        raise TypeError(
            f"{name}: {argument} is a {type(value).__name__} of dtype {array.dtype}; expected real numbers"
        )
    return array


def _has_own_arithmetic(value: Any) -> bool:
    """Whether NumPy's ufuncs would leave an operand to its class, and it is none that is read here."""
    own = getattr(type(value), "__array_ufunc__", np.ndarray.__array_ufunc__)
    known = isinstance(value, np.ma.MaskedArray) or type(value).__module__.split(".")[0] == "pandas"
    return own is not np.ndarray.__array_ufunc__ and not known


def check_labels_agree(name: str, operands: Sequence[Any]) -> None:
    """Refuse pandas objects that pandas would align: nbops goes by position.

    Raises
    ------
    TypeError
        When two operands of an elementwise op have different labels on the same axis.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return
    labels: list[tuple[Any, ...]] = [
        tuple(reversed(x.axes)) for x in operands if isinstance(x, pandas.Series | pandas.DataFrame)
    ]
    for one, other in itertools.combinations(labels, 2):
        if not all(a.equals(b) for a, b in zip(one, other, strict=False)):
            raise TypeError(
                f"{name}: the operands' labels differ, and nbops goes by position; align them first "
                "(x, y = x.align(y)), or pass x.to_numpy()"
            )


def is_plain(value: Any) -> bool:
    """Whether a value is exactly an ndarray, of float32 or float64 as the machine has them."""
    return type(value) is np.ndarray and value.dtype.char in "fd" and value.dtype.isnative


def native(array: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """The operand with this dtype, in native byte order and aligned; copied only where it must be."""
    converted = np.asarray(array, dtype=dtype)
    return converted if converted.flags.aligned else converted.copy()


def allocate(
    shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[np.ndarray], elementwise: bool
) -> np.ndarray:
    """An output that nobody has written yet.

    Like NumPy's ufuncs, an elementwise op on Fortran-ordered arrays gives a Fortran-ordered result.

    Raises
    ------
    MemoryError
        When there is no room; nothing has been changed then.
    """
    fortran = elementwise and len(shape) > 1 and not any(x.flags.c_contiguous for x in inputs if x.ndim)
    fortran = fortran and all(x.flags.f_contiguous for x in inputs if x.shape == shape)
    return new_array(shape, dtype, "F" if fortran else "C")


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> np.ndarray:
    """An array that nobody has written yet.

    Raises
    ------
    MemoryError
        When there is no room.
    """
    if math.prod(shape) * dtype.itemsize >= large_arrays.LARGE:
        return large_arrays.empty(shape, dtype, order)
    return np.empty(shape, dtype, order=order)


def checked_out(
    name: str, out: Any, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
) -> list[np.ndarray]:
    """The arrays of ``out=``, one per result.

    Raises
    ------
    TypeError
        For what is no array, or can't hold the result's dtype.
    ValueError
        For another number of arrays or another shape, or one that is read-only.
    """
    results = list(out) if isinstance(out, tuple) else [out]
    if len(results) != len(shapes):
        raise ValueError(f"{name}: out has {len(results)} arrays; expected {len(shapes)}")
    for array, shape, dtype in zip(results, shapes, dtypes, strict=True):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name}: out is a {type(array).__name__}; expected an ndarray")
        if isinstance(array, np.ma.MaskedArray) or _has_own_arithmetic(array):
            raise TypeError(
                f"{name}: out is a {type(array).__name__}, whose own arithmetic or mask would be ignored; "
                "pass np.asarray(out)"
            )
        if array.shape != shape:
            raise ValueError(f"{name}: out is {array.shape}; the result's shape is {shape}")
        if not array.flags.writeable:
            raise ValueError(f"{name}: out is read-only")
        if not np.can_cast(dtype, array.dtype, casting="same_kind"):
            raise TypeError(
                f"{name}: the result's dtype {dtype} can't be put into out of dtype {array.dtype}"
            )
    return results


def into(out: Any, result: Any, name: str) -> Any:
    """A result, or `out` with the result in it."""
    if out is None:
        return result
    refuse_for_lazy(name, out=out if is_dask(result) else None)
    refuse_for_tensors(name, out=out if is_tensorflow(result) else None)
    if cuda.is_device_array(result):
        from nbops.targets.cuda import views

        return views.copy_into(out, result, name)
    (array,) = checked_out(name, out, [np.shape(result)], [np.asarray(result).dtype])
    np.copyto(array, result, casting="same_kind")
    return array


def refuse_for_tensors(name: str, **keywords: Any) -> None:
    """Raise TypeError when a keyword was given that TensorFlow values can't honour."""
    for keyword, value in keywords.items():
        if value is not None:
            raise TypeError(
                f"{name}: {keyword}= does not go with TensorFlow values, which TensorFlow allocates "
                "and places; leave it out, or pass NumPy arrays"
            )


def refuse_for_lazy(name: str, **keywords: Any) -> None:
    """Raise TypeError when a keyword was given that Dask arrays can't honour."""
    for keyword, value in keywords.items():
        if value is not None:
            raise TypeError(
                f"{name}: {keyword}= does not go with Dask arrays, which are computed later; leave it out"
            )
