"""On a GPU: the emulator's cases once more, and timings beside CuPy and PyTorch, whose products are cuBLAS's.

``pytest -m gpu -s`` prints the timings; without a GPU every test here is skipped, and the reason printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets import cuda
from nbops.targets.cuda import driver
from nbops.testing import LAYOUTS
from tests.cases import CASES, CASES_AND_SHAPES, Case, assert_close, assert_gradients_close, describe
from tests.targets.cuda import needs_compiler
from tests.targets.gradients import check_gradients
from tests.targets.test_cuda_training import check_on
from tests.test_gradients import WITH_RULE
from tests.test_layouts import laid_out

pytestmark = [
    pytest.mark.gpu,
    needs_compiler,
    pytest.mark.skipif(not cuda.available(), reason=driver.missing() or "the CUDA target can't be used"),
]
COMPUTED = [case for case in CASES if not case.view]


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=describe)
@pytest.mark.parametrize(("case", "shapes"), [p for p in CASES_AND_SHAPES if not p[0].view], ids=describe)
def test_values(case: Case, shapes: Any, dtype: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, dtype)
    with nbops.use("cuda", strict=True):
        assert_close(case.function(*operands), case.expected(operands), case, shapes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=describe)
@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_gradients(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    check_gradients(case, case.shapes[0], dtype, rng, "cuda")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", COMPUTED, ids=describe)
def test_inputs_of_every_layout(case: Case, layout: str, rng: np.random.Generator) -> None:
    operands = laid_out(case, case.draw(rng, case.shapes[0], np.float32), LAYOUTS[layout])
    with nbops.use("cuda", strict=True):
        assert_close(case.function(*operands), case.expected(operands), case, case.shapes[0])


@pytest.mark.parametrize(
    ("a", "b"), [((1000, 700), (700, 900)), ((3, 513, 129), (129, 257)), ((4096, 64), (64, 4096))]
)
def test_large_products(a: Any, b: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(a, np.float32), rng.standard_normal(b, np.float32)
    with nbops.use("cuda", strict=True):
        result = nbops.matmul(x, y)
    np.testing.assert_allclose(result, np.matmul(x, y, dtype=np.float64), rtol=0, atol=1e-5 * a[-1])


def test_training_gives_the_cpus_losses() -> None:
    check_on("cuda", 512, 128, 4)


# ---- arrays on the GPU -----------------------------------------------------------------------------------


class CuPy:
    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

    def put(self, x: np.ndarray) -> Any:
        return self.cupy.asarray(x)

    def get(self, x: Any) -> np.ndarray:
        assert isinstance(x, self.cupy.ndarray)
        return np.asarray(x.get())

    def function(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.cupy, name)
        return found

    def on_a_stream(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    def microseconds(self, call: Callable[[], Any], calls: int) -> float:
        """A call's time on the GPU's own clock."""
        start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            call()
        stop.record()
        stop.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, stop)) * 1e3 / calls


class Torch:
    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        if not self.torch.cuda.is_available():
            pytest.skip("this PyTorch can't use the GPU")
        self.torch.backends.cuda.matmul.allow_tf32 = False

    def put(self, x: np.ndarray) -> Any:
        return self.torch.as_tensor(x, device="cuda")

    def get(self, x: Any) -> np.ndarray:
        assert x.is_cuda
        return np.asarray(x.cpu().numpy())

    def function(self, name: str) -> Callable[..., Any]:
        torch = self.torch
        renamed = {"softmax": lambda x: torch.softmax(x, -1), "sum": torch.sum}
        found: Callable[..., Any] = renamed.get(name) or getattr(torch, name)
        return found

    def on_a_stream(self) -> Any:
        return self.torch.cuda.stream(self.torch.cuda.Stream())

    def microseconds(self, call: Callable[[], Any], calls: int) -> float:
        """A call's time on the GPU's own clock."""
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) * 1e3 / calls


LIBRARIES = {"CuPy": CuPy, "PyTorch": Torch}


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_a_library_stay_there(library: str, rng: np.random.Generator) -> None:
    own = LIBRARIES[library]()
    a, b = rng.random((37, 50), np.float32), rng.random((50, 41), np.float32)
    result = nbops.matmul(own.put(a), own.put(b))
    np.testing.assert_allclose(own.get(result), a @ b, rtol=1e-5)
    np.testing.assert_allclose(own.get(nbops.add(own.put(a), 1)), a + 1, rtol=1e-6)
    np.testing.assert_allclose(own.get(nbops.exp(own.put(a.T.copy()).T)), np.exp(a), rtol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CASES, ids=describe)
def test_functions_and_gradients_of_a_librarys_arrays(
    case: Case, library: str, rng: np.random.Generator
) -> None:
    own = LIBRARIES[library]()
    operands = case.draw(rng, case.shapes[0], np.float32)
    there = [own.put(x) for x in operands]
    results = case.function(*there)
    several = results if isinstance(results, tuple) else (results,)
    assert_close(tuple(map(own.get, several)), case.expected(operands), case, case.shapes[0])
    if case not in WITH_RULE:
        return
    assert case.op is not None
    upstreams = [np.ones(y.shape, np.float32) for y in case.expected(operands)]
    with nbops.use("cpu"):
        wanted = case.op.vjp(*operands)[1](*upstreams)
    gradients = case.op.vjp(*there)[1](*map(own.put, upstreams))
    found = [None if gradient is None else own.get(gradient) for gradient in gradients]
    assert_gradients_close(found, wanted, case, operands)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_stream_of_the_library_is_honoured(library: str, rng: np.random.Generator) -> None:
    """A chain of calls on a stream that does not wait for the default one, nothing between them."""
    own = LIBRARIES[library]()
    x = rng.random((2048, 2048), np.float32)
    there = own.put(x)
    own.get(there)  # the copy is done
    with own.on_a_stream():
        result = there
        for _ in range(20):
            result = nbops.multiply(nbops.add(result, 1), 0.5)
        found = own.get(result)
    expected = x.astype(np.float64)
    for _ in range(20):
        expected = (expected + 1) * 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# ---- TensorFlow ------------------------------------------------------------------------------------------


@pytest.fixture
def tensorflow() -> Any:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    if not tf.config.list_physical_devices("GPU"):
        pytest.skip("this TensorFlow has no GPU")
    return tf


@pytest.mark.parametrize("case", COMPUTED, ids=describe)
def test_values_and_gradients_on_tensorflows_gpu(
    case: Case, tensorflow: Any, rng: np.random.Generator
) -> None:
    from tests.tensorflow.gradients import gradient_of

    operands = case.draw(rng, case.shapes[0], np.float32)
    with tensorflow.device("GPU:0"):
        results = tensorflow.nest.flatten(case.function(*[tensorflow.constant(x) for x in operands]))
        assert all("GPU:0" in x.device for x in results)
        assert_close(tuple(x.numpy() for x in results), case.expected(operands), case, case.shapes[0])
        gradients = gradient_of(case, operands) if case.gradients else []
    with tensorflow.device("CPU:0"):
        exact = gradient_of(case, operands) if case.gradients else []
    for gradient, expected in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))


def test_an_eager_tensor_is_shared_by_dlpack(tensorflow: Any) -> None:
    from nbops.tensorflow.device_tensor import call

    with tensorflow.device("GPU:0"):
        x = tensorflow.random.normal((64, 64), seed=1)
        (result,) = call(nbops.relu, [x])
        np.testing.assert_array_equal(result, tensorflow.nn.relu(x))


# ---- times -----------------------------------------------------------------------------------------------


TIMED: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "matmul 4096": ("matmul", ((4096, 4096), (4096, 4096))),
    "matmul 512": ("matmul", ((512, 512), (512, 512))),
    "matmul 128x784x512": ("matmul", ((128, 784), (784, 512))),
    "add 64 Mi": ("add", ((2**26,), (2**26,))),
    "exp 64 Mi": ("exp", ((2**26,),)),
    "sum 64 Mi": ("sum", ((2**26,),)),
    "softmax 65536x1024": ("softmax", ((65536, 1024),)),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", TIMED)
def test_times_beside(library: str, name: str, rng: np.random.Generator) -> None:
    """The fastest of five rounds in turn; time on the GPU's clock, and until the host has a call's result."""
    own = LIBRARIES[library]()
    function, shapes = TIMED[name]
    if (library, function) == ("CuPy", "softmax"):
        pytest.skip("CuPy has no softmax")
    operands = [own.put(rng.random(shape, np.float32)) for shape in shapes]
    calls = {
        "nbops": lambda: getattr(nbops, function)(*operands),
        library: lambda: own.function(function)(*operands),
    }
    results = [own.get(call()) for call in calls.values()]
    scale = max(1.0, float(np.abs(results[1]).max()))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-5 * scale)
    on_gpu = {who: float("inf") for who in calls}
    in_all = dict(on_gpu)
    for _ in range(5):
        for who, call in calls.items():
            on_gpu[who] = min(on_gpu[who], own.microseconds(call, 20))
            start = time.perf_counter()
            own.microseconds(call, 1)
            in_all[who] = min(in_all[who], (time.perf_counter() - start) * 1e6)
    ratio = on_gpu[library] / on_gpu["nbops"]
    print(
        f"\n{name}: nbops {on_gpu['nbops']:.1f} µs a call in a row, {in_all['nbops']:.1f} µs alone; "
        f"{library} {on_gpu[library]:.1f} and {in_all[library]:.1f}; nbops is {ratio:.2f} times as fast"
    )
