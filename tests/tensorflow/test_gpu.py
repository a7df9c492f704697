"""The ops' kernels for TensorFlow's GPU, with a driver that the emulator stands behind.

See tests/tensorflow/emulated_gpu.py for what is real here: all but TensorFlow's GPU device and the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import nbops  # noqa: E402
import nbops.tensorflow as bridge  # noqa: E402
from nbops.targets.cuda import kernels  # noqa: E402
from tests.cases import CASES, CASES_AND_SHAPES, Case, assert_close, describe  # noqa: E402
from tests.targets.cuda import copies_through_workspace, needs_compiler  # noqa: E402

if not bridge.uses_registered_ops:
    pytest.skip("the fallback has no registered ops, and so no kernels", allow_module_level=True)

from tests.tensorflow.emulated_gpu import EmulatedGpu, to_numpy  # noqa: E402
from tests.tensorflow.gradients import gradient_of  # noqa: E402

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def emulated() -> Iterator[EmulatedGpu]:
    with pytest.MonkeyPatch.context() as patch:
        yield EmulatedGpu(patch)


@pytest.fixture
def device(emulated: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedGpu]:
    """Public functions call the ops whose kernels are those of a GPU."""
    monkeypatch.setattr(bridge, "_registered", emulated.ops)
    emulated.library.calls.clear()
    yield emulated
    emulated.library.failing.clear()
    emulated.check()


#: An elementwise op, a broadcast, products in all their variants, rows, labels, several outputs, tails.
QUICK = ("relu", "add", "matmul", "softmax", "dense_relu", "sparse_categorical_crossentropy")
COMPUTED = [case for case in CASES if not case.view]


def marked(points: list[Any]) -> list[Any]:
    """Every op is `slow`; a few run always."""
    seen = set()
    result = []
    for case, *rest in points:
        quick = case.name in QUICK and case.name not in seen
        seen.add(case.name)
        marks = () if quick else pytest.mark.slow
        result.append(pytest.param(case, *rest, marks=marks, id=" ".join(map(describe, (case, *rest)))))
    return result


@pytest.mark.parametrize(("case", "shapes"), marked([(c, s) for c, s in CASES_AND_SHAPES if not c.view]))
def test_values(case: Case, shapes: Any, device: EmulatedGpu, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, np.float32)
    results = case.function(*[tf.constant(x) for x in operands])
    assert_close(to_numpy(results), case.expected(operands), case, shapes)
    if any(x.size for x in case.expected(operands)):
        assert "cuLaunchKernel" in device.library.calls


@pytest.mark.parametrize("case", marked([(c,) for c in COMPUTED if c.gradients]))
def test_gradients(case: Case, device: EmulatedGpu, rng: np.random.Generator) -> None:
    """On the GPU in float32, and on the CPU in float64, which test_ops.py compares to differences."""
    operands = case.draw(rng, case.shapes[0], np.float32)
    gradients = gradient_of(case, operands)
    assert "cuLaunchKernel" in device.library.calls
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge, "_registered", ON_CPU)
        exact = gradient_of(case, [x.astype(np.float64) if x.dtype == np.float32 else x for x in operands])
    for gradient, expected in zip(gradients, exact, strict=True):
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))


ON_CPU = dict(bridge._registered)


# ---- how it launches ---------------------------------------------------------------------------------


def test_a_call_waits_launches_and_waits(device: EmulatedGpu) -> None:
    nbops.tanh(tf.ones((3, 5)))
    device.library.calls.clear()
    np.testing.assert_allclose(nbops.tanh(tf.ones((3, 5))), np.tanh(np.ones((3, 5))), rtol=1e-6)
    assert device.library.calls == [
        "cuPointerGetAttribute",
        "cuCtxPushCurrent_v2",
        "cuCtxSynchronize",
        "cuLaunchKernel",
        "cuStreamSynchronize",
        "cuCtxPopCurrent_v2",
    ]
    assert set(device.library.streams) == {0}


def test_python_plans_each_shape_and_dtype_once(device: EmulatedGpu) -> None:
    x = tf.random.normal((4, 6), seed=1)
    before = device.records(nbops.negative)
    for _ in range(3):
        np.testing.assert_array_equal(nbops.negative(x), -x.numpy())
    assert device.records(nbops.negative) == before + 1
    integers = tf.constant([[1, -2]] * 4)
    np.testing.assert_array_equal(nbops.negative(integers), -integers.numpy())  # of float32's size
    np.testing.assert_array_equal(nbops.negative(x[:, :3]), -x.numpy()[:, :3])
    assert device.records(nbops.negative) == before + 3


def test_a_transposed_matrix_is_read_in_place(device: EmulatedGpu) -> None:
    a, b = tf.random.normal((5, 3), seed=1), tf.random.normal((4, 5), seed=2)
    axes = [(-1, -2), (-1, -2), (-2, -1)]
    np.testing.assert_allclose(nbops.matmul(a, b, axes=axes), a.numpy().T @ b.numpy().T, rtol=1e-4, atol=1e-5)


def test_a_result_without_elements_asks_nothing_of_the_driver(device: EmulatedGpu) -> None:
    assert nbops.relu(tf.zeros((0, 3))).shape == (0, 3)
    assert nbops.matmul(tf.zeros((0, 2)), tf.zeros((2, 3))).shape == (0, 3)
    assert device.library.calls == []
    np.testing.assert_array_equal(nbops.matmul(tf.zeros((2, 0)), tf.zeros((0, 3))), np.zeros((2, 3)))


def test_a_graph_runs_ops_on_several_threads(device: EmulatedGpu) -> None:
    def step(i: Any) -> Any:
        a = tf.fill((3, 4), tf.cast(i, tf.float32))
        return nbops.sum(nbops.relu(nbops.matmul(a, tf.ones((4, 2)))))

    found = [float(x) for x in tf.data.Dataset.range(8).map(step, num_parallel_calls=4)]
    assert found == [i * 4 * 6 for i in range(8)]


def test_shapes_that_do_not_fit(device: EmulatedGpu) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a is \(2, 3\) and b is \(4, 5\)"):
        nbops.matmul(tf.ones((2, 3)), tf.ones((4, 5)))
    assert device.library.calls == []


def test_a_plan_of_two_launches_with_scratch_memory_of_tensorflows(
    emulated: EmulatedGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    @nbops.elementwise(name="tensorflow_gpu_test_copy")
    def copied(x: Any) -> Any:
        return x

    def plan(call: kernels.Call) -> kernels.Plan:
        launches = [kernels.Launch(kernel, (1, 1, 1), (64, 1, 1)) for kernel in copies_through_workspace()]
        return kernels.Plan(launches, workspace_bytes=8 * call["items"])

    copied.kernel.tune(cuda=plan)
    monkeypatch.setattr(bridge, "_registered", emulated.register(monkeypatch, [copied]))
    x = np.arange(50, dtype=np.int64)
    np.testing.assert_array_equal(copied(tf.constant(x)), x)
    assert emulated.library.calls.count("cuLaunchKernel") >= 2
    emulated.check()


# ---- what can go wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["cuPointerGetAttribute", "cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuLaunchKernel"]
)
def test_an_error_of_the_driver_becomes_a_status(function: str, device: EmulatedGpu) -> None:
    x = tf.ones((2, 2))
    nbops.exp(x)
    device.library.failing[function] = 719
    with pytest.raises(
        tf.errors.InternalError, match=f"exp on the GPU: {function} failed with CUDA_ERROR_719"
    ):
        nbops.exp(x)
    device.library.failing.clear()
    np.testing.assert_allclose(nbops.exp(x), np.exp(np.ones((2, 2))), rtol=1e-6)


def test_an_error_of_a_kernel_shows_at_the_last_wait(device: EmulatedGpu) -> None:
    device.library.failing["cuStreamSynchronize"] = 700
    with pytest.raises(tf.errors.InternalError, match="cuStreamSynchronize failed with CUDA_ERROR_700"):
        nbops.exp(tf.ones((2, 3)))


def test_a_kernel_that_can_not_be_loaded(device: EmulatedGpu) -> None:
    device.library.failing["cuModuleLoadData"] = 2
    with pytest.raises(tf.errors.ResourceExhaustedError, match="sqrt on the GPU: cuModuleLoadData"):
        nbops.sqrt(tf.ones((7, 1, 7), tf.float64))


def test_a_launch_without_memory(device: EmulatedGpu) -> None:
    device.library.failing["cuLaunchKernel"] = 2
    with pytest.raises(tf.errors.ResourceExhaustedError, match="exp on the GPU: cuLaunchKernel"):
        nbops.exp(tf.ones((2, 4)))


# ---- beside a TensorFlow that has no GPU ---------------------------------------------------------------


def test_kernels_for_a_gpu_do_no_harm_where_there_is_none(run_python: Any) -> None:
    """As with TensorFlow's CUDA wheel on a machine whose GPU is hidden from it."""
    run_python(
        """
        import numpy as np, tensorflow as tf
        from tensorflow.python.framework import kernels
        from nbops.targets.cuda import driver
        from tests.targets.cuda import FakeDriverLibrary
        import nbops.targets.cuda as cuda
        fake = driver.Driver(FakeDriverLibrary())
        driver.load, cuda.available = lambda: fake, lambda: True
        tf.test.is_built_with_cuda = lambda: True
        import nbops, nbops.tensorflow

        known = kernels.get_registered_kernels_for_op("NbopsMatmul").kernel
        assert {kernel.device_type for kernel in known} == {"CPU", "GPU"}, known

        def loss(x, w):
            return nbops.mean(nbops.softmax(nbops.matmul(x, w)))

        x, w = tf.ones((3, 4)), tf.Variable(tf.ones((4, 2)))
        for function in (loss, tf.function(loss)):
            with tf.GradientTape() as tape:
                value = function(x, w)
            assert abs(float(value) - 0.5) < 1e-6
            assert "CPU:0" in value.device, value.device
            assert np.abs(tape.gradient(value, w)).max() < 1e-6
        """
    )


def test_without_cuda_there_are_kernels_for_the_cpu_only() -> None:
    from tensorflow.python.framework import kernels as registered

    if tf.test.is_built_with_cuda() and nbops.targets.cuda.available():
        pytest.skip("this TensorFlow was built with CUDA, and there is a GPU")
    known = registered.get_registered_kernels_for_op("NbopsMatmul").kernel
    assert {kernel.device_type for kernel in known} == {"CPU"}
