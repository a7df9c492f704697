"""A call like the last one: the short way for small arrays that come again and again.

Checking dtypes, shapes and targets in Python takes longer than a small loop runs. So an op remembers its last
call on one core: for each operand the dtype, the shape and the strides, and the finished frame. When the next
call's arrays are alike, which compiled code sees by reading NumPy's array objects directly, only the pointers
are new: they go into the frame and the task runs. Anything else goes the long way, `nbops.execution`.

The fields are those of ``PyArrayObject_fields`` in NumPy's C API (``numpy/ndarraytypes.h``), part of its
stable ABI. `_fields_are_where_expected` checks them on a real array; where they differ (another interpreter,
say) the short way is never taken. The task runs with the GIL held, which is what lets calls share the one
frame: it is only taken for work under the break-even of a parallel launch, some microseconds.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy import ndarray

from nbops import compiler, dispatch, frame
from nbops.dispatch import remember_decision
from nbops.targets.tasks import call_task, frame_pointer

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["LastCall", "remember"]

# byte offsets of PyArrayObject_fields behind the object's header
HEADER = object.__basicsize__
DATA, NDIM, SHAPE, STRIDES, DTYPE, FLAGS = (HEADER + n for n in (0, 8, 16, 24, 40, 48))
WRITEABLE = 0x0400  # NPY_ARRAY_WRITEABLE
INT32 = 0xFFFFFFFF

# A record: the counts, then one row per operand [dtype, itemsize, extent, shape..., strides...].
N_OPERANDS, N_INPUTS, FRAME, TASK, IN_PLACE, RECORD_ROWS = 0, 1, 2, 3, 4, 5
ROW_DTYPE, ROW_ITEMSIZE, ROW_EXTENT, ROW_NDIM, ROW_SHAPE = 0, 1, 2, 3, 4
MAX_NDIM = 8
ROW_STRIDES = ROW_SHAPE + MAX_NDIM
RECORD_WIDTH = ROW_STRIDES + MAX_NDIM
MAX_OPERANDS = 4


class LastCall:
    """What an op remembers of a call.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        The result's.
    """

    __slots__ = ("_address", "_decision", "_keep", "_n_inputs", "_run", "dtype", "shape")

    def __init__(
        self, address: int, output: np.ndarray, run: Any, decision: dispatch.Decision, keep: tuple[Any, ...]
    ) -> None:
        self.shape = output.shape
        self.dtype = output.dtype
        self._address = address
        self._run = run
        self._n_inputs = len(keep) - N_KEPT - 1
        self._decision = decision
        self._keep = keep

    def run_again(self, inputs: tuple[Any, ...], output: Any) -> bool:
        """Fill `output`, if everything is like last time; False, with nothing done, if not."""
        if type(output) is not ndarray:
            return False
        for x in inputs:
            if type(x) is not ndarray:
                return False
        n = len(inputs)
        if n != self._n_inputs:
            return False
        if n == 2:
            failed = self._run(self._address, id(inputs[0]), id(inputs[1]), id(output), 0)
        elif n == 1:
            failed = self._run(self._address, id(inputs[0]), id(output), 0, 0)
        else:
            failed = self._run(self._address, id(inputs[0]), id(inputs[1]), id(inputs[2]), id(output))
        if failed:
            return False
        remember_decision(self._decision)
        return True


N_KEPT = 2  # the frame and the record; behind them one dtype per operand


def run_again(record: int, a: int, b: int, c: int, d: int) -> int:
    """Run the recorded task on these array objects; 0, or 1 when they are not like the recorded ones."""
    words = frame_pointer(record)
    n_operands = words[N_OPERANDS]
    table = frame_pointer(words[FRAME])
    out = a if n_operands == 1 else (b if n_operands == 2 else (c if n_operands == 3 else d))
    out_start = frame_pointer(out + DATA)[0]
    out_stop = out_start + words[RECORD_ROWS + RECORD_WIDTH * (n_operands - 1) + ROW_EXTENT]
    if frame_pointer(out + FLAGS)[0] & WRITEABLE == 0:
        return 1
    for o in range(n_operands):
        array = a if o == 0 else (b if o == 1 else (c if o == 2 else d))
        row = RECORD_ROWS + RECORD_WIDTH * o
        ndim = words[row + ROW_NDIM]
        if frame_pointer(array + DTYPE)[0] != words[row + ROW_DTYPE]:
            return 1
        if frame_pointer(array + NDIM)[0] & INT32 != ndim:
            return 1
        shape = frame_pointer(frame_pointer(array + SHAPE)[0])
        strides = frame_pointer(frame_pointer(array + STRIDES)[0])
        for axis in range(ndim):
            if shape[axis] != words[row + ROW_SHAPE + axis]:
                return 1
            if strides[axis] != words[row + ROW_STRIDES + axis]:
                return 1
        start = frame_pointer(array + DATA)[0]
        if start & (words[row + ROW_ITEMSIZE] - 1) != 0:
            return 1
        # where operands overlap, only an elementwise op in exactly the same place may go on
        overlapping = start < out_stop and out_start < start + words[row + ROW_EXTENT]
        if o < n_operands - 1 and overlapping and (words[IN_PLACE] == 0 or start != out_start):
            return 1
        table[frame.WIDTH * (1 + o)] = start
    call_task(words[TASK], words[FRAME], 0, table[frame.ITEMS])
    return 0


@functools.cache
def _compiled() -> Any:
    """The C entry point of `run_again`; None where array objects are not laid out as expected."""
    if not _fields_are_where_expected():
        return None
    twin = compiler.specialise(run_again, "entry")
    function: Any = compiler.jit(twin, nogil=False)
    function.compile(types.int64(*[types.int64] * 5))
    (overload,) = function.overloads.values()
    return overload.entry_point, function


def _fields_are_where_expected() -> bool:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    import ctypes

    array = np.zeros((3, 5), np.float32)[:, ::2]

    def word(offset: int) -> int:
        return ctypes.c_int64.from_address(id(array) + offset).value

    def pair(address: int) -> tuple[int, ...]:
        return tuple((ctypes.c_int64 * 2).from_address(address))

    return (
        word(DATA) == array.__array_interface__["data"][0]
        and word(NDIM) & INT32 == 2
        and pair(word(SHAPE)) == array.shape
        and pair(word(STRIDES)) == array.strides
        and word(DTYPE) == id(array.dtype)
        and bool(word(FLAGS) & WRITEABLE)
    )


def remember(
    op: Op, operands: list[np.ndarray], table: np.ndarray, task: int, decision: dispatch.Decision
) -> LastCall | None:
    """What is needed to make this call again; None where the short way can't serve it."""
    n_operands = len(operands)
    output = operands[-1]
    if n_operands - op.n_inputs != 1 or n_operands > MAX_OPERANDS or output.ndim == 0:
        return None
    if any(x.ndim > MAX_NDIM or not x.dtype.isnative or not x.size for x in operands):
        return None
    compiled = _compiled()
    if compiled is None:
        return None
    record = np.zeros(RECORD_ROWS + RECORD_WIDTH * n_operands, np.int64)
    own_frame = table.copy()
    record[:RECORD_ROWS] = (
        n_operands,
        op.n_inputs,
        own_frame.ctypes.data,
        task,
        op.signature.is_elementwise
        and all(x.flags.c_contiguous and x.shape == output.shape for x in operands),
    )
    for o, x in enumerate(operands):
        if min(x.strides, default=0) < 0:
            return None  # its first element is not its lowest address
        row = RECORD_ROWS + RECORD_WIDTH * o
        extent = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) + x.itemsize
        record[row : row + ROW_SHAPE] = id(x.dtype), x.itemsize, extent, x.ndim
        record[row + ROW_SHAPE : row + ROW_SHAPE + x.ndim] = x.shape
        record[row + ROW_STRIDES : row + ROW_STRIDES + x.ndim] = x.strides
    keep = (own_frame, record, *(x.dtype for x in operands))
    return LastCall(record.ctypes.data, output, compiled[0], decision, keep)
