"""Every public function and every gradient on arrays that are on a GPU already: nothing comes to the CPU.

The GPU is the emulated one, and the arrays are those of a library that has no function of its own but to make
them: what it is asked for is all that nbops needs of CuPy, PyTorch or Numba.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets.cuda import residence
from nbops.targets.cuda.devices import EmulatedDevice
from tests.cases import CASES, Case, assert_close, assert_gradients_close, describe
from tests.targets.cuda import FakeArray, FakeLibrary, needs_compiler
from tests.test_gradients import WITH_RULE, upstreams_of

pytestmark = needs_compiler


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedDevice]:
    monkeypatch.setitem(residence.LIBRARIES, "tests", FakeLibrary())
    with nbops.use("cuda-emulator") as device:
        yield device


def on(gpu: EmulatedDevice, array: Any, dtype: Any = None) -> FakeArray:
    array = np.asarray(array, dtype)
    return FakeArray(gpu, array.shape, array.dtype).fill(array)


def fetched(results: Any) -> tuple[np.ndarray, ...]:
    several = results if isinstance(results, tuple) else (results,)
    assert all(isinstance(x, FakeArray) for x in several)
    return tuple(x.get() for x in several)


@contextmanager
def nothing_leaves(gpu: EmulatedDevice) -> Iterator[None]:
    """Numbers may go to the GPU; nothing is read from it, and no array is written to it."""
    write = gpu.write

    def write_a_number(address: int, array: np.ndarray) -> None:
        assert array.size == 1
        write(address, array)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "read", None)
        patch.setattr(gpu, "write", write_a_number)
        yield


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_every_function_gives_arrays_there(case: Case, gpu: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], np.float32)
    there = [on(gpu, x) for x in operands]
    with nothing_leaves(gpu):
        results = case.function(*there)
    assert_close(fetched(results), case.expected(operands), case, case.shapes[0])


@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_every_gradient_stays_there(case: Case, gpu: Any, rng: np.random.Generator) -> None:
    """Also where operands were repeated: the last shapes of a row broadcast."""
    assert case.op is not None
    for shapes in (case.shapes[0], case.shapes[1]):
        operands = case.draw(rng, shapes, np.float32)
        upstreams = [u.astype(np.float32) for u in upstreams_of(case, operands, rng)]
        with nbops.use("serial"):
            wanted = case.op.vjp(*operands)[1](*upstreams)
        there, pulled = [on(gpu, x) for x in operands], [on(gpu, u) for u in upstreams]
        with nothing_leaves(gpu):
            gradients = case.op.vjp(*there)[1](*pulled)
        found = [None if gradient is None else fetched(gradient)[0] for gradient in gradients]
        assert_gradients_close(found, wanted, case, operands)


def test_sums_and_means_of_other_dtypes(gpu: Any) -> None:
    x = np.arange(24).reshape(2, 3, 4)
    for dtype in (np.int8, np.uint16, np.int64, np.float16):
        there = on(gpu, x, dtype)
        with nothing_leaves(gpu):
            results = [
                nbops.sum(there),
                nbops.sum(there, axis=(0, 2)),
                nbops.mean(there, axis=1, keepdims=True),
            ]
        own = x.astype(dtype)
        for found, wanted in zip(
            map(FakeArray.get, results), [own.sum(), own.sum((0, 2)), own.mean(1, keepdims=True)], strict=True
        ):
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_array_equal(found, wanted)


def test_views_share_memory_and_a_reshape_copies_only_where_it_must(gpu: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    there = on(gpu, x)
    views = [
        nbops.transpose(there),
        nbops.matrix_transpose(there),
        nbops.expand_dims(there, 1),
        nbops.broadcast_to(there, (2, 3, 4)),
        nbops.reshape(there, (2, -1)),
    ]
    assert {view.address for view in views} == {there.address}
    assert not gpu.counters
    np.testing.assert_array_equal(views[3].get(), np.broadcast_to(x, (2, 3, 4)))
    np.testing.assert_array_equal(nbops.reshape(views[0], (6, 2)).get(), x.T.reshape(6, 2))
    assert gpu.counters, "a transposed matrix is copied, on the GPU"
    assert nbops.transpose(on(gpu, np.empty((0, 3)))).get().shape == (3, 0)
    with pytest.raises(TypeError, match="copy= does not go with arrays on a GPU"):
        nbops.reshape(there, 12, copy=True)


def test_out_is_on_the_gpu(gpu: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    there, out = on(gpu, x), FakeArray(gpu, (3,), np.float64)
    assert nbops.sum(there, axis=1, out=out) is out
    np.testing.assert_array_equal(out.get(), x.sum(1))
    with pytest.raises(TypeError, match="sum: out is a ndarray; expected an array on the GPU"):
        nbops.sum(there, axis=1, out=np.empty(3))
    with pytest.raises(ValueError, match=r"sum: out is \(3,\); the result's shape is \(4,\)"):
        nbops.sum(there, axis=0, out=out)
    with pytest.raises(TypeError, match="float32 can't be put into out of dtype int64"):
        nbops.sum(there, axis=1, out=FakeArray(gpu, (3,), np.int64))


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_a_layer_without_a_bias(activation: str | None, gpu: Any, rng: np.random.Generator) -> None:
    x, w = rng.random((3, 4), np.float32), rng.random((4, 2), np.float32)
    there, out = [on(gpu, x), on(gpu, w)], FakeArray(gpu, (3, 2), np.float32)
    wanted = nbops.dense(x, w, None, activation, target="serial")
    np.testing.assert_allclose(nbops.dense(*there, None, activation).get(), wanted, rtol=1e-5)
    assert nbops.dense(*there, None, activation, out=out) is out
    np.testing.assert_allclose(out.get(), wanted, rtol=1e-5)


def test_labels_of_the_loss(gpu: Any) -> None:
    """A column of labels, and one out of range: nobody looks at it on the CPU."""
    p = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    loss = nbops.sparse_categorical_crossentropy(on(gpu, [[1], [5]], np.int32), on(gpu, p))
    np.testing.assert_allclose(loss.get(), [-np.log(0.75), np.nan], rtol=1e-6)
    with pytest.raises(TypeError, match="label has dtype float32; expected integers"):
        nbops.sparse_categorical_crossentropy(on(gpu, [1, 0], np.float32), on(gpu, p))
    with pytest.raises(TypeError, match="nothing is copied silently"):
        nbops.sparse_categorical_crossentropy(np.array([1, 0]), on(gpu, p))


def test_explain_says_that_they_stay(gpu: Any) -> None:
    x = on(gpu, np.ones((3, 4), np.float32))
    explanation = nbops.explain(nbops.relu, x)
    assert (explanation.decision.target, explanation.decision.rule) == ("cuda", "a device array")
    assert explanation.shapes == ((3, 4), (3, 4))
    calls = nbops.explain(nbops.mean, x, axis=0).calls
    assert [(call.op, call.decision.rule) for call in calls] == [
        ("sum_rows", "a device array"),
        ("divide", "a device array"),
    ]


# ---- what each library is asked for -----------------------------------------------------------------------


class Recording(SimpleNamespace):
    """A module whose functions say what they were called with."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.calls: list[tuple[Any, ...]] = []

    def recorder(self, name: str) -> Any:
        return lambda *arguments, **keywords: self.calls.append((name, arguments, keywords)) or name


def test_cupy_is_asked_for_arrays_views_and_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = Recording(cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=5)))
    cupy.empty, cupy.asarray = cupy.recorder("empty"), cupy.recorder("asarray")
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    library, described = residence.LIBRARIES["cupy"], object()
    assert library.stream(None) == 5
    assert library.empty(None, (2, 3), np.dtype(np.float32)) == "empty"
    assert library.view(None, described) == "asarray"
    assert cupy.calls == [("empty", ((2, 3), np.float32), {}), ("asarray", (described,), {})]


def test_torch_is_asked_for_the_operands_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {"cuda:1": SimpleNamespace(cuda_stream=6)}
    torch = Recording(cuda=SimpleNamespace(current_stream=streams.get), float16="half")
    torch.empty, torch.as_tensor = torch.recorder("empty"), torch.recorder("as_tensor")
    monkeypatch.setitem(sys.modules, "torch", torch)
    library, described = residence.LIBRARIES["torch"], object()
    like = SimpleNamespace(device="cuda:1")
    assert library.stream(like) == 6
    assert library.empty(like, (2,), np.dtype(np.float16)) == "empty"
    assert library.view(like, described) == "as_tensor"
    on_it = {"device": "cuda:1"}
    assert torch.calls == [
        ("empty", ((2,),), {"dtype": "half", **on_it}),
        ("as_tensor", (described,), on_it),
    ]


def test_numba_is_asked_for_the_arrays_of_unknown_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbops.targets.cuda import toolchain

    numba = Recording()
    numba.device_array, numba.as_cuda_array = numba.recorder("empty"), numba.recorder("view")
    monkeypatch.setattr(toolchain, "cuda", numba)
    library, described = residence.library_of(SimpleNamespace()), object()
    assert library.stream(None) is None
    assert library.empty(None, (2,), np.dtype(np.int8)) == "empty"
    assert library.view(None, described) == "view"
    assert numba.calls == [("empty", ((2,), np.int8), {}), ("view", (described,), {"sync": False})]


def test_an_adapter_of_a_tensor_has_no_views() -> None:
    with pytest.raises(TypeError, match="a SimpleNamespace has no views"):
        residence.LIBRARIES["nbops"].view(SimpleNamespace(), None)
