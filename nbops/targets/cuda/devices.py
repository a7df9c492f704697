"""Where CUDA kernels run: a device has memory, and launches.

Two kinds with one interface, `Device`: a GPU behind NVIDIA's driver (`nbops.targets.cuda.driver`), and the
emulator, which executes the same PTX on the CPU and watches every access.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any, Protocol

import numpy as np

from nbops.targets.cuda.kernels import CudaKernel, Launch

__all__ = ["Device", "EmulatedDevice", "default_device", "new_device", "parse_compute_capability"]


class Device(Protocol):
    """Memory and launches; everything that is launched runs in order."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int

    def allocate(self, nbytes: int) -> int:
        """The address of memory that nobody has written; raises MemoryError where there is no room."""

    def free(self, address: int) -> None:
        """Give memory back, which nothing that was launched needs any more."""

    def write(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""

    def read(self, address: int, array: np.ndarray) -> None:
        """Copy memory of the device into a contiguous array, when all launches before are done."""

    def free_bytes(self) -> int:
        """Memory that an allocation could get."""

    def release_kept(self) -> None:
        """Give back memory that was freed and is kept for later."""

    def holding(self, address: int) -> Device:
        """The device of this kind that an address lies on."""

    def synchronize(self, stream: int) -> None:
        """Wait for a stream."""

    def launch(self, launch: Launch, arguments: list[int], stream: int = 0) -> None:
        """Run a kernel on int64 arguments, when everything before it on the stream is done."""

    def report(self) -> str:
        """What has run, for people."""


class EmulatedDevice:
    """The emulator as a device.

    Parameters
    ----------
    compute_capability : tuple of 2 int
        Of the GPU that is emulated.
    """

    #: A few, so that grids have several blocks per multiprocessor and blocks several items.
    multiprocessors = 2

    def __init__(self, compute_capability: tuple[int, int] = (9, 0)) -> None:
        from nbops.targets import emulator

        self.compute_capability = compute_capability
        self.name = "emulated GPU of compute capability {}.{}".format(*compute_capability)
        self.streams: list[int] = []
        self.emulator = emulator.Device(compute_capability=compute_capability)
        self.allocate = self.emulator.allocate
        self.free = self.emulator.free
        self.write = self.emulator.write
        self.read = self.emulator.read

    def free_bytes(self) -> int:
        """As much as a number can say: the host's memory is the only bound."""
        return sys.maxsize

    def release_kept(self) -> None:
        """Nothing is kept."""

    def holding(self, address: int) -> Device:
        """The device itself: every emulated one has memory of its own."""
        return self

    def synchronize(self, stream: int) -> None:
        """Launches are done when `launch` returns."""

    def launch(self, launch: Launch, arguments: list[int], stream: int = 0) -> None:
        """Execute the kernel's PTX; a stream is only noted, because launches run one after the other."""
        self.streams.append(stream)
        program, entry = _program(launch.kernel, self.compute_capability)
        words = [np.int64(argument) for argument in arguments]
        self.emulator.launch(program, entry, launch.grid, launch.block, launch.shared_bytes, words)

    @property
    def counters(self) -> Any:
        """The emulator's counters of all launches."""
        return self.emulator.counters

    def report(self) -> str:
        """What each kernel moved, line by line, and what would have been enough."""
        return str(self.emulator.report())

    def __repr__(self) -> str:
        return f"<{self.name}>"


@functools.lru_cache(maxsize=256)
def _program(kernel: CudaKernel, compute_capability: tuple[int, int]) -> tuple[Any, str]:
    from nbops.targets import emulator
    from nbops.targets.cuda.toolchain import compile_ptx
    from nbops.targets.emulator.nodes import Location

    ptx, entry = compile_ptx(kernel, compute_capability)
    formula = Location(*kernel.formula) if kernel.formula else None
    return emulator.Program(ptx, kernel.name, formula), entry


def parse_compute_capability(text: str) -> tuple[int, int]:
    """``"12.0"`` as ``(12, 0)``.

    Raises
    ------
    ValueError
        For other text.
    """
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise ValueError(f"NBOPS_COMPUTE_CAPABILITY is {text!r}; expected one such as 9.0 or 12.0")
    return int(major), int(minor)


def new_device(target: str, compute_capability: tuple[int, int] | None = None) -> Device:
    """See `nbops.targets.cuda.new_device`."""
    if target == "cuda":
        return default_device(target)
    if compute_capability is None:
        text = os.environ.get("NBOPS_COMPUTE_CAPABILITY", "9.0")
        compute_capability = parse_compute_capability(text)
    return EmulatedDevice(compute_capability)


def default_device(target: str) -> Device:
    """See `nbops.targets.cuda.default_device`."""
    if target == "cuda":
        from nbops.targets.cuda import driver

        return driver.current_device()
    return _emulated_device()


@functools.cache
def _emulated_device() -> Device:
    return new_device("cuda-emulator")
