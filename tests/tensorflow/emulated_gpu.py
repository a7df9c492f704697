"""TensorFlow with an emulated GPU: the GPU's compute function as the kernel of TensorFlow's CPU.

What runs is TensorFlow's executor and our compiled compute function. Between them stands a table of
TensorFlow's C functions of which four are Python's: a tensor's data are in the emulator's memory, where
inputs are copied to and outputs from. The driver's functions are Python's too, and a launch executes the
kernel's PTX.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from nbops.op import registry
from nbops.targets.cuda import driver, toolchain
from nbops.tensorflow import c_api, gpu, native, registration
from nbops.tensorflow.c_api import CALLED_BY_KERNELS, INDEX
from tests.targets.cuda import FakeDriverLibrary, bytes_at

_WORD, _INT = ctypes.c_int64, ctypes.c_int
#: The functions of TensorFlow that are replaced: their results and arguments.
REPLACED: dict[str, tuple[Any, ...]] = {
    "TF_TensorData": (_WORD, _WORD),
    "TF_AllocateOutput": (_WORD, _WORD, _INT, _INT, _WORD, _INT, ctypes.c_size_t, _WORD),
    "TF_AllocateTemp": (_WORD, _WORD, _INT, _WORD, _INT, _WORD, _WORD),
    "TF_DeleteTensor": (None, _WORD),
}


class EmulatedGpu:
    """The ops of nbops, registered once more, for TensorFlow's CPU, with the kernels of its GPU.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Whose scope is that of the fake driver.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library = FakeDriverLibrary()
        self.fake_driver = driver.Driver(self.library)
        self.addresses: dict[int, int] = {}  # by tensor
        self.outputs: set[int] = set()
        self.scratch: set[int] = set()
        self.unwritten: list[int] = []
        self._own = {name: c_api.function(name, *types) for name, types in REPLACED.items()}
        self._callbacks = {
            name: ctypes.CFUNCTYPE(*types)(getattr(self, f"_{name}")) for name, types in REPLACED.items()
        }
        table = c_api._addresses().copy()
        for name, callback in self._callbacks.items():
            table[INDEX[name]] = ctypes.cast(callback, ctypes.c_void_p).value or 0
        assert set(REPLACED) <= set(CALLED_BY_KERNELS)
        self._table = table
        monkeypatch.setattr(driver, "load", lambda: self.fake_driver)
        monkeypatch.setattr(toolchain, "compile_cubin", lambda ptx, cc: ptx.encode())
        self.ops = self.register(monkeypatch, list(registry.values()))

    def register(self, monkeypatch: pytest.MonkeyPatch, ops: list[Any]) -> dict[Any, Any]:
        """Register ops with the kernels of a GPU for TensorFlow's CPU."""
        with monkeypatch.context() as patch:
            patch.setattr(gpu, "available", lambda: True)
            patch.setattr(registration, "_kernels", lambda: {"CPU": gpu.compute_native})
            patch.setattr(registration, "address_table", lambda: int(self._table.ctypes.data))
            return registration.register(ops)

    def records(self, op: Any) -> int:
        """How many shapes of an op have been planned."""
        entry = self.ops[op, (False,) * op.n_inputs]
        heads = gpu._words_at(int(entry.descriptor[native.PLANS]), len(gpu.FUNCTIONS) + gpu.BUCKETS)
        count = 0
        for record in heads[len(gpu.FUNCTIONS) :]:
            while record:
                count += 1
                record = gpu._words_at(int(record), 1)[gpu.NEXT]
        return count

    def check(self) -> None:
        """Raise what went wrong inside a callback; nothing may be left over."""
        if self.library.errors:
            raise self.library.errors[0]
        assert not self.unwritten, "an output has elements that no kernel wrote"
        assert not self.addresses, "a tensor was not deleted"
        assert self.library.context_depth == 0

    # ---- TensorFlow's functions ------------------------------------------------------------------------

    def _TF_TensorData(self, tensor: int) -> int:  # noqa: N802 - TensorFlow's names
        if tensor not in self.addresses:
            nbytes = _size(tensor)
            self.addresses[tensor] = self.library.emulator.allocate(nbytes)
            if nbytes and tensor not in self.outputs | self.scratch:
                place = bytes_at(self._own["TF_TensorData"](tensor), nbytes)
                self.library.emulator.write(self.addresses[tensor], place)
        return self.addresses[tensor]

    def _TF_AllocateOutput(self, *arguments: int) -> int:  # noqa: N802
        tensor = int(self._own["TF_AllocateOutput"](*arguments))
        self.outputs.add(tensor)
        return tensor

    def _TF_AllocateTemp(self, *arguments: int) -> int:  # noqa: N802
        tensor = int(self._own["TF_AllocateTemp"](*arguments))
        self.scratch.add(tensor)
        return tensor

    def _TF_DeleteTensor(self, tensor: int) -> None:  # noqa: N802
        address = self.addresses.pop(tensor, None)
        nbytes = _size(tensor)
        if address is not None:
            if nbytes and tensor in self.outputs:
                region = self.library.emulator.memory.at(address)
                if not self.library.failing and region is not None and not region.complete:
                    self.unwritten.append(tensor)
                place = bytes_at(self._own["TF_TensorData"](tensor), nbytes)
                self.library.emulator.read(address, place)
            self.library.emulator.free(address)
        self.outputs.discard(tensor)
        self.scratch.discard(tensor)
        self._own["TF_DeleteTensor"](tensor)


def _size(tensor: int) -> int:
    return int(c_api.function("TF_TensorByteSize", ctypes.c_size_t, _WORD)(tensor))


def to_numpy(results: Any) -> Any:
    return tuple(x.numpy() for x in results) if isinstance(results, tuple | list) else results.numpy()
