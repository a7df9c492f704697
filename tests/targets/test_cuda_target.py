"""The target around the kernels: what is missing, device arrays, the driver, the dispatcher, tuned ones."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import dispatch
from nbops.kernel import Kernel
from nbops.targets import cuda
from nbops.targets.cuda import costs, devices, execution, kernels, residence, toolchain
from nbops.targets.cuda.driver import Driver, Gpu
from tests.targets.cuda import (
    FakeArray,
    FakeDriverLibrary,
    FakeLibrary,
    copies_through_workspace,
    needs_compiler,
)

pytestmark = needs_compiler


# ---- what is missing: each in a process of its own ------------------------------------------------------

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda" or name.startswith("numba.cuda."):
            raise {error}
sys.meta_path.insert(0, Blocker())
"""
ASK = """
import numpy as np, nbops
assert "numba.cuda" not in sys.modules
for target in {targets}:
    try:
        with nbops.use(target):
            pass
    except RuntimeError as error:
        print(error)
    else:
        raise AssertionError("it did not raise")
x = np.ones((600, 600), "float32")
nbops.matmul(x, x)
assert nbops.last_decision().target in ("serial", "parallel"), nbops.last_decision()
"""
IS_NOT_IMPORTED = 'assert "numba.cuda" not in sys.modules'


@pytest.mark.parametrize("target", ["cuda", "cuda-emulator"])
@pytest.mark.parametrize("error", ["ImportError('none')", "OSError('libnvvm.so not found')"])
def test_without_numba_cuda_or_with_a_bare_one(run_python: Any, error: str, target: str) -> None:
    """A bare numba-cuda fails with errors of its own, which are not ImportErrors."""
    script = BLOCK.format(error=error) + ASK.format(targets=[target])
    done = run_python(script)
    assert "pip install nbops[cuda13]" in done.stdout
    assert done.stderr == ""


def test_numbas_own_cuda_does_not_do(run_python: Any) -> None:
    """Numba's own would compile some kernels and fail on others; it is not even imported."""
    hidden = "import sys\nsys.modules['numba_cuda'] = None"
    done = run_python(hidden + ASK.format(targets=["cuda", "cuda-emulator"]) + IS_NOT_IMPORTED)
    assert done.stdout.count("numba-cuda is not installed, and Numba's own numba.cuda does not do") == 2
    assert done.stdout.count("pip install nbops[cuda13]") == 2
    assert done.stderr == ""


def test_numbas_own_cuda_in_place_of_numba_cudas(run_python: Any) -> None:
    """Where numba-cuda is there, but what puts it in the place of Numba's own is not."""
    passed_over = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "NumbaCudaFinder"]
"""
    done = run_python(passed_over + ASK.format(targets=["cuda-emulator"]))
    assert "numba-cuda can't compile here (ImportError: cannot import name 'overload'" in done.stdout
    assert "pip install nbops[cuda13]" in done.stdout


def test_without_a_driver(run_python: Any) -> None:
    if cuda.available():
        pytest.skip("this machine has a GPU")
    done = run_python("import sys" + ASK.format(targets=["cuda"]))
    assert "nvidia-smi" in done.stdout
    assert done.stderr == ""


def test_a_wrong_compute_capability_says_so() -> None:
    with pytest.raises(ValueError, match="expected one such as"):
        devices.parse_compute_capability("ampere")
    with pytest.raises(ValueError, match="goes with 'cuda-emulator'"), nbops.use(compute_capability=(9, 0)):
        pass


# ---- device arrays --------------------------------------------------------------------------------------


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    made = FakeLibrary()
    monkeypatch.setitem(residence.LIBRARIES, "tests", made)
    return made


def on(gpu: Any, array: Any, dtype: Any = np.float32) -> FakeArray:
    array = np.asarray(array, dtype)
    return FakeArray(gpu, array.shape, array.dtype).fill(array)


def test_device_arrays_come_back_as_the_callers_kind_on_its_stream(
    library: FakeLibrary, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = rng.random((5, 7), np.float32), rng.random((7, 3), np.float32)
    with nbops.use("cuda-emulator") as gpu:
        x, y = on(gpu, a), on(gpu, b)
        with monkeypatch.context() as patch:  # nothing is copied to or from the CPU
            patch.setattr(gpu, "write", None)
            patch.setattr(gpu, "read", None)
            result = nbops.matmul(x, y)
        decision = nbops.last_decision()
        assert isinstance(result, FakeArray)
        np.testing.assert_allclose(result.get(), a @ b, rtol=1e-5)
        assert set(gpu.streams) == {library.current}
    assert decision is not None
    assert (decision.target, decision.rule) == ("cuda", "a device array")


def test_device_arrays_with_numbers_views_axes_out_and_other_dtypes(library: FakeLibrary) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    with nbops.use("cuda-emulator") as gpu:
        x = on(gpu, a)
        np.testing.assert_array_equal(nbops.multiply(x, 2).get(), 2 * a)
        np.testing.assert_array_equal(nbops.relu(x.transposed).get(), np.maximum(a.T, 0))
        by_column = nbops.matmul(x, x, axes=[(-1, -2), (-2, -1), (-2, -1)])
        np.testing.assert_array_equal(by_column.get(), a.T @ a)
        half = on(gpu, a, np.float16)
        assert nbops.add(half, half).get().dtype == np.float16
        np.testing.assert_array_equal(nbops.add(half, half).get(), (2 * a).astype(np.float16))
        np.testing.assert_array_equal(nbops.add(on(gpu, a, np.int32), x).get(), 2.0 * a)
        out = FakeArray(gpu, (3, 4), np.float32)
        assert nbops.relu(x, out=out) is out
        np.testing.assert_array_equal(out.get(), np.maximum(a, 0))
        assert nbops.relu(FakeArray(gpu, (0, 4), np.float32)).get().shape == (0, 4)


def test_a_stream_that_produced_an_operand_is_waited_for(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    with nbops.use("cuda-emulator") as gpu:
        x = on(gpu, np.ones(3))
        x.stream = 5
        monkeypatch.setattr(gpu, "synchronize", waited.append)
        nbops.relu(x)
    assert 5 in waited


def waited_for(monkeypatch: pytest.MonkeyPatch, gpu: Any, call: Any) -> list[int]:
    """The streams that a call waits for."""
    waited: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "synchronize", waited.append)
        call()
    return waited


def test_a_stream_that_uses_out_is_waited_for(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads or writes it there would meet this call's writes."""
    with nbops.use("cuda-emulator") as gpu:
        x, out = on(gpu, np.ones(3)), FakeArray(gpu, (3,), np.float32, stream=5)
        relu = functools.partial(nbops.relu, x, out=out)
        assert waited_for(monkeypatch, gpu, relu) == [5]
        out.stream = library.current
        assert waited_for(monkeypatch, gpu, relu) == []


@pytest.mark.parametrize("current", [None, 0, 1])
@pytest.mark.parametrize("produced", [None, 0, 1])
def test_the_default_stream_has_two_handles(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, current: Any, produced: Any
) -> None:
    """0 of the driver and 1 of the protocols; None has nothing to wait for."""
    monkeypatch.setattr(library, "current", current)
    with nbops.use("cuda-emulator") as gpu:
        x, y = on(gpu, np.ones(3)), on(gpu, np.ones(3))
        x.stream = produced
        add = functools.partial(nbops.add, x, y)
        assert waited_for(monkeypatch, gpu, add) == []
        y.stream = 5
        if current is not None or produced is not None:
            assert waited_for(monkeypatch, gpu, add) == [5]
        assert set(gpu.streams) <= {0, 5}


def test_arrays_on_two_gpus_are_refused(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are written, too."""
    other = devices.EmulatedDevice((8, 0))
    with nbops.use("cuda-emulator") as gpu:
        x, y = on(gpu, np.ones(3)), on(gpu, np.ones(3))
        holding = {x.address: gpu, y.address: other}
        monkeypatch.setattr(gpu, "holding", holding.__getitem__)
        with pytest.raises(TypeError, match=r"add: x is on <.*9\.0>, y is on <.*8\.0>; nothing is copied"):
            nbops.add(x, y)
        with pytest.raises(TypeError, match=r"relu: x is on <.*9\.0>, out is on <.*8\.0>; nothing is copied"):
            nbops.relu(x, out=y)
        with pytest.raises(TypeError, match=r"relu: x is on <.*8\.0>, out is on <.*9\.0>; nothing is copied"):
            nbops.relu(y, out=x)
        assert not gpu.counters


class TorchsError(RuntimeError):
    """PyTorch's torch.OutOfMemoryError."""


TorchsError.__name__ = "OutOfMemoryError"
NO_ROOM = [
    MemoryError("Out of memory allocating 512 bytes"),  # CuPy's is one
    TorchsError("CUDA out of memory. Tried to allocate 2.00 MiB"),
    Exception("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),  # Numba's
]


@pytest.mark.parametrize("error", NO_ROOM, ids=lambda error: type(error).__name__)
def test_a_library_without_room_gets_what_nbops_kept(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    own, released = library.empty, []

    def empty(*arguments: Any) -> Any:
        if not released:
            raise error
        return own(*arguments)

    monkeypatch.setattr(library, "empty", empty)
    a = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)
    with nbops.use("cuda-emulator") as gpu:
        monkeypatch.setattr(gpu, "release_kept", lambda: released.append(gpu))
        x = on(gpu, a)
        np.testing.assert_array_equal(nbops.relu(x).get(), np.maximum(a, 0))
        assert released == [gpu]
        released.clear()
        np.testing.assert_array_equal(nbops.reshape(x.transposed, (6,)).get(), a.T.reshape(6))  # a copy
        assert released == [gpu]


def test_a_library_without_any_room_says_what_came_and_what_to_do(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*arguments: Any) -> Any:
        raise failing

    monkeypatch.setattr(library, "empty", empty)
    with nbops.use("cuda-emulator") as gpu:
        x, out = on(gpu, np.ones((2, 3))), FakeArray(gpu, (2, 3), np.float32)
        for failing in NO_ROOM:
            with pytest.raises(
                MemoryError, match=r"relu: .*no room for a result of 24 bytes, \(2, 3\) in float32; free"
            ) as raised:
                nbops.relu(x)
            assert raised.value.__cause__ is failing
        assert nbops.relu(x, out=out) is out
        failing = RuntimeError("an illegal memory access was encountered")
        with pytest.raises(RuntimeError, match="illegal") as other:
            nbops.relu(x)
        assert other.value is failing


def test_mixed_residence_says_how_to_fix_it(library: FakeLibrary) -> None:
    with nbops.use("cuda-emulator") as gpu:
        x = on(gpu, np.ones(3))
        with pytest.raises(TypeError, match=r"add: y is a ndarray on the CPU.*nothing is copied silently"):
            nbops.add(x, np.ones(3, np.float32))
        with pytest.raises(TypeError, match="out is a ndarray; expected an array on the GPU"):
            nbops.relu(x, out=np.ones(3, np.float32))
        with pytest.raises(ValueError, match="out is"):
            nbops.relu(x, out=on(gpu, np.ones(4)))
    with nbops.use("serial"), pytest.raises(RuntimeError, match="operands are on the GPU"):
        nbops.relu(x)


# ---- the driver -----------------------------------------------------------------------------------------


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Gpu, FakeDriverLibrary]]:
    """A GPU whose driver is the emulator, in place of this machine's."""
    library = FakeDriverLibrary()
    gpu = Gpu(Driver(library), 0)
    monkeypatch.setattr(toolchain, "compile_cubin", lambda ptx, cc: ptx.encode())
    monkeypatch.setattr(cuda, "available", lambda: True)
    monkeypatch.setattr(cuda, "require", lambda target: None)
    monkeypatch.setattr(devices, "default_device", lambda target: gpu)
    monkeypatch.setattr(cuda, "_figures", {gpu.name: costs.SHIPPED})
    monkeypatch.setattr(cuda, "_used", {gpu.name})  # so that no call measures it
    yield gpu, library
    assert not library.errors


def test_a_call_through_the_driver(fake_gpu: Any, rng: np.random.Generator) -> None:
    gpu, library = fake_gpu
    a, b = rng.random((5, 7), np.float32), rng.random((7, 3), np.float32)
    with nbops.use("cuda") as device:
        assert device is gpu
        np.testing.assert_allclose(nbops.matmul(a, b), a @ b, rtol=1e-5)
        np.testing.assert_allclose(nbops.matmul(a, b), a @ b, rtol=1e-5)
    assert library.calls.count("cuModuleLoadData") == 1
    assert library.calls.count("cuLaunchKernel") == 2
    assert library.calls.count("cuMemAlloc_v2") == 3  # the second call takes what the first one freed
    assert library.context_depth == 0
    assert "2 product_float32" in gpu.report()


def test_what_is_kept_goes_back_when_there_is_no_room(fake_gpu: Any) -> None:
    gpu, library = fake_gpu
    library.room = 4096
    gpu.free(gpu.allocate(1024))
    assert gpu.free_bytes() == 4096
    assert gpu.allocate(4096)
    assert library.calls.count("cuMemFree_v2") == 1
    with pytest.raises(MemoryError):
        gpu.allocate(4096)


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'cuda.bindings'"), OSError("libnvJitLink.so.13")], ids=repr
)
def test_without_nvjitlink_the_driver_compiles(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(ptx: str, compute_capability: Any) -> bytes:
        raise error

    monkeypatch.setattr(toolchain, "compile_cubin", fail)
    gpu = Gpu(Driver(FakeDriverLibrary()), 0)
    with pytest.warns(RuntimeWarning, match="nvJitLink can't be loaded.*pip install"):
        assert gpu.function(kernels.CudaKernel(toolchain._nothing), 0)


def test_a_child_of_fork_asks_the_driver_again(run_python: Any) -> None:
    done = run_python(
        """
        import os, sys
        from nbops.targets import cuda
        from nbops.targets.cuda import driver
        from tests.targets.cuda import FakeDriverLibrary

        started = []
        class Library(FakeDriverLibrary):
            def _cuInit(self, flags):
                started.append(os.getpid())
                return 3 if len(set(started)) > 1 else 0  # CUDA_ERROR_NOT_INITIALIZED

        library = Library()
        driver.ctypes.CDLL = lambda name: library
        assert cuda.available()
        child = os.fork()
        if child == 0:
            os._exit(int(cuda.available()))
        assert os.waitpid(child, 0)[1] == 0, "the child takes its parent's driver for its own"
        assert cuda.available() and len(started) == 1
        print("done")
        """
    )
    assert "done" in done.stdout


def test_an_error_of_the_driver_is_named(fake_gpu: Any) -> None:
    gpu, library = fake_gpu
    library.failing["cuStreamSynchronize"] = 719
    with pytest.raises(RuntimeError, match="cuStreamSynchronize failed with CUDA_ERROR_719"):
        gpu.synchronize(0)


# ---- the dispatcher ---------------------------------------------------------------------------------------


def work(nanoseconds: float, nbytes: int) -> dispatch.Work:
    return dispatch.Work(items=1000, steps=int(nanoseconds), bytes=nbytes, step_nanoseconds=1.0)


def test_the_gpu_is_chosen_where_the_copy_pays(fake_gpu: Any) -> None:
    assert dispatch.choose(work(1e10, 1000)).rule == "worth the copy"
    assert dispatch.choose(work(1e10, 1000)).target == "cuda"
    assert dispatch.choose(work(1e10, 1000), "cpu").target in ("serial", "parallel")
    assert dispatch.choose(work(1e5, 2**29)).target != "cuda"
    assert dispatch.choose(work(100, 100)).rule == "small"
    assert dispatch.choose(work(1e10, 2**40)).target != "cuda", "it has no room"
    assert "cuda" in str(nbops.explain(nbops.add, np.ones(10), np.ones(10)))


def test_without_a_gpu_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "available", lambda: False)
    assert dispatch.choose(work(1e10, 1000)).target in ("serial", "parallel")


def test_without_room_the_cpu_runs_the_call_and_says_so_once(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, library = fake_gpu
    library.room = 100
    monkeypatch.setattr(dispatch, "_warned", set())
    x = np.ones(1000, np.float32)
    with nbops.use("cuda"):
        with pytest.warns(RuntimeWarning, match="no room"):
            np.testing.assert_array_equal(nbops.add(x, x), x + x)
        decision = nbops.last_decision()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nbops.add(x, x)
    assert decision is not None
    assert decision.rule == "out of memory"
    assert decision.target in ("serial", "parallel")
    with nbops.use("cuda"):
        assert nbops.explain(nbops.add, x, x).decision == decision
    with nbops.use("cuda", strict=True):
        for call in nbops.add, functools.partial(nbops.explain, nbops.add):
            with pytest.raises(MemoryError, match=r"no room for 12,000 bytes \(strict\)"):
                call(x, x)


def test_calibration_measures_and_keeps(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    gpu, _ = fake_gpu
    assert costs.kept("another GPU") is None
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    measured, told = costs.measure(gpu, "cuda", size=8, nbytes=4096)
    kept = costs.kept(gpu.name)
    assert kept == measured
    assert dataclasses.asdict(kept) == {key: value for key, value in told.items() if key != "device"}
    assert kept.launch_microseconds > 0
    assert kept.cores > 0


def test_the_first_call_on_a_gpu_measures_it(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Once for all processes, whatever is in force around the call, whose decision stays the last."""
    gpu, _ = fake_gpu
    own, seen = costs.measure, []

    def measure(device: Any, target: str) -> Any:
        seen.append((device, dispatch.settings().tf32))
        return own(device, target, size=8, nbytes=4096)

    monkeypatch.setattr(costs, "measure", measure)
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    x = np.ones(3, np.float32)
    for later_process in (False, True):
        cuda._used.clear()
        with nbops.use("cuda", tf32=True):
            nbops.negative(x)
            decision = nbops.last_decision()
            nbops.negative(x)
        assert decision is not None
        assert decision.reason == "target 'cuda' was asked for"
        assert seen == [(gpu, False)], later_process
    assert cuda._figures[gpu.name] == costs.kept(gpu.name)
    assert len([name for name in gpu._launches if "matmul" in name or "product" in name]) == 1


def test_a_gpu_that_can_not_be_measured_keeps_the_shipped_figures(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def measure(device: Any, target: str) -> Any:
        raise MemoryError

    monkeypatch.setattr(costs, "measure", measure)
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    cuda._used.clear()
    np.testing.assert_array_equal(nbops.negative(np.ones(3), target="cuda"), -np.ones(3))
    assert cuda._figures == {"Fake GPU": costs.SHIPPED}


# ---- tuned kernels --------------------------------------------------------------------------------------


def test_a_plan_takes_the_place_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def plan(call: kernels.Call) -> kernels.Plan | None:
        seen.append(
            (call["m"], call["n"], call["a_m"], call.batch_rank, call.layout, call.compute_capability)
        )
        return None

    monkeypatch.setattr(nbops.matvec.kernel, "cuda_planner", plan)
    with nbops.use("cuda-emulator", compute_capability=(8, 0)):
        result = nbops.matvec(np.ones((3, 4), np.float32), np.ones(4, np.float32))
    np.testing.assert_array_equal(result, [4, 4, 4])
    assert seen == [(3, 4, 16, 0, 0, (8, 0))]


def test_a_planned_kernel_runs_with_a_workspace() -> None:
    def plan(call: kernels.Call) -> kernels.Plan:
        launches = [kernels.Launch(kernel, (1, 1, 1), (32, 1, 1)) for kernel in copies_through_workspace()]
        return kernels.Plan(launches, workspace_bytes=8 * call["items"])

    tuned = Kernel(nbops.relu.kernel.loop, nbops.relu.signature, "copies")
    tuned.tune(cuda=plan)
    gpu = devices.EmulatedDevice()
    x, out = np.arange(5), np.full(5, -1)
    execution.run_on_copies(tuned, [x, out], (x.dtype, out.dtype), gpu)
    np.testing.assert_array_equal(out, x)


def test_a_planner_can_be_named() -> None:
    assert kernels.resolve_planner("nbops.targets.cuda.kernels:resolve_planner") is kernels.resolve_planner
