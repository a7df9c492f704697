"""Arrays on a GPU that come by DLPack: its C structure as NumPy and TensorFlow fill it, and a fake tensor."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets.cuda import devices, dlpack, is_device_array
from nbops.targets.cuda.devices import EmulatedDevice
from tests.targets.cuda import FakeArray, needs_compiler


class ManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", dlpack._Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class FakeTensor(FakeArray):
    """TensorFlow's eager tensor on a GPU, as far as DLPack goes: an array in the emulator's memory."""

    device_type = dlpack.CUDA

    @property
    def __cuda_array_interface__(self) -> Any:
        raise AttributeError

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device_type, 0

    def __dlpack__(self, *, stream: Any = None) -> Any:
        if stream is not None:
            raise RuntimeError("tf.Tensor does not support DLPack export with a non-None stream")
        code = {"i": 0, "u": 1, "f": 2, "c": 5}[self.dtype.kind]
        shape = (ctypes.c_int64 * len(self.shape))(*self.shape)
        self.managed = ManagedTensor(
            dlpack._Tensor(
                self.address,
                self.device_type,
                0,
                len(self.shape),
                code,
                8 * self.dtype.itemsize,
                1,
                shape,
                None,
                0,
            )
        )
        return capsule_of(self.managed)


class ByDLPack(FakeTensor):
    """A library's array that takes a stream."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        assert stream == dlpack.LEGACY_STREAM
        return super().__dlpack__()


def capsule_of(managed: ManagedTensor) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(managed), b"dltensor", None)


def interface_of(x: Any) -> dict[str, Any]:
    return dlpack.Imported(x).__cuda_array_interface__


class TakesAStream:
    """NumPy's arrays refuse a stream, too."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, *, stream: Any = None) -> Any:
        return self.array.__dlpack__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_])
def test_the_structure_as_numpy_fills_it(dtype: Any) -> None:
    whole = np.zeros((4, 6, 2), dtype)
    for x in (whole, whole[1:, ::2, 1], whole.T, whole[0, 0, 0:1]):
        found = interface_of(TakesAStream(x))
        assert found["shape"] == x.shape
        assert found["data"][0] == x.__array_interface__["data"][0]
        assert np.dtype(found["typestr"]) == x.dtype
        assert found["strides"] in (x.strides, None)


def test_the_structure_as_tensorflow_fills_it() -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from nbops.tensorflow.device_tensor import DeviceTensor

    for dtype in (tf.float32, tf.float64, tf.int64):
        x = tf.reshape(tf.range(6, dtype=dtype), (2, 3))
        if hasattr(x, "__dlpack__"):  # TensorFlow 2.18 has none
            with pytest.raises(RuntimeError, match="stream"):
                dlpack.Imported(x)
        found = interface_of(DeviceTensor(x))
        assert (found["shape"], np.dtype(found["typestr"])) == ((2, 3), x.dtype.as_numpy_dtype)
        memory = (ctypes.c_char * 6 * x.dtype.size).from_address(found["data"][0])
        np.testing.assert_array_equal(np.frombuffer(memory, x.dtype.as_numpy_dtype), range(6))
    half = tf.constant([1.0], tf.bfloat16)
    with pytest.raises(TypeError, match="16 bits and type code 4"):
        dlpack.Imported(DeviceTensor(half))


def test_what_is_on_a_gpu() -> None:
    assert not is_device_array(np.ones(3))
    assert not is_device_array(3.0)
    gpu = EmulatedDevice()
    assert is_device_array(FakeTensor(gpu, (2,), np.float32))
    assert is_device_array(FakeArray(gpu, (2,), np.float32))
    on_cpu = FakeTensor(gpu, (2,), np.float32)
    on_cpu.device_type = 1
    assert not is_device_array(on_cpu)


@needs_compiler
def test_arrays_by_dlpack_go_in_and_their_library_makes_the_result(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    from nbops.targets.cuda import residence
    from tests.targets.cuda import FakeLibrary

    class Library(FakeLibrary):
        def empty(self, like: Any, shape: Any, dtype: Any) -> Any:
            return ByDLPack(like.device, shape, dtype)

    monkeypatch.setitem(residence.LIBRARIES, "tests", Library())
    a, b = rng.random((3, 4), np.float32), rng.random((4, 2), np.float32)
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.matmul(*(ByDLPack(gpu, x.shape, x.dtype).fill(x) for x in (a, b)))
        assert type(result) is ByDLPack
        np.testing.assert_allclose(result.get(), a @ b, rtol=1e-5)
        out = ByDLPack(gpu, (3, 4), np.float32)
        assert nbops.add(ByDLPack(gpu, a.shape, a.dtype).fill(a), 1, out=out) is out
        np.testing.assert_allclose(out.get(), a + 1, rtol=1e-6)


@needs_compiler
def test_eager_tensors_on_a_gpu_through_the_adapter(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The fallback's way: DLPack without a stream in, TensorFlow's own new tensor out."""
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from nbops.tensorflow import device_tensor, fallback

    gpu = EmulatedDevice()
    waited: list[int] = []
    monkeypatch.setattr(gpu, "synchronize", waited.append)
    monkeypatch.setattr(devices, "default_device", lambda target: gpu)
    monkeypatch.setattr(
        device_tensor.DeviceTensor,
        "empty",
        lambda self, shape, dtype: device_tensor.DeviceTensor(FakeTensor(gpu, shape, dtype)),
    )
    a, b = rng.random((3, 4), np.float32), rng.random((4, 2), np.float32)
    tensors = [FakeTensor(gpu, x.shape, x.dtype).fill(x) for x in (a, b)]
    (result,) = device_tensor.call(nbops.matmul, tensors)
    np.testing.assert_allclose(result.get(), a @ b, rtol=1e-5)
    assert waited[-1] == 0
    assert not device_tensor.are_on_gpu([tf.ones(3)])
    taken: list[Any] = []
    monkeypatch.setattr(device_tensor, "are_on_gpu", lambda tensors: True)
    monkeypatch.setattr(device_tensor, "call", lambda op, tensors: taken.append(op) or [tf.ones((3, 2))])
    assert fallback.call(nbops.matmul, [tf.constant(a), tf.constant(b)], (False, False)).shape == (3, 2)
    assert taken == [nbops.matmul]


def test_operands_on_two_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = EmulatedDevice(), EmulatedDevice()
    monkeypatch.setattr(devices, "default_device", lambda target: first)
    x, y = FakeArray(first, (2,), np.float32), FakeArray(second, (2,), np.float32)
    where = {x.address: first, y.address + (1 << 40): second}
    y.address += 1 << 40
    monkeypatch.setattr(first, "holding", where.__getitem__)
    with pytest.raises(TypeError, match=r"add: x is on .* y is on .*copy the operands to one GPU"):
        nbops.add(x, y)


@needs_compiler
def test_a_tensor_with_a_gradient_is_read_without(rng: np.random.Generator) -> None:
    """PyTorch's refuses the interface with an error that is no AttributeError."""

    class WithGradient(FakeArray):
        requires_grad = True

        @property
        def __cuda_array_interface__(self) -> Any:
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

        def detach(self) -> FakeArray:
            return plain

    with nbops.use("cuda-emulator") as gpu:
        plain = FakeArray(gpu, (3,), np.float32).fill(np.array([-1, 0, 2]))
        x = WithGradient(gpu, (3,), np.float32)
        out = FakeArray(gpu, (3,), np.float32)
        nbops.relu(x, out=out)
        np.testing.assert_array_equal(out.get(), [0, 0, 2])
