"""doctor: compiles and runs a kernel on every target, and says what is wrong and what repairs it.

Each check returns `Finding`s with one of these verdicts:

========  ===================================================================================
ok        it ran, and the result was right
slow      it works, but something is missing that would make it faster
absent    an optional part is not installed, or the machine has no such device
broken    it is there and should work, and does not
========  ===================================================================================

Only ``broken`` makes ``nbops doctor`` exit with 1.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np

__all__ = ["Finding", "examine"]

Verdict = Literal["ok", "slow", "absent", "broken"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Parameters
    ----------
    name : str
        What was checked.
    verdict : {"ok", "slow", "absent", "broken"}
    found : str
        What is there.
    repair : str
        What to do about it; empty where nothing needs doing.
    """

    name: str
    verdict: Verdict
    found: str
    repair: str = ""


def examine() -> list[Finding]:
    """Run every check; one that raises is a finding too.

    Examples
    --------
    >>> from nbops.doctor import examine
    >>> [finding.name for finding in examine()][:2]
    ['versions', 'compiler']
    """
    findings: list[Finding] = []
    for check in (_versions, _compiler, _targets, _threads, _cache, _cuda, _emulator, _tensorflow):
        try:
            findings.extend(check())
        except Exception as error:
            name = check.__name__.lstrip("_")
            found = traceback.format_exception_only(error)[-1].strip()
            findings.append(
                Finding(name, "broken", found, "report this with the output of nbops doctor --json")
            )
    return findings


# ---- the CPU ----------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    import llvmlite

    import nbops

    yield Finding(
        "versions",
        "ok",
        f"nbops {nbops.__version__}, numba {numba.__version__}, llvmlite {llvmlite.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()} on {platform.machine()}",
    )


def _compiler() -> Iterator[Finding]:
    """Numba compiles a function that no cache can have."""
    if numba.config.DISABLE_JIT:
        yield Finding("compiler", "slow", "NUMBA_DISABLE_JIT is set: everything is interpreted", "unset it")
        return

    def triangle(n: int) -> int:
        total = 0
        for i in range(n + 1):
            total += i
        return total

    right = numba.njit(triangle)(100) == 5050
    cpu = numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[1]
    yield Finding("compiler", "ok" if right else "broken", f"compiles for {cpu}")


def _targets() -> Iterator[Finding]:
    """An elementwise op, a row op and a product, on each target of the CPU."""
    import nbops

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 64, 64), np.float32)
    wide = x.astype(np.float64), y.astype(np.float64)
    for target in ("python", "serial", "parallel"):
        if target != "python" and numba.config.DISABLE_JIT:
            continue
        with nbops.use(target):
            results = nbops.add_relu(x, y), nbops.softmax(x), nbops.matmul(x, y)
        powers = np.exp(wide[0] - wide[0].max(-1, keepdims=True))
        expected = np.maximum(sum(wide), 0), powers / powers.sum(-1, keepdims=True), wide[0] @ wide[1]
        error = max(float(np.abs(a - b).max()) for a, b in zip(results, expected, strict=True))
        right = error < 64 * np.finfo(np.float32).eps * 8
        yield Finding(f"target {target}", "ok" if right else "broken", f"error {error:.1e} against float64")


def _threads() -> Iterator[Finding]:
    from nbops import dispatch
    from nbops.durations import duration
    from nbops.targets import cpu

    if numba.config.DISABLE_JIT:
        return
    dispatch.start()
    layer, workers = cpu.threading_layer(), int(cpu.STATE[cpu.WORKERS])
    install = f"{sys.executable} -m pip install tbb, or install the system's libgomp"
    if layer is None:
        found = f"NUMBA_THREADING_LAYER asks for {numba.config.THREADING_LAYER!r}, which Numba can't load"
        repair = f"unset it, or install what it needs ({sys.executable} -m pip install tbb)"
        yield Finding("threads", "broken", f"{found}: all runs on one core", repair)
        return
    found = f"{layer}, {workers} thread{'' if workers == 1 else 's'}"
    if layer == "workqueue":
        found += ": starting them takes long, and two Python threads can't use them at once"
        yield Finding("threads", "slow", found, install)
        return
    limit = int(cpu.STATE[cpu.BREAK_EVEN])
    if workers > 1:
        found += f", parallel from {duration(limit)} of work"
    yield Finding("threads", "ok", found)


def _cache() -> Iterator[Finding]:
    """Whether compiled kernels and the calibration outlive the process."""
    from nbops import cache, calibration, compiler
    from nbops.targets import tasks

    kept = cache.KernelCache(tasks.run_items, {}, compiler.digest)  # type: ignore[arg-type]
    folder = kept.cache_path
    if folder is None:
        yield Finding(
            "cache",
            "slow",
            "no folder for compiled kernels can be written: every process compiles again",
            "set NUMBA_CACHE_DIR to a folder that can be written",
        )
    else:
        yield Finding("cache", "ok", f"compiled kernels in {folder}")
    place = calibration.file()
    if place.exists():
        yield Finding("calibration", "ok", str(place))
    elif _can_create(place.parent):
        yield Finding("calibration", "ok", "the shipped figures; nbops calibrate measures this machine's")
    else:
        found = f"{place.parent} can't be written: the shipped figures are used"
        yield Finding("calibration", "slow", found, "set NBOPS_CACHE_DIR to a folder that can be written")


def _can_create(folder: Path) -> bool:
    """Whether files could be made there, without leaving any."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# ---- CUDA -------------------------------------------------------------------------------------------


def _driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver runs; None without a driver."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with contextlib.suppress(OSError):
            version = ctypes.c_int()
            if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
                return version.value // 1000, version.value % 1000 // 10
    return None


def _wheel_version() -> int | None:
    """The major version of the CUDA wheels that numba-cuda would use; None without them."""
    majors = []
    for name in ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc", "nvidia-nvvm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            majors.append(int(importlib.metadata.version(name).split(".")[0]))
    return max(majors, default=None)


def _cuda() -> Iterator[Finding]:
    driver, wheels = _driver_version(), _wheel_version()
    extra = f"cuda{min(driver[0], 13) if driver else 13}"
    install = f'{sys.executable} -m pip install "nbops[{extra}]"'
    driver_text = f"driver for CUDA {driver[0]}.{driver[1]}" if driver else "no NVIDIA driver"
    if importlib.util.find_spec("numba_cuda") is None:
        repair = install if driver else ""
        yield Finding("cuda", "absent", f"numba-cuda is not installed; {driver_text}", repair)
        return
    version = _distribution_version("numba-cuda")
    pairing = (
        f"numba-cuda {version}, {f'CUDA {wheels} wheels' if wheels else 'no CUDA wheels'}, {driver_text}"
    )
    from nbops.targets.cuda import toolchain

    try:
        ptx = toolchain.ptx_of_an_addition()
    except Exception as error:
        reason = traceback.format_exception_only(error)[-1].strip().split("\n")[0]
        yield Finding("cuda", "broken", f"{pairing}; it can't compile: {reason}", install)
        return
    if "add" not in ptx:
        yield Finding("cuda", "broken", f"{pairing}; the compiled PTX has no addition", install)
    elif driver is None:
        yield Finding("cuda", "absent", f"{pairing}; kernels compile; there is no GPU to run them")
    elif wheels is not None and wheels > driver[0]:
        found = f"{pairing}: the wheels are newer than the driver"
        yield Finding("cuda", "broken", found, f"{install}, or a newer driver")
    else:
        yield from _run_on_gpu(pairing)


def _run_on_gpu(pairing: str) -> Iterator[Finding]:
    import nbops

    x = np.arange(-8, 8, dtype=np.float32)
    with nbops.use("cuda") as device:
        result = np.asarray(nbops.relu(x))
    right = np.array_equal(result, np.maximum(x, 0))
    yield Finding("cuda", "ok" if right else "broken", f"{pairing}, {device.name}")


def _emulator() -> Iterator[Finding]:
    """What a GPU would execute, executed without one."""
    import nbops
    from nbops.targets import cuda

    name = "target cuda-emulator"
    try:
        cuda.require("cuda-emulator")
    except RuntimeError as error:
        yield Finding(name, "absent", str(error))
        return
    x = np.arange(-8, 8, dtype=np.float32)
    with nbops.use("cuda-emulator") as device:
        right = np.array_equal(nbops.relu(x), np.maximum(x, 0))
    found = f"relu's PTX ran on an {device.name}" if right else "relu is wrong"
    yield Finding(name, "ok" if right else "broken", found)


def _distribution_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


# ---- TensorFlow -------------------------------------------------------------------------------------


def _tensorflow() -> Iterator[Finding]:
    """An op and its gradient inside a graph, and how they get there."""
    if importlib.util.find_spec("tensorflow") is None:
        repair = f'{sys.executable} -m pip install "nbops[tensorflow-cpu]", if you want ops on tensors'
        yield Finding("tensorflow", "absent", "not installed; ops take arrays", repair)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # what it says of the CPU is no finding
    import tensorflow as tf

    import nbops

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what it would say is found below
        bridge = importlib.import_module("nbops.tensorflow")
    c_api = importlib.import_module("nbops.tensorflow.c_api")
    step: Callable[[Any], Any] = tf.function(lambda x: nbops.relu(nbops.multiply(x, x)))
    x = tf.constant([-1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = step(x)
    right = y.numpy().tolist() == [1.0, 4.0] and tape.gradient(y, x).numpy().tolist() == [-2.0, 4.0]
    missing = c_api.missing_symbols()
    found = f"TensorFlow {tf.__version__}"
    if not right:
        yield Finding("tensorflow", "broken", f"{found}: relu(x x) or its gradient is wrong")
    elif missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        repair = f'{sys.executable} -m pip install --upgrade "nbops[tensorflow-cpu]"'
        found += f" does not export {names}: ops run as tf.numpy_function"
        yield Finding("tensorflow", "slow", found, repair)
    elif not bridge.uses_registered_ops:
        found += ": NBOPS_TENSORFLOW_OPS asks for tf.numpy_function"
        yield Finding("tensorflow", "slow", found, "unset NBOPS_TENSORFLOW_OPS")
    else:
        symbols = len(c_api.CALLED_BY_KERNELS) + len(c_api.CALLED_BY_PYTHON)
        yield Finding(
            "tensorflow", "ok", f"{found}: registered ops; all {symbols} symbols of the C API are there"
        )
    yield from _tensorflow_gpu(tf, bridge.uses_registered_ops)


def _tensorflow_gpu(tf: Any, registered: bool) -> Iterator[Finding]:
    """Whether TensorFlow's GPU runs nbops's ops, and leaves room for other libraries."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return
    gpu = importlib.import_module("nbops.tensorflow.gpu")
    if registered and gpu.available():
        yield Finding("tensorflow's GPU", "ok", "nbops's ops have kernels for it")
    else:
        found = "nbops's ops on its tensors run on the CPU, with copies there and back"
        yield Finding("tensorflow's GPU", "slow", found, "see the findings cuda and tensorflow")
    with contextlib.suppress(ValueError):  # it has virtual devices, whose memory is set
        if not all(tf.config.experimental.get_memory_growth(device) for device in devices):
            advice = (
                "before anything runs: for gpu in tf.config.list_physical_devices('GPU'): "
                "tf.config.experimental.set_memory_growth(gpu, True)"
            )
            found = "TensorFlow takes the whole GPU; arrays of nbops, CuPy or PyTorch find no room beside it"
            yield Finding("tensorflow's memory", "slow", found, advice)
