"""NVIDIA's driver: a GPU as a `Device`, through the C functions of libcuda.

The driver's C interface is stable, and its function pointers are what machine code needs to launch a kernel
without Python, so it is called through ctypes. `TABLE` names every function that is used. Contexts are the
device's primary ones, which CuPy, PyTorch, TensorFlow and Numba share.

Freed memory is kept for the next call of its size, because the driver waits for the whole GPU when it gives
memory back. When there is no room, what is kept goes back and the allocation is tried once more.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nbops.targets.cuda.kernels import CudaKernel, Launch

__all__ = ["TABLE", "Driver", "Gpu", "current_device", "gpu", "load", "missing"]

#: The driver's functions, and the types of their arguments.
_PLACE = ctypes.c_void_p  # of a result
_HANDLE = ctypes.c_void_p
_ADDRESS = ctypes.c_uint64
TABLE: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuGetErrorName": (ctypes.c_int, _PLACE),
    "cuDeviceGetCount": (_PLACE,),
    "cuDeviceGet": (_PLACE, ctypes.c_int),
    "cuDeviceGetName": (_PLACE, ctypes.c_int, ctypes.c_int),
    "cuDeviceGetAttribute": (_PLACE, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_PLACE, ctypes.c_int),
    "cuCtxGetCurrent": (_PLACE,),
    "cuCtxGetDevice": (_PLACE,),
    "cuCtxPushCurrent_v2": (_HANDLE,),
    "cuCtxPopCurrent_v2": (_PLACE,),
    "cuCtxSynchronize": (),
    "cuPointerGetAttribute": (_PLACE, ctypes.c_int, _ADDRESS),
    "cuMemGetInfo_v2": (_PLACE, _PLACE),
    "cuMemAlloc_v2": (_PLACE, ctypes.c_size_t),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoD_v2": (_ADDRESS, ctypes.c_void_p, ctypes.c_size_t),
    "cuMemcpyDtoH_v2": (ctypes.c_void_p, _ADDRESS, ctypes.c_size_t),
    "cuStreamSynchronize": (_HANDLE,),
    "cuModuleLoadData": (_PLACE, ctypes.c_void_p),
    "cuModuleGetFunction": (_PLACE, _HANDLE, ctypes.c_char_p),
    "cuFuncSetAttribute": (_HANDLE, ctypes.c_int, ctypes.c_int),
    "cuLaunchKernel": (_HANDLE, *[ctypes.c_uint] * 7, _HANDLE, ctypes.c_void_p, ctypes.c_void_p),
}
OUT_OF_MEMORY = 2
# CUdevice_attribute, CUfunction_attribute and CUpointer_attribute
MULTIPROCESSORS, MAJOR, MINOR = 16, 75, 76
MAX_DYNAMIC_SHARED = 8
DEVICE_ORDINAL = 9
#: What every kernel may use of dynamic shared memory without asking.
SHARED_WITHOUT_ASKING = 48 * 1024


class Driver:
    """The driver's functions; each raises what went wrong.

    Parameters
    ----------
    library : object
        With the functions of `TABLE` as attributes: a ctypes library.
    """

    def __init__(self, library: Any) -> None:
        self._functions = {}
        for name, arguments in TABLE.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, ctypes.c_int
            self._functions[name] = function

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises
        ------
        MemoryError
            Where the device has no room.
        RuntimeError
            For every other error of the driver.
        """
        code = self._functions[name](*arguments)
        if code == OUT_OF_MEMORY:
            raise MemoryError(f"{name}: the GPU has no room")
        if code:
            raise RuntimeError(f"{name} failed with {self.error_name(code)}; see NVIDIA's driver API")

    def get(self, name: str, kind: Any, *arguments: Any) -> Any:
        """Call a function whose first argument is the place of its result."""
        result = kind()
        self(name, ctypes.byref(result), *arguments)
        return result.value

    def address(self, name: str) -> int:
        """Where a function lies, for machine code that calls it."""
        return int(ctypes.cast(self._functions[name], ctypes.c_void_p).value or 0)

    def error_name(self, code: int) -> str:
        """What the driver calls an error."""
        text = ctypes.c_char_p()
        if self._functions["cuGetErrorName"](code, ctypes.byref(text)) or not text.value:
            return f"error {code}"
        return text.value.decode()


@functools.cache
def load() -> Driver | None:
    """The driver of this machine, started; None where there is none, or no GPU.

    Also in a child of ``fork`` whose parent had started it: the driver doesn't serve both.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = Driver(ctypes.CDLL(name))
        driver("cuInit", 0)
        count = driver.get("cuDeviceGetCount", ctypes.c_int)
    except (OSError, AttributeError, RuntimeError):
        return None
    return driver if count else None


def missing() -> str:
    """What this machine lacks to run on a GPU, besides the compiler; empty if nothing."""
    if load() is None:
        return "there is no NVIDIA GPU, or no driver: install NVIDIA's driver and see that `nvidia-smi` works"
    return ""


class Gpu:
    """One GPU.

    Parameters
    ----------
    driver : Driver
    ordinal : int
    """

    def __init__(self, driver: Driver, ordinal: int) -> None:
        self.driver = driver
        self.ordinal = ordinal
        handle = driver.get("cuDeviceGet", ctypes.c_int, ordinal)
        text = ctypes.create_string_buffer(256)
        driver("cuDeviceGetName", text, len(text), handle)
        self.name = text.value.decode()

        def attribute(number: int) -> int:
            return int(driver.get("cuDeviceGetAttribute", ctypes.c_int, number, handle))

        self.compute_capability = attribute(MAJOR), attribute(MINOR)
        self.multiprocessors = attribute(MULTIPROCESSORS)
        self.context = driver.get("cuDevicePrimaryCtxRetain", _HANDLE, handle)
        self._lock = threading.RLock()
        self._kept: dict[int, list[int]] = defaultdict(list)
        self._sizes: dict[int, int] = {}
        self._functions: dict[CudaKernel, int] = {}
        self._shared_bytes: dict[CudaKernel, int] = {}  # what a kernel may use of dynamic shared memory
        self._launches: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<{self.name}>"

    @contextmanager
    def _current(self) -> Iterator[Driver]:
        """The driver, with this GPU's context current."""
        self.driver("cuCtxPushCurrent_v2", self.context)
        try:
            yield self.driver
        finally:
            self.driver.get("cuCtxPopCurrent_v2", _HANDLE)

    def holding(self, address: int) -> Gpu:
        """The GPU that an address lies on."""
        ordinal = self.driver.get("cuPointerGetAttribute", ctypes.c_int, DEVICE_ORDINAL, address)
        return self if ordinal == self.ordinal else gpu(self.driver, ordinal)

    # ---- memory ---------------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """Memory that an allocation could get."""
        total = ctypes.c_size_t()
        with self._lock, self._current() as driver:
            free = int(driver.get("cuMemGetInfo_v2", ctypes.c_size_t, ctypes.byref(total)))
            return free + sum(size * len(kept) for size, kept in self._kept.items())

    def allocate(self, nbytes: int) -> int:
        """The address of memory that nobody has written.

        Raises
        ------
        MemoryError
            Where there is no room, even without what was kept.
        """
        size = max(512, 1 << (nbytes - 1).bit_length()) if nbytes < 2**20 else -(-nbytes // 2**20) * 2**20
        with self._lock, self._current() as driver:
            if self._kept[size]:
                address = self._kept[size].pop()
            else:
                try:
                    address = driver.get("cuMemAlloc_v2", _ADDRESS, size)
                except MemoryError:
                    self.release_kept()
                    address = driver.get("cuMemAlloc_v2", _ADDRESS, size)
            self._sizes[address] = size
            return int(address)

    def free(self, address: int) -> None:
        """Keep the memory for the next allocation of its size."""
        with self._lock:
            self._kept[self._sizes.pop(address)].append(address)

    def release_kept(self) -> None:
        """Give back what `free` kept."""
        with self._lock, self._current() as driver:
            for kept in self._kept.values():
                while kept:
                    driver("cuMemFree_v2", kept.pop())

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the GPU."""
        with self._current() as driver:
            driver("cuMemcpyHtoD_v2", address, array.ctypes.data, array.nbytes)

    def read(self, address: int, array: np.ndarray) -> None:
        """Copy memory of the GPU into a contiguous array, when all launches before are done."""
        with self._current() as driver:
            driver("cuMemcpyDtoH_v2", array.ctypes.data, address, array.nbytes)

    # ---- launches -------------------------------------------------------------------------------------

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""
        with self._current() as driver:
            driver("cuStreamSynchronize", stream)

    def launch(self, launch: Launch, arguments: list[int], stream: int = 0) -> None:
        """Run a kernel on int64 arguments, when everything before it on the stream is done."""
        values = (ctypes.c_int64 * len(arguments))(*arguments)
        start = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * len(arguments))(*range(start, start + ctypes.sizeof(values), 8))
        function = self.function(launch.kernel, launch.shared_bytes)
        shape = *launch.grid, *launch.block, launch.shared_bytes
        with self._current() as driver:
            driver("cuLaunchKernel", function, *shape, stream, pointers, None)
        self._launches[launch.kernel.name] += 1

    def function(self, kernel: CudaKernel, shared_bytes: int) -> int:
        """The driver's handle of a kernel that may use this much dynamic shared memory."""
        with self._lock, self._current() as driver:
            if kernel not in self._functions:
                from nbops.targets.cuda import toolchain

                ptx, entry = toolchain.compile_ptx(kernel, self.compute_capability)
                image = toolchain.loadable(ptx, self.compute_capability)
                module = driver.get("cuModuleLoadData", _HANDLE, image)
                handle = driver.get("cuModuleGetFunction", _HANDLE, module, entry.encode())
                self._functions[kernel], self._shared_bytes[kernel] = handle, SHARED_WITHOUT_ASKING
            function = self._functions[kernel]
            if shared_bytes > self._shared_bytes[kernel]:
                driver("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, shared_bytes)
                self._shared_bytes[kernel] = shared_bytes
            return function

    def report(self) -> str:
        """The kernels that were launched, and how often."""
        lines = [f"{self.name}, compute capability {self.compute_capability[0]}.{self.compute_capability[1]}"]
        lines += [f"  {count:6} {name}" for name, count in self._launches.most_common()]
        return "\n".join(lines)


def current_device() -> Gpu:
    """The GPU whose context is current in this thread, else the first.

    Raises
    ------
    RuntimeError
        Where there is none.
    """
    driver = load()
    if driver is None:
        raise RuntimeError(missing())
    context = driver.get("cuCtxGetCurrent", _HANDLE)
    return gpu(driver, driver.get("cuCtxGetDevice", ctypes.c_int) if context else 0)


@functools.cache
def gpu(driver: Driver, ordinal: int) -> Gpu:
    """The GPU of a number; the same object each time."""
    return Gpu(driver, ordinal)
