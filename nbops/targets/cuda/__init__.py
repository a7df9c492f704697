"""The CUDA target: loops and tuned kernels on a GPU, or on the emulator that executes their PTX.

============ ==================================================================================
toolchain    the only module that imports ``numba.cuda``; Python function -> PTX -> cubin
words        what a kernel is given: words of the frame, by name
kernels      `CudaKernel`: a function and the words that it takes; `Call`, `Launch` and `Plan`, the
             hook for tuned kernels
loops        an op's own loop as a kernel: prange -> blocks, lanes -> threads
devices      where a kernel runs: the CUDA driver, or the emulator
driver       NVIDIA's driver, through ctypes
execution    a call: operands there, a plan, launches, results back
residence    arrays that are on the GPU already: CuPy's, PyTorch's, Numba's
views        such arrays in another shape or dtype
dlpack       those that are exchanged by DLPack only
costs        what a call costs there, for the dispatcher
============ ==================================================================================

**A kernel's arguments** are words of the frame (see `nbops.frame`), each an int64. A kernel names those that
it wants, as its parameters; `words.places` says where each stands. Launching it is copying those words. So
one frame serves the CPU's tasks, a launch from Python, and a launch from machine code, which passes the
driver pointers to them.

**A tuned kernel** takes the place of an op's loop::

    matmul.tune(cuda="nbops.tuned.cuda.gemm:plan")

names a function ``plan(call: Call) -> Plan | None``, imported when the target is first used. It looks at the
call (dtypes, sizes, strides, compute capability) and says which kernels to launch, with which grid, block and
shared memory; None leaves the call to the loop. See `nbops.targets.cuda.kernels`.

Nothing but this file is imported before a CUDA target is asked for, or a GPU is there.
"""

from __future__ import annotations

import contextvars
import functools
import math
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops.forks import after_in_child

if TYPE_CHECKING:
    from nbops.dispatch import Work

__all__ = [
    "TARGETS",
    "available",
    "calibrate",
    "call_on_device_arrays",
    "default_device",
    "has_room",
    "is_device_array",
    "new_device",
    "predicted_microseconds",
    "require",
    "run_on_copies",
]

TARGETS = ("cuda", "cuda-emulator")

INSTALL = "run `pip install nbops[cuda13]`, or nbops[cuda12] for a driver older than version 580"


@functools.cache
def available() -> bool:
    """Whether a loop can run on a GPU here; asked once, and cheap where there is no driver."""
    return not _missing_driver() and not _missing_compiler()


def require(target: str) -> None:
    """Raise unless a CUDA target can be used here.

    Parameters
    ----------
    target : {"cuda", "cuda-emulator"}

    Raises
    ------
    RuntimeError
        That says what is missing and how to get it.
    """
    compiler = _missing_compiler()
    missing = [_missing_driver(), compiler] if target == "cuda" else [compiler]
    if any(missing):
        instead = "" if compiler else "; use target 'cuda-emulator' to run CUDA kernels on the CPU, or 'auto'"
        raise RuntimeError(
            f"target {target!r} was asked for, but {'. Also, '.join(filter(None, missing))}{instead}"
        )


def _missing_driver() -> str:
    """What this machine lacks to run on a GPU, besides the compiler; empty if nothing."""
    from nbops.targets.cuda import driver

    return driver.missing()


def _missing_compiler() -> str:
    """Why kernels can't be compiled here; empty if they can."""
    from nbops.targets.cuda import toolchain

    failure = toolchain.failure()
    return "" if failure is None else f"numba-cuda can't compile here ({failure}); {INSTALL}"


@after_in_child
def _after_fork() -> None:
    """A child's driver is not its parent's: ask again, once it is needed."""
    available.cache_clear()
    driver = sys.modules.get("nbops.targets.cuda.driver")
    if driver is not None:
        driver.load.cache_clear()
        driver.gpu.cache_clear()


def new_device(target: str, compute_capability: tuple[int, int] | None = None) -> Any:
    """A device for a block of calls: the current GPU, or an emulated one with counters of its own."""
    from nbops.targets.cuda import devices

    return devices.new_device(target, compute_capability)


def default_device(target: str) -> Any:
    """The device of calls that name a target only: the current GPU, or the process's emulated one."""
    from nbops.targets.cuda import devices

    return devices.default_device(target)


def run_on_copies(op: Any, operands: Any, dtypes: Any, target: str) -> None:
    """Run an op on NumPy arrays, on the device in force."""
    from nbops.dispatch import settings
    from nbops.targets.cuda import execution

    device = settings().device or default_device(target)
    execution.run_on_copies(op.kernel, operands, dtypes, device)
    if target == "cuda" and device.name not in _used:
        _used.add(device.name)
        _measure_at_first_use(device)


#: GPUs on which a call has run, and the figures of those whose costs were asked for, by name.
_used: set[str] = set()
_figures: dict[str, Any] = {}


def _measure_at_first_use(device: Any) -> None:
    """Measure a GPU that nobody has measured here; where it can't be done now, another process will.

    The figures are the GPU's, so nothing that is in force around the call counts.
    """
    from nbops.targets.cuda import costs

    if costs.kept(device.name) is None:
        with suppress(MemoryError, RuntimeError):
            contextvars.Context().run(calibrate, device)


def calibrate(device: Any = None) -> dict[str, Any]:
    """Measure the GPU's figures for the dispatcher and use them from now on."""
    from nbops.targets.cuda import costs

    device = device or default_device("cuda")
    _used.add(device.name)
    _figures[device.name], result = costs.measure(device, "cuda")
    return result


def predicted_microseconds(work: Work) -> float:
    """What a call on NumPy arrays should take on the GPU, copies included; infinite where it has no room."""
    return float(_costs().microseconds(work)) if has_room(work, "cuda") else math.inf


def has_room(work: Work, target: str) -> bool:
    """Whether the operands of a call on NumPy arrays fit into the memory that is free on the GPU."""
    return bool(work.bytes <= default_device(target).free_bytes())


def _costs() -> Any:
    from nbops.targets.cuda import costs

    name = default_device("cuda").name
    if name not in _figures:
        _figures[name] = costs.kept(name) or costs.SHIPPED
    return _figures[name]


def is_device_array(value: Any) -> bool:
    """Whether a value is an array on a GPU."""
    if isinstance(value, np.ndarray):
        return False
    if not hasattr(type(value), "__cuda_array_interface__") and not hasattr(value, "__dlpack_device__"):
        return False
    from nbops.targets.cuda import dlpack

    return dlpack.has_interface(value) or dlpack.is_on_gpu(value)


def call_on_device_arrays(op: Any, operands: Any, out: Any, axes: Any, target: str | None) -> Any:
    """Run an op on arrays that are on the GPU; see `nbops.targets.cuda.residence`."""
    from nbops.targets.cuda import residence

    return residence.call(op, operands, out, axes, target)


def check_residence(op: Any, operands: Any) -> None:
    """Raise TypeError for arrays on the CPU beside arrays on the GPU."""
    from nbops.targets.cuda import residence

    residence.check_residence(op, operands)
