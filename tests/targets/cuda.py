"""What the CUDA target's tests share: arrays on the emulated GPU, and a driver that is the emulator."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from nbops.targets.cuda import toolchain
from nbops.targets.cuda.devices import EmulatedDevice
from nbops.targets.cuda.driver import TABLE
from nbops.targets.cuda.kernels import CudaKernel

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
        """The elements, wherever they lie."""
        strides = self.strides or np.empty(self.shape, self.dtype).strides
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        extent = sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True)) + self.dtype.itemsize
        memory = np.empty(extent // self.dtype.itemsize, self.dtype)
        self.device.read(self.address, memory)
        return np.lib.stride_tricks.as_strided(memory, self.shape, strides).copy()

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

    def view(self, like: FakeArray, described: Any) -> FakeArray:
        interface = described.__cuda_array_interface__
        result = object.__new__(type(like))
        result.__dict__.update(like.__dict__, owner=described)
        result.shape, result.strides = interface["shape"], interface["strides"]
        result.address, result.dtype = interface["data"][0], np.dtype(interface["typestr"])
        return result

    def stream(self, like: FakeArray) -> int:
        return self.current


class FakeDriverLibrary:
    """libcuda as far as nbops uses it: C functions; memory and launches are the emulator's.

    What goes wrong inside one is in `errors`, and its caller gets `FAILED`: C can't raise.

    Parameters
    ----------
    room : int
        Bytes of device memory.
    """

    CONTEXT, FAILED = 4242, 999

    def __init__(self, room: int = 2**30, compute_capability: tuple[int, int] = (9, 0)) -> None:
        from nbops.targets import emulator

        self.emulator = emulator.Device(compute_capability=compute_capability)
        self.compute_capability = compute_capability
        self.room = room
        self.sizes: dict[int, int] = {}
        self.calls: list[str] = []
        self.errors: list[BaseException] = []
        self.streams: list[int] = []
        self._depths: Counter[int] = Counter()  # of the context stack, by thread
        self._lock = threading.RLock()
        self.kernels: dict[int, tuple[Any, str]] = {}
        #: What a function returns without doing anything, by its name.
        self.failing: dict[str, int] = {}
        for name, arguments in TABLE.items():
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(self._recorded(name)))

    def _recorded(self, name: str) -> Any:
        own = getattr(self, f"_{name}", lambda *arguments: 0)

        def call(*arguments: Any) -> int:
            with self._lock:
                self.calls.append(name)
                if name in self.failing:
                    return self.failing[name]
                try:
                    return int(own(*arguments) or 0)
                except BaseException as error:
                    self.errors.append(error)
                    return self.FAILED

        return call

    @property
    def context_depth(self) -> int:
        """Contexts that were pushed and not popped, by all threads."""
        return sum(self._depths.values())

    @staticmethod
    def _put(place: int, value: int, kind: Any) -> None:
        kind.from_address(place).value = value

    def _cuGetErrorName(self, code: int, place: int) -> None:  # noqa: N802 - the driver's names
        self.name = ctypes.create_string_buffer(f"CUDA_ERROR_{code}".encode())
        self._put(place, ctypes.addressof(self.name), ctypes.c_void_p)

    def _cuDeviceGetCount(self, place: int) -> None:  # noqa: N802
        self._put(place, 1, ctypes.c_int)

    def _cuDeviceGet(self, place: int, ordinal: int) -> None:  # noqa: N802
        self._put(place, ordinal, ctypes.c_int)

    def _cuDeviceGetName(self, text: int, size: int, handle: int) -> None:  # noqa: N802
        assert size > len(b"Fake GPU")
        ctypes.memmove(text, b"Fake GPU\0", 9)

    def _cuDeviceGetAttribute(self, place: int, number: int, handle: int) -> None:  # noqa: N802
        known = {16: 2, 75: self.compute_capability[0], 76: self.compute_capability[1]}
        self._put(place, known[number], ctypes.c_int)

    def _cuDevicePrimaryCtxRetain(self, place: int, handle: int) -> None:  # noqa: N802
        self._put(place, self.CONTEXT, ctypes.c_void_p)

    def _cuCtxPushCurrent_v2(self, context: int) -> None:  # noqa: N802
        assert context == self.CONTEXT
        self._depths[threading.get_ident()] += 1

    def _cuCtxPopCurrent_v2(self, place: int) -> None:  # noqa: N802
        assert self._depths[threading.get_ident()] > 0
        self._depths[threading.get_ident()] -= 1

    def _cuPointerGetAttribute(self, place: int, attribute: int, address: int) -> int:  # noqa: N802
        assert attribute == 9
        if self.emulator.memory.at(address) is None:
            return 1
        self._put(place, 0, ctypes.c_int)
        return 0

    def _cuMemGetInfo_v2(self, free: int, total: int) -> None:  # noqa: N802
        self._put(free, self.room, ctypes.c_size_t)
        self._put(total, self.room, ctypes.c_size_t)

    def _cuMemAlloc_v2(self, place: int, size: int) -> int:  # noqa: N802
        if size > self.room:
            return 2
        self.room -= size
        address = self.emulator.allocate(size)
        self.sizes[address] = size
        self._put(place, address, ctypes.c_uint64)
        return 0

    def _cuMemFree_v2(self, address: int) -> None:  # noqa: N802
        self.room += self.sizes.pop(address)
        self.emulator.free(address)

    def _cuMemcpyHtoD_v2(self, address: int, source: int, size: int) -> None:  # noqa: N802
        self.emulator.write(address, bytes_at(source, size))

    def _cuMemcpyDtoH_v2(self, target: int, address: int, size: int) -> None:  # noqa: N802
        self.emulator.read(address, bytes_at(target, size))

    def _cuModuleLoadData(self, place: int, image: int) -> None:  # noqa: N802
        from nbops.targets import emulator

        assert self._depths[threading.get_ident()] > 0
        number = len(self.kernels) + 1
        self.kernels[number] = (emulator.Program(ctypes.string_at(image).decode()), "")
        self._put(place, number, ctypes.c_void_p)

    def _cuModuleGetFunction(self, place: int, module: int, name: bytes) -> None:  # noqa: N802
        self.kernels[module] = (self.kernels[module][0], name.decode())
        self._put(place, module, ctypes.c_void_p)

    def _cuLaunchKernel(self, function: int, *rest: Any) -> None:  # noqa: N802
        gx, gy, gz, bx, by, bz, shared, stream, pointers, extra = rest
        assert self._depths[threading.get_ident()] == 1
        assert extra is None
        self.streams.append(stream or 0)
        program, name = self.kernels[function]
        count = len(program.entries[name].parameters)
        places = (ctypes.c_void_p * count).from_address(pointers)
        words = [np.int64(ctypes.c_int64.from_address(place).value) for place in places]
        self.emulator.launch(
            program, name, grid=(gx, gy, gz), block=(bx, by, bz), shared_bytes=shared, arguments=words
        )


def bytes_at(address: int, size: int) -> np.ndarray:
    """Memory of the host as bytes."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


# ---- a plan of two kernels ------------------------------------------------------------------------------


def copies_through_workspace() -> list[CudaKernel]:
    """Kernels that copy words: from ``x`` to the workspace, and from there to ``out``; of one block."""
    from nbops.targets.cuda.toolchain import cuda, intrinsic, types

    @intrinsic
    def copy_word(typingctx: Any, target: Any, source: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            pointer = context.get_value_type(types.int64).as_pointer()
            value = builder.load(builder.inttoptr(arguments[1], pointer))
            builder.store(value, builder.inttoptr(arguments[0], pointer))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    def to_workspace(items: int, x: int, workspace: int) -> None:
        i = CUDA.grid(1)
        if i < items:
            COPY(workspace + 8 * i, x + 8 * i)

    def from_workspace(items: int, out: int, workspace: int) -> None:
        i = CUDA.grid(1)
        if i < items:
            COPY(out + 8 * i, workspace + 8 * i)

    return [CudaKernel(f, CUDA=cuda, COPY=copy_word) for f in (to_workspace, from_workspace)]


CUDA: Any = None
COPY: Any = None
