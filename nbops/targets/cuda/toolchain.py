"""Python function -> PTX -> cubin. The only module that imports ``numba.cuda``.

Nothing here needs a driver or a GPU: the compute capability is given, so kernels compile, and can be examined
and emulated, on any machine where the compiler's wheels are installed.

The ``numba.cuda`` meant is that of the package numba-cuda, which takes the place of the one that comes with
Numba. Numba's own is deprecated and does not do: it has no launch bounds and no ``overload``.

``from numba import cuda`` fails in more ways than with an ImportError: a bare ``numba-cuda`` without NVIDIA's
wheels, a toolkit of another version. It is tried once, here; `FAILURE` keeps what went wrong.

A tuned kernel's module gets ``cuda``, ``types`` and ``intrinsic`` from here.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
from numba.np.numpy_support import from_dtype

from nbops import calibration, compiler

if TYPE_CHECKING:
    from nbops.targets.cuda.kernels import CudaKernel

__all__ = [
    "FAILURE",
    "array_type",
    "compile_cubin",
    "compile_cubin_with_spills",
    "compile_ptx",
    "cuda",
    "device_function",
    "distributions",
    "failure",
    "intrinsic",
    "loadable",
    "overload",
    "populate_array",
    "ptx_of_an_addition",
    "types",
]

FAILURE: Exception | None = None
cuda: Any = None
types: Any = None
intrinsic: Any = None
overload: Any = None
populate_array: Any = None

try:
    if importlib.util.find_spec("numba_cuda") is None:
        raise ImportError("numba-cuda is not installed, and Numba's own numba.cuda does not do")
    from numba import cuda as _cuda
    from numba import types as _types
    from numba.cuda.extending import intrinsic as _intrinsic
    from numba.cuda.extending import overload as _overload
    from numba.cuda.np.arrayobj import populate_array as _populate_array
except Exception as error:  # whatever a half-installed toolchain raises; see the docstring
    FAILURE = error
else:
    cuda, types, intrinsic = _cuda, _types, _intrinsic
    overload, populate_array = _overload, _populate_array

_compiling = threading.RLock()


def device_function(function: Any) -> Any:
    """A helper that kernels call, inlined into them; its lines are in their PTX."""
    compiled = cuda.jit(device=True, forceinline=True, lineinfo=True)(function)
    compiled.cache_key = compiler.digest(function)  # what stands for it in its callers' digests
    return compiled


def array_type(dtype: Any, rank: int, order: str, readonly: bool) -> Any:
    """The type of a kernel's view of an operand."""
    return types.Array(from_dtype(dtype), rank, order, readonly)


def compile_ptx(kernel: CudaKernel, compute_capability: tuple[int, int]) -> tuple[str, str]:
    """A kernel's PTX, with line numbers, and the name of its entry."""
    n = len(kernel.parameters)
    arguments = (types.UniTuple(types.int64, n),) if kernel.takes_tuple else (types.int64,) * n
    return _compile(kernel, arguments, compute_capability)


def ptx_of_an_addition() -> str:
    """The PTX of a small function, compiled now: no cache answers for a compiler that has gone.

    Raises
    ------
    Exception
        Whatever kept numba.cuda from being imported, or keeps it from compiling.
    """
    if FAILURE is not None:
        raise FAILURE
    ptx, _ = cuda.compile_ptx(lambda x: x + x, (types.float32,), device=True, cc=(7, 5))
    return str(ptx)


@functools.cache
def failure() -> str | None:
    """Why kernels can't be compiled here, or None where they can; compiles a small one to find out."""
    if FAILURE is not None:
        return _in_one_line(FAILURE)
    from nbops.targets.cuda.kernels import CudaKernel

    try:
        compile_ptx(CudaKernel(_nothing), (9, 0))
    except Exception as error:  # a missing or another NVVM, libdevice, …: each raises its own kind
        return _in_one_line(error)
    return None


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


class _Device(NamedTuple):
    """What numba.cuda asks a device for while it compiles."""

    compute_capability: tuple[int, int]


@contextmanager
def _without_driver(compute_capability: tuple[int, int]) -> Iterator[None]:
    """Let numba.cuda compile device functions where there is no device.

    It compiles a kernel for the compute capability that it is told, but asks the current device for that of
    the functions that the kernel calls.
    """
    module: Any = sys.modules[cuda.jit(device=True)(_nothing).__class__.__module__]
    asked = module.get_current_device
    module.get_current_device = lambda: _Device(compute_capability)
    try:
        yield
    finally:
        module.get_current_device = asked


@contextmanager
def _lines_only() -> Iterator[None]:
    """Keep numba.cuda from describing variables to a debugger where only line numbers are wanted.

    They serve nobody then, and NVVM fails on some kernels that have them: "Symbol name with unsupported
    characters", for compute capabilities before 10.0.
    """
    builder: Any = getattr(sys.modules.get("numba.cuda.debuginfo"), "CUDADIBuilder", None)
    names = [name for name in ("mark_variable", "update_variable") if name in vars(builder or object)]
    described = {name: getattr(builder, name) for name in names}
    for name in names:
        setattr(builder, name, lambda *arguments, **options: None)
    try:
        yield
    finally:
        for name, method in described.items():
            setattr(builder, name, method)


def _nothing() -> None:
    pass


@functools.cache
def _compile(kernel: CudaKernel, arguments: Any, compute_capability: tuple[int, int]) -> tuple[str, str]:
    place = _cache_folder() / "{}-{}-{}.{}.ptx".format(kernel.digest, kernel.lines, *compute_capability)
    try:
        ptx = place.read_text()
    except OSError:
        ptx = _compile_now(kernel, arguments, compute_capability)
        _keep(place, ptx)
    entry = ptx.split(".entry", 1)[1].split("(", 1)[0].strip()
    return ptx, entry


def _compile_now(kernel: CudaKernel, arguments: Any, compute_capability: tuple[int, int]) -> str:
    with _compiling, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules, options = _front_half(kernel, arguments)
        _, own = _handed_to_nvvm(_nothing, (), compute_capability)
        ptx = _nvvm().compile_ir(list(modules), **{**options, "arch": own["arch"]})
    return str(ptx.decode().strip("\0").strip())


@functools.lru_cache(maxsize=64)
def _front_half(kernel: CudaKernel, arguments: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """A kernel as LLVM modules, and NVVM's options for it.

    They are the same for every architecture from 7.5 on, and take some ten times as long to make as the PTX
    that NVVM makes of them. So a kernel's PTX for a second architecture costs little.
    """
    bounds = {} if kernel.max_threads is None else {"launch_bounds": kernel.max_threads}
    return _handed_to_nvvm(kernel.function, arguments, (9, 0), **bounds)


def _handed_to_nvvm(
    function: Any, arguments: Any, compute_capability: tuple[int, int], **bounds: int
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """What numba.cuda hands to NVVM when it compiles a kernel."""
    calls: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def note(modules: list[str], **options: Any) -> bytes:
        calls.append((tuple(modules), options))
        return b""

    nvvm = _nvvm()
    own, nvvm.compile_ir = nvvm.compile_ir, note
    try:
        with _without_driver(compute_capability), _lines_only():
            cuda.compile(
                function,
                types.void(*arguments),
                cc=compute_capability,
                device=False,
                abi="numba",
                lineinfo=True,
                **bounds,
            )
    finally:
        nvvm.compile_ir = own
    (handed,) = calls
    return handed


def _nvvm() -> Any:
    """numba.cuda's module that calls NVVM."""
    return sys.modules["numba.cuda.cudadrv.nvvm"]


@functools.cache
def _cache_folder() -> Path:
    """Where PTX is kept: a file is named by its kernel's code and lines, the folder by the compiler."""
    versions = [numba.__version__, getattr(sys.modules.get("numba_cuda"), "__version__", "")]
    wheels = "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12"
    versions += [f"{wheel.name} {wheel.version}" for wheel in distributions(*wheels)]
    digest = hashlib.sha256(repr(versions).encode()).hexdigest()[:12]
    return calibration.file().parent / "cuda" / digest


def distributions(*names: str) -> Iterator[Any]:
    """Those of the named wheels that are installed."""
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            yield metadata.distribution(name)


def _keep(place: Path, text: str) -> None:
    """Write a file so that no other process sees half of it; a folder that can't be written is no error."""
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(place)


def loadable(ptx: str, compute_capability: tuple[int, int]) -> bytes:
    """What the driver loads: machine code; where nvJitLink is missing the PTX, which the driver compiles."""
    try:
        return compile_cubin(ptx, compute_capability)
    except (ImportError, OSError) as error:
        missing: Exception = error
    except RuntimeError as error:
        if type(error).__name__ != "DynamicLibNotFoundError":  # of the wheels' loader
            raise
        missing = error
    warnings.warn(
        f"nvJitLink can't be loaded ({_in_one_line(missing)}), so the driver compiles each kernel again in "
        "every process; run `pip install nbops[cuda13]`",
        RuntimeWarning,
        stacklevel=2,
    )
    return ptx.encode() + b"\0"


@functools.cache
def compile_cubin(ptx: str, compute_capability: tuple[int, int]) -> bytes:
    """The machine code for PTX, by nvJitLink: no toolkit, no driver."""
    return _assemble(ptx, compute_capability)[0]


def compile_cubin_with_spills(ptx: str, compute_capability: tuple[int, int]) -> tuple[bytes, int]:
    """The same, and the bytes of spilled registers that the assembler counts: a thread's stores and loads."""
    cubin, log = _assemble(ptx, compute_capability, "-Xptxas=-v")
    counts = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    if not counts:
        raise RuntimeError(f"the assembler's log has no count of spills: {log}")
    return cubin, sum(map(int, counts))


def _assemble(ptx: str, compute_capability: tuple[int, int], *options: str) -> tuple[bytes, str]:
    """Machine code, and what the assembler says of it."""
    from cuda.bindings import nvjitlink

    architecture = "sm_{}{}".format(*compute_capability)
    handle = nvjitlink.create(2 + len(options), [f"-arch={architecture}", "-lineinfo", *options])
    try:
        code = ptx.encode() + b"\0"
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), log.decode(errors="replace")
