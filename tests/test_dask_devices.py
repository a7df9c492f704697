"""Dask arrays whose chunks are on a GPU, the emulated one: every chunk is dispatched where it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import pytest

import nbops
from nbops.op import registry
from nbops.targets.cuda import residence
from nbops.targets.cuda.devices import EmulatedDevice
from tests.cases import softmax
from tests.targets.cuda import FakeArray, FakeLibrary, needs_compiler

pytestmark = needs_compiler

#: NumPy's functions that Dask calls on chunks and that only rearrange them.
VIEWS = (np.transpose, np.moveaxis, np.expand_dims, np.broadcast_to)


class DeviceChunk(FakeArray):
    """A chunk as CuPy has it: NumPy's functions go to the device's array, and nothing comes to the host."""

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise TypeError("a device array was copied to the host")

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, keywords: Any) -> Any:
        if function is np.empty_like:
            return DeviceChunk(self.device, keywords["shape"], keywords.get("dtype") or self.dtype)
        if function is np.arange:
            return on_device(self.device, np.arange(*arguments, **keywords))
        if function is np.concatenate:
            return on_device(self.device, np.concatenate([x.get() for x in arguments[0]], *arguments[1:]))
        if function in VIEWS:
            return self._view(function(self._addresses(), *arguments[1:], **keywords))
        return NotImplemented

    def __getitem__(self, key: Any) -> DeviceChunk:
        return self._view(self._addresses()[key])

    def transpose(self, *axes: Any) -> DeviceChunk:
        return self._view(self._addresses().transpose(*axes))

    def reshape(self, *shape: Any) -> DeviceChunk:
        return self._view(self._addresses().reshape(*shape))

    def sum(self) -> DeviceChunk:
        return on_device(self.device, self.get().sum())

    def astype(self, dtype: Any, copy: bool = True) -> DeviceChunk:
        same = np.dtype(dtype) == self.dtype and not copy
        return self if same else on_device(self.device, self.get().astype(dtype))

    def _addresses(self) -> np.ndarray:
        """An array of the device's address, for its shape and strides alone."""
        return residence.address_of(self, "chunk", "x")

    def _view(self, view: np.ndarray) -> DeviceChunk:
        result = object.__new__(DeviceChunk)
        result.__dict__.update(self.__dict__)
        result.shape, result.strides, result.address = (
            view.shape,
            view.strides,
            view.__array_interface__["data"][0],
        )
        return result


class DeviceLibrary(FakeLibrary):
    """Whose arrays are `DeviceChunk`."""

    def empty(self, like: FakeArray, shape: tuple[int, ...], dtype: Any) -> FakeArray:
        return DeviceChunk(like.device, shape, dtype)


def on_device(device: EmulatedDevice, array: np.ndarray) -> DeviceChunk:
    result = DeviceChunk(device, array.shape, array.dtype)
    result.fill(array)
    return result


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedDevice]:
    monkeypatch.setitem(residence.LIBRARIES, "tests", DeviceLibrary())
    with nbops.use("cuda-emulator") as device:
        yield device


def resident(device: EmulatedDevice, array: np.ndarray, chunks: Any) -> Any:
    """A Dask array of chunks on the device."""
    cut = da.from_array(array, chunks=chunks)
    meta = DeviceChunk(device, (0,) * array.ndim, array.dtype)
    return cut.map_blocks(lambda chunk: on_device(device, np.asarray(chunk)), dtype=array.dtype, meta=meta)


def gathered(result: Any) -> np.ndarray:
    """All chunks on the host, each asked for by itself; they must be on the device."""
    assert isinstance(result._meta, DeviceChunk)
    assert result._meta.dtype == result.dtype

    def get(chunk: Any) -> np.ndarray:
        assert type(chunk) is DeviceChunk
        return chunk.get()

    meta = np.empty((0,) * result.ndim, result.dtype)
    return result.map_blocks(get, dtype=result.dtype, meta=meta).compute(scheduler="sync")


def test_every_op_runs_on_the_chunks_device(gpu: EmulatedDevice, rng: np.random.Generator) -> None:
    """Elementwise, a contraction in a tree, a reduction, and rows in pieces."""
    x, y = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 5)))
    a, b = resident(gpu, x, (3, 3)), resident(gpu, y, (3, 5))
    for result, wanted in (
        (nbops.relu(a), np.maximum(x, 0)),
        (nbops.add(a, a), x + x),
        (nbops.multiply(a, 0.5), x * np.float32(0.5)),
        (nbops.matmul(a, b), x @ y),
        (nbops.sum(a, axis=0), x.sum(0)),
        (nbops.softmax(a), softmax(x)),
        (nbops.softmax(a, axis=0), softmax(x, 0)),
    ):
        np.testing.assert_allclose(gathered(result), wanted, rtol=0, atol=1e-5)


def test_positions_along_a_row_are_on_its_device(gpu: EmulatedDevice) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    label = resident(gpu, np.array([3, 0, 2]), 2)
    rows = resident(gpu, x, (2, 3))
    hidden = da.Array(rows.dask, rows.name, ((2, 1), (np.nan, np.nan)), meta=rows._meta)
    for own in (rows, hidden):
        np.testing.assert_array_equal(gathered(registry["take_label"](label, own)), [3, 4, 10])


def test_no_chunk_moves_silently(gpu: EmulatedDevice) -> None:
    """A host array beside them is refused before anything is computed."""
    there = resident(gpu, np.ones((4, 4), np.float32), 2)
    for here in (np.ones((4, 4), np.float32), da.ones((4, 4), chunks=2)):
        with pytest.raises(TypeError, match="y is a ndarray on the CPU, but another operand"):
            nbops.add(there, here)


def test_an_array_on_the_device_goes_with_its_chunks(gpu: EmulatedDevice) -> None:
    there = resident(gpu, np.ones((4, 4), np.float32), 2)
    result = nbops.add(there, on_device(gpu, np.arange(4, dtype=np.float32)))
    np.testing.assert_array_equal(gathered(result), np.ones((4, 4)) + np.arange(4))


def test_explain_sends_every_chunk_to_its_device(gpu: EmulatedDevice) -> None:
    there = resident(gpu, np.ones((6, 4), np.float32), (2, 4))
    explanation = nbops.explain(nbops.relu, there)
    assert explanation.by_target == {"cuda": 3}
    assert "a DeviceChunk stays on its GPU" in str(explanation)
