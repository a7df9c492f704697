"""Arrays that are on the GPU already: CuPy's, PyTorch's, Numba's, or any by DLPack.

They go in without a copy, and the result is an array of the caller's kind, made by the caller's library. Work
is put on the stream that the library calls current, so it is in order with the caller's own.

Inside, an array is a NumPy array *of the device's address*: shapes, strides and the frame are computed from
it as for any other, and nothing here reads or writes an element.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nbops import dispatch, frame
from nbops.dtypes import check_real
from nbops.kernel import Kernel
from nbops.signature import Signature
from nbops.targets.cuda import devices, dlpack
from nbops.targets.cuda.devices import Device
from nbops.targets.cuda.execution import allocated, launch_frame

if TYPE_CHECKING:
    from nbops.execution import Axes
    from nbops.op import Op

__all__ = ["LIBRARIES", "Library", "address_of", "call", "check_residence", "copy", "library_of", "new_array"]


class Library(Protocol):
    """What a library of arrays is asked for."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array on the device of `like`."""

    def view(self, like: Any, described: Any) -> Any:
        """The library's own array on memory that `described` tells of and keeps alive."""

    def stream(self, like: Any) -> int | None:
        """The current stream, as the driver's handle; None where the library has none."""


class _CuPy:
    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return sys.modules["cupy"].empty(shape, dtype)

    def view(self, like: Any, described: Any) -> Any:
        return sys.modules["cupy"].asarray(described)

    def stream(self, like: Any) -> int | None:
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)


class _Torch:
    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device=like.device)

    def view(self, like: Any, described: Any) -> Any:
        return sys.modules["torch"].as_tensor(described, device=like.device)

    def stream(self, like: Any) -> int | None:
        return int(sys.modules["torch"].cuda.current_stream(like.device).cuda_stream)


class _Numba:
    """Also for arrays of libraries that are not known here, which get Numba's device arrays back."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        from nbops.targets.cuda.toolchain import cuda

        return cuda.device_array(shape, dtype)

    def view(self, like: Any, described: Any) -> Any:
        from nbops.targets.cuda.toolchain import cuda

        return cuda.as_cuda_array(described, sync=False)

    def stream(self, like: Any) -> int | None:
        return None


class _Own:
    """For arrays of nbops: adapters of another library's."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return like.empty(shape, dtype)

    def view(self, like: Any, described: Any) -> Any:
        raise TypeError(f"a {type(like).__name__} has no views; rearrange what it is made of")

    def stream(self, like: Any) -> int | None:
        return None


#: The driver's handle of the default stream that all libraries share.
DEFAULT_STREAM = 0
#: By the name of the package that an array's type comes from.
LIBRARIES: dict[str, Library] = {"cupy": _CuPy(), "torch": _Torch(), "numba": _Numba(), "nbops": _Own()}


def library_of(x: Any) -> Library:
    """What makes arrays of the kind of `x`; Numba, where its library is not known here."""
    return LIBRARIES.get(type(x).__module__.split(".")[0], LIBRARIES["numba"])


def _interface(x: Any) -> dict[str, Any]:
    """The array's ``__cuda_array_interface__``."""
    if getattr(x, "requires_grad", False):  # PyTorch refuses the interface then
        x = x.detach()
    described: dict[str, Any] = x.__cuda_array_interface__
    return described


class _Address:
    """Memory that NumPy is told of and never touches."""

    def __init__(self, address: int, shape: tuple[int, ...], strides: Any, typestr: str) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": typestr,
            "strides": strides,
            "data": (address, False),
        }


def _array_at(address: int, shape: tuple[int, ...], strides: Any, dtype: np.dtype[Any]) -> np.ndarray:
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(_Address(address, shape, strides, dtype.str))


def address_of(x: Any, name: str, argument: str) -> np.ndarray:
    """A device array as an array of the device's address.

    Raises
    ------
    TypeError
        For an array with a mask.
    """
    interface = _interface(x)
    if interface.get("mask") is not None:
        raise TypeError(f"{name}: {argument} has a mask, which would be ignored; pass it without")
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    return _array_at(interface["data"][0], shape, interface.get("strides"), dtype)


def _describe(x: Any, name: str, argument: str) -> np.ndarray:
    """`address_of` an array of numbers."""
    address = address_of(x, name, argument)
    check_real(address.dtype, name, argument)
    return address


def call(op: Op, operands: Sequence[Any], out: Any, axes: Axes | None, target: str | None) -> Any:
    """Run an op on device arrays and numbers.

    Raises
    ------
    TypeError
        For arrays on both sides, and as for NumPy arrays.
    RuntimeError
        Where a target of the CPU was asked for.
    """
    from nbops import execution
    from nbops.targets.cuda import is_device_array

    first = next(x for x in operands if is_device_array(x))
    check_residence(op, operands)
    operands = [dlpack.imported(x) for x in operands]
    if target not in (None, "auto", "cuda", "cuda-emulator"):
        raise RuntimeError(f"{op.name}: target={target!r}, but the operands are on the GPU; copy them first")
    dispatch.decide_device_array(op.name, type(first).__name__)
    library = library_of(first)
    written = _written(op, out)
    used = [*zip(op.arguments, operands, strict=True), *written]
    device, stream = _place(library, first, used, op.name)
    values = [
        _describe(x, op.name, argument) if is_device_array(x) else x
        for x, argument in zip(operands, op.arguments, strict=True)
    ]
    loop_dtypes, result_dtypes = op.types.resolve([_shapeless(x) for x in values], op.name, op.arguments)
    with ExitStack() as stack:
        convert = functools.partial(_converted, device=device, stream=stream, stack=stack)
        inputs = [convert(x, dtype) for x, dtype in zip(values, loop_dtypes, strict=False)]
        places = None if axes is None else execution.normalize_axes(op, axes)
        if places:
            execution.check_axes(op, inputs, places)
            inputs = [execution.core_axes_last(x, own) for x, own in zip(inputs, places, strict=False)]
        geometry, shapes = execution.infer(op, inputs)
        if places:
            own_places = places[op.n_inputs :]
            shapes = [execution.shape_back(s, own) for s, own in zip(shapes, own_places, strict=True)]
        if out is None:
            results = [
                new_array(first, shape, dtype, op.name)
                for shape, dtype in zip(shapes, result_dtypes, strict=True)
            ]
            written = [("out", dlpack.imported(x)) for x in results]
        else:
            results = list(out) if isinstance(out, tuple) else [out]
            _check_written(op, written, shapes, result_dtypes)
        outputs = [_describe(x, op.name, argument) for argument, x in written]
        buffers = [
            x if x.dtype == dtype else _temporary(x.shape, dtype, device, stream, stack)
            for x, dtype in zip(outputs, loop_dtypes[op.n_inputs :], strict=True)
        ]
        placed = buffers
        if places:
            own_places = places[op.n_inputs :]
            placed = [execution.core_axes_last(x, own) for x, own in zip(buffers, own_places, strict=True)]
        for row, x in zip(geometry, [*inputs, *placed], strict=True):
            frame.describe(row, x)
        table = frame.new_frame(len(geometry))
        frame.build(op.signature.table, geometry, table)
        launch_frame(op.kernel, table, tuple(loop_dtypes), device, stream)
        for x, buffer in zip(outputs, buffers, strict=True):
            if buffer is not x:
                _convert(buffer, x, device, stream)
    return results[0] if len(results) == 1 else tuple(results)


def _shapeless(x: Any) -> Any:
    """A value for the dtype rules, which may look at it: an array of zeros of the same dtype."""
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, np.ndarray) else x


def check_residence(op: Op, operands: Sequence[Any]) -> None:
    """Raise TypeError for an array that is not on the GPU, where another one is."""
    from nbops.targets.cuda import is_device_array

    first = next(x for x in operands if is_device_array(x))
    for x, argument in zip(operands, op.arguments, strict=True):
        if not is_device_array(x) and not isinstance(x, int | float | np.generic):
            kind = type(first).__module__.split(".")[0]
            there = {"cupy": "cupy.asarray(x)", "torch": "torch.as_tensor(x, device='cuda')"}.get(
                kind, "numba.cuda.to_device(x)"
            )
            raise TypeError(
                f"{op.name}: {argument} is a {type(x).__name__} on the CPU, but another operand is a "
                f"{type(first).__name__} on the GPU; nothing is copied silently: pass {there} for it, or "
                "copy the other one to the CPU"
            )


#: A call's arrays and numbers, those that it writes too, by their arguments' names.
Used = Sequence[tuple[str, Any]]


def _place(library: Library, first: Any, used: Used, name: str) -> tuple[Device, int]:
    """Where a call runs: the GPU that its arrays are on, and the stream to work on."""
    device = _device_of(used, name)
    return device, _stream(library, first, used, device)


def _device_of(used: Used, name: str) -> Device:
    """The GPU that a call's arrays are on.

    Raises
    ------
    TypeError
        For arrays on several.
    """
    from nbops.targets.cuda import is_device_array

    device = dispatch.settings().device or devices.default_device("cuda")
    found: dict[str, Device] = {}
    for argument, x in used:
        interface = _interface(x) if is_device_array(x) else {"shape": (0,)}
        if 0 not in interface["shape"]:
            found[argument] = device.holding(interface["data"][0])
    if len({id(own) for own in found.values()}) > 1:
        where = ", ".join(f"{argument} is on {own!r}" for argument, own in found.items())
        raise TypeError(f"{name}: {where}; nothing is copied silently: copy the operands to one GPU first")
    return next(iter(found.values()), device)


def _stream(library: Library, first: Any, used: Used, device: Device) -> int:
    """The stream to work on; waits for the others that the call's arrays are in use on.

    An array that is written counts like one that is read: work on another stream may still read it.
    """
    from nbops.targets.cuda import is_device_array

    named = [_interface(x).get("stream") for _, x in used if is_device_array(x)]
    in_use = [_without_alias(stream) for stream in named if stream is not None]  # None: nothing to wait for
    current = library.stream(first)
    current = next(iter(in_use), DEFAULT_STREAM) if current is None else _without_alias(current)
    for other in set(in_use) - {current}:
        device.synchronize(other)
    return current


def _without_alias(stream: int) -> int:
    """A stream's handle: the exchange protocols call the default stream 1, the driver and libraries 0 too."""
    return DEFAULT_STREAM if stream == dlpack.LEGACY_STREAM else int(stream)


def _written(op: Op, out: Any) -> list[tuple[str, Any]]:
    """The caller's arrays for the results, by name; none where there are none.

    Raises
    ------
    TypeError
        For an array that is not on the GPU.
    ValueError
        For too many or too few.
    """
    from nbops.targets.cuda import is_device_array

    if out is None:
        return []
    given = list(out) if isinstance(out, tuple) else [out]
    n_outputs = len(op.signature.outputs)
    if len(given) != n_outputs:
        raise ValueError(f"{op.name}: out has {len(given)} arrays; expected {n_outputs}")
    for x in given:
        if not is_device_array(x):
            raise TypeError(f"{op.name}: out is a {type(x).__name__}; expected an array on the GPU")
    names = ["out"] if len(given) == 1 else [f"out[{number}]" for number in range(len(given))]
    return [(argument, dlpack.imported(x)) for argument, x in zip(names, given, strict=True)]


def _check_written(
    op: Op, written: Used, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
) -> None:
    """Raise ValueError for an array of the caller's that the results can't be put into."""
    for (argument, x), shape, dtype in zip(written, shapes, dtypes, strict=True):
        own = _describe(x, op.name, argument)
        if own.shape != shape or own.dtype != dtype:
            raise ValueError(
                f"{op.name}: {argument} is {own.shape} in {own.dtype}; the result is {shape} in {dtype}"
            )
        if _interface(x)["data"][1]:
            raise ValueError(f"{op.name}: {argument} is read-only")


# ---- memory ---------------------------------------------------------------------------------------------


def new_array(like: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Any:
    """A new array of the kind of `like`, and on its device.

    Raises
    ------
    MemoryError
        Where its library finds no room, even without what nbops had kept of the GPU's memory. The CPU doesn't
        run the call instead, as it does one on NumPy arrays: that would copy the operands there.
    """
    library = library_of(like)
    try:
        return library.empty(like, shape, dtype)
    except Exception as error:
        if not _means_no_room(error):
            raise
    _device_of([("x", dlpack.imported(like))], name).release_kept()
    try:
        return library.empty(like, shape, dtype)
    except Exception as error:
        if not _means_no_room(error):
            raise
        nbytes = math.prod(shape) * dtype.itemsize
        raise MemoryError(
            f"{name}: the GPU has no room for a result of {nbytes:,} bytes, {shape} in {dtype}; free arrays "
            "there, pass one as out=, or copy the operands to the CPU and call again"
        ) from error


def _means_no_room(error: Exception) -> bool:
    """Whether a library failed for want of memory; of their errors, only CuPy's is a MemoryError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's
        or "CUDA_ERROR_OUT_OF_MEMORY" in str(error)  # Numba's, which has the driver's own name for it
    )


# ---- conversions, on the device -----------------------------------------------------------------------


def _temporary(
    shape: tuple[int, ...], dtype: np.dtype[Any], device: Device, stream: int, stack: ExitStack
) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return _array_at(stack.enter_context(allocated(device, size, stream)), shape, None, dtype)


def _converted(x: Any, dtype: np.dtype[Any], device: Device, stream: int, stack: ExitStack) -> np.ndarray:
    """An operand in the loop's dtype; numbers move to the device."""
    if not isinstance(x, np.ndarray):
        number = np.asarray(x, dtype)
        place = _temporary((), dtype, device, stream, stack)
        device.write(place.__array_interface__["data"][0], number.reshape(1))
        if stream != DEFAULT_STREAM:  # the copy may be on its way yet, and is in order with that one only
            device.synchronize(DEFAULT_STREAM)
        return place
    if x.dtype == dtype:
        return x
    result = _temporary(x.shape, dtype, device, stream, stack)
    _convert(x, result, device, stream)
    return result


def copy(source: Any, result: Any, name: str) -> None:
    """Fill a device array with another one's elements, converted to its dtype."""
    used = [("x", dlpack.imported(source)), ("out", dlpack.imported(result))]
    device, stream = _place(library_of(source), source, used, name)
    x, out = (_describe(array, name, argument) for argument, array in used)
    _convert(x, out, device, stream)


def _same(x: Any) -> Any:
    return x


@functools.cache
def _conversion() -> Kernel:
    from nbops.ops import nests

    return Kernel(nests.unary, Signature(((),), ((),)), "convert", formula=_same)


def _convert(source: np.ndarray, result: np.ndarray, device: Device, stream: int) -> None:
    kernel = _conversion()
    geometry = frame.new_geometry(2)
    table = frame.new_frame(2)
    frame.describe(geometry[0], source)
    frame.describe(geometry[1], result)
    frame.build(kernel.signature.table, geometry, table)
    launch_frame(kernel, table, (source.dtype, result.dtype), device, stream)
