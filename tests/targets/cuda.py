"""What the CUDA target's tests share: arrays on the emulated GPU, and a driver that is the emulator."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from nbops.targets.cuda import toolchain
from nbops.targets.cuda.devices import EmulatedDevice
from nbops.targets.cuda.driver import TABLE

needs_compiler = pytest.mark.skipif(
    toolchain.failure() is not None, reason=f"numba-cuda can't compile here: {toolchain.failure()}"
)


class FakeArray:
    """An array in the emulator's memory, with the interface by which libraries exchange GPU arrays."""

    def __init__(
        self, device: EmulatedDevice, shape: tuple[int, ...], dtype: Any, stream: Any = None
    ) -> None:
        self.device, self.shape, self.dtype = device, shape, np.dtype(dtype)
        self.strides: tuple[int, ...] | None = None
        self.stream = stream
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.address = device.allocate(max(self.nbytes, 1))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": self.strides,
            "stream": self.stream,
        }

    def fill(self, array: np.ndarray) -> FakeArray:
        self.device.write(self.address, np.ascontiguousarray(array, self.dtype).reshape(-1))
        return self

    def get(self) -> np.ndarray:
        result = np.empty(self.shape, self.dtype)
        if result.nbytes:
            self.device.read(self.address, result.reshape(-1))
        return result

    @property
    def transposed(self) -> FakeArray:
        """A view with the two axes exchanged."""
        view = object.__new__(FakeArray)
        view.__dict__.update(self.__dict__)
        rows, columns = self.shape
        view.shape, view.strides = (columns, rows), (self.dtype.itemsize, columns * self.dtype.itemsize)
        return view


class FakeLibrary:
    """A library whose arrays are `FakeArray`; its current stream is `current`."""

    current = 77

    def empty(self, like: FakeArray, shape: tuple[int, ...], dtype: Any) -> FakeArray:
        return FakeArray(like.device, shape, dtype)

    def stream(self, like: FakeArray) -> int:
        return self.current


class _Function:
    """A function of the fake driver that takes what ctypes would convert."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> int:
        return int(self.call(*arguments) or 0)


class FakeDriverLibrary:
    """libcuda as far as nbops uses it; memory and launches are the emulator's.

    Parameters
    ----------
    room : int
        Bytes of device memory.
    """

    def __init__(self, room: int = 2**30, compute_capability: tuple[int, int] = (9, 0)) -> None:
        from nbops.targets import emulator

        self.emulator = emulator.Device(compute_capability=compute_capability)
        self.compute_capability = compute_capability
        self.room = room
        self.sizes: dict[int, int] = {}
        self.calls: list[str] = []
        self.streams: list[int] = []
        self.context_depth = 0
        self.kernels: dict[int, tuple[Any, str]] = {}
        for name in TABLE:
            setattr(self, name, _Function(self._recorded(name)))

    def _recorded(self, name: str) -> Any:
        own = getattr(self, f"_{name}", lambda *arguments: 0)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            return own(*arguments)

        return call

    @staticmethod
    def _put(place: Any, value: Any) -> None:
        place._obj.value = value

    def _cuDeviceGetCount(self, place: Any) -> None:  # noqa: N802 - the driver's names
        self._put(place, 1)

    def _cuDeviceGetName(self, text: Any, size: int, handle: int) -> None:  # noqa: N802
        text.value = b"Fake GPU"

    def _cuDeviceGetAttribute(self, place: Any, number: int, handle: int) -> None:  # noqa: N802
        self._put(place, {16: 2, 75: self.compute_capability[0], 76: self.compute_capability[1]}[number])

    def _cuDevicePrimaryCtxRetain(self, place: Any, handle: int) -> None:  # noqa: N802
        self._put(place, 4242)

    def _cuCtxPushCurrent_v2(self, context: int) -> None:  # noqa: N802
        assert context == 4242
        self.context_depth += 1

    def _cuCtxPopCurrent_v2(self, place: Any) -> None:  # noqa: N802
        self.context_depth -= 1

    def _cuMemGetInfo_v2(self, free: Any, total: Any) -> None:  # noqa: N802
        self._put(free, self.room)

    def _cuMemAlloc_v2(self, place: Any, size: int) -> int:  # noqa: N802
        if size > self.room:
            return 2
        self.room -= size
        address = self.emulator.allocate(size)
        self.sizes[address] = size
        self._put(place, address)
        return 0

    def _cuMemFree_v2(self, address: int) -> None:  # noqa: N802
        self.room += self.sizes.pop(address)
        self.emulator.free(address)

    def _cuMemcpyHtoD_v2(self, address: int, source: int, size: int) -> None:  # noqa: N802
        self.emulator.write(address, _bytes_at(source, size))

    def _cuMemcpyDtoH_v2(self, target: int, address: int, size: int) -> None:  # noqa: N802
        self.emulator.read(address, _bytes_at(target, size))

    def _cuModuleLoadData(self, place: Any, image: bytes) -> None:  # noqa: N802
        from nbops.targets import emulator

        self.kernels[len(self.kernels) + 1] = (emulator.Program(image.decode()), "")
        self._put(place, len(self.kernels))

    def _cuModuleGetFunction(self, place: Any, module: int, name: bytes) -> None:  # noqa: N802
        self.kernels[module] = (self.kernels[module][0], name.decode())
        self._put(place, module)

    def _cuLaunchKernel(self, function: int, *rest: Any) -> None:  # noqa: N802
        gx, gy, gz, bx, by, bz, shared, stream, pointers, extra = rest
        assert self.context_depth == 1
        assert extra is None
        self.streams.append(stream)
        program, name = self.kernels[function]
        words = [np.int64(ctypes.c_int64.from_address(place).value) for place in pointers]
        self.emulator.launch(
            program, name, grid=(gx, gy, gz), block=(bx, by, bz), shared_bytes=shared, arguments=words
        )


def _bytes_at(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
