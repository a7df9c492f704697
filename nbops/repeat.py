"""A call like an earlier one: the short way for arrays that come again and again.

Checking dtypes, shapes and targets in Python takes longer than a small loop runs. So an op remembers its
last few calls: for each operand the dtype, the shape and the strides, and with them the finished frame. When
the next call's arrays are alike, only the pointers are new: they go into the frame and the task runs. A call
inside `nbops.use` is remembered with the settings there, and is like those with the same. Anything else goes
the long way, `nbops.execution`.

`entry` is a function of CPython's C API (``METH_FASTCALL | METH_KEYWORDS``), written in Python and compiled:
it reads NumPy's array objects directly and makes the results. It takes the place of `Op.__call__` once there
is a call to remember. The fields that it reads are those of ``PyArrayObject_fields`` (NumPy's
``ndarraytypes.h``) and ``PyTupleObject``, part of stable ABIs; `_fields_are_where_expected` checks them on
real objects, and where they differ (another interpreter, say) the short way is never taken.

The GIL keeps the frames from being used twice at once. It is held for work under the break-even of a parallel
launch, some microseconds; for longer work it is released, and the frame marked as busy.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numba import types
from numpy import ndarray

from nbops import compiler, dispatch, frame
from nbops.settings import settings_variable
from nbops.targets import cpu
from nbops.targets.calls import call_word
from nbops.targets.tasks import call_task, frame_pointer

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["ShortWay", "remember"]

# Byte offsets in CPython's and NumPy's objects.
TYPE = object.__basicsize__ - 8
DATA, NDIM, SHAPE, STRIDES, DTYPE, FLAGS = (object.__basicsize__ + n for n in (0, 8, 16, 24, 40, 48))
LENGTH, ITEMS_OF_TUPLE = object.__basicsize__, object.__basicsize__ + 8
WRITEABLE = 0x0400  # NPY_ARRAY_WRITEABLE
INT32 = 0xFFFFFFFF

# An op's words: what `entry` finds behind its `self`.
API, LONG_WAY, OUT_NAME, ARRAY_TYPE, TUPLE_TYPE = range(5)
NONE, IN_USE, SETTINGS_VARIABLE, DECISION_VARIABLE, SCRATCH, COUNT, RECORDS = range(5, 12)
MAX_RECORDS = 8
# C functions, by their place in the table of addresses.
VECTORCALL, SAVE_THREAD, RESTORE_THREAD, GET_VARIABLE, SET_VARIABLE, INCREF, DECREF = range(7)
NEW_TUPLE, SET_ITEM, NEW_ARRAY, TO_SCALAR, RUN = range(7, 12)

# A record: the call, then one row per operand.
N_INPUTS, N_OUTPUTS, FRAME, SERIAL, PARALLEL, WORKERS, GRAIN = range(7)
FRESH, RELEASE, BUSY, DECISION, SETTINGS, ROWS = range(7, 13)
ROW_DTYPE, ROW_ITEMSIZE, ROW_EXTENT, ROW_IN_PLACE, ROW_NDIM, ROW_SHAPE = range(6)
MAX_NDIM = 8
ROW_STRIDES = ROW_SHAPE + MAX_NDIM
ROW_WIDTH = ROW_STRIDES + MAX_NDIM
MAX_OPERANDS = 6


# ---- compiled ---------------------------------------------------------------------------------------


def is_like(record: int, index: int, array: int, array_type: int) -> Any:
    """Whether an object is an array with the dtype, shape and strides of a record's operand."""
    row = record + 8 * (ROWS + ROW_WIDTH * index)
    expected = frame_pointer(row)
    if frame_pointer(array + TYPE)[0] != array_type:
        return False
    ndim = expected[ROW_NDIM]
    if frame_pointer(array + DTYPE)[0] != expected[ROW_DTYPE]:
        return False
    if frame_pointer(array + NDIM)[0] & INT32 != ndim:
        return False
    shape = frame_pointer(frame_pointer(array + SHAPE)[0])
    strides = frame_pointer(frame_pointer(array + STRIDES)[0])
    for axis in range(ndim):
        if shape[axis] != expected[ROW_SHAPE + axis] or strides[axis] != expected[ROW_STRIDES + axis]:
            return False
    return frame_pointer(array + DATA)[0] & (expected[ROW_ITEMSIZE] - 1) == 0


def fits(
    record: int, chosen: int, given: Any, n_inputs: int, out: int, array_type: int, tuple_type: int
) -> Any:
    """Whether a call is like the recorded one, and may write where it is told to."""
    words = frame_pointer(record)
    if words[N_INPUTS] != n_inputs or words[BUSY] != 0 or words[SETTINGS] != chosen:
        return False
    for index in range(n_inputs):
        if not is_like(record, index, given[index], array_type):
            return False
    if out == 0:
        return words[FRESH] != 0
    n_outputs = words[N_OUTPUTS]
    if n_outputs > 1:
        is_tuple = frame_pointer(out + TYPE)[0] == tuple_type
        if not is_tuple or frame_pointer(out + LENGTH)[0] != n_outputs:
            return False
    for o in range(n_outputs):
        output = output_of(out, n_outputs, o)
        if not is_like(record, n_inputs + o, output, array_type):
            return False
        if frame_pointer(output + FLAGS)[0] & WRITEABLE == 0:
            return False
        start = frame_pointer(output + DATA)[0]
        stop = start + words[ROWS + ROW_WIDTH * (n_inputs + o) + ROW_EXTENT]
        for index in range(n_inputs + o):
            if index < n_inputs:
                other = frame_pointer(given[index] + DATA)[0]
            else:
                other = frame_pointer(output_of(out, n_outputs, index - n_inputs) + DATA)[0]
            overlapping = other < stop and start < other + words[ROWS + ROW_WIDTH * index + ROW_EXTENT]
            in_place = words[ROWS + ROW_WIDTH * index + ROW_IN_PLACE] >> o & 1
            if overlapping and (in_place == 0 or other != start):
                return False
    return True


def output_of(out: int, n_outputs: int, index: int) -> Any:
    """An output from what came as ``out=``: the array itself, or a tuple of several."""
    return out if n_outputs == 1 else frame_pointer(out + ITEMS_OF_TUPLE)[index]


def new_array(api: Any, record: int, index: int, array_type: int) -> Any:
    """A new array for an output; 0, with MemoryError set, when there is no room."""
    row = record + 8 * (ROWS + ROW_WIDTH * index)
    words = frame_pointer(row)
    call_word(api[INCREF], words[ROW_DTYPE])
    return call_word(
        api[NEW_ARRAY], array_type, words[ROW_DTYPE], words[ROW_NDIM], row + 8 * ROW_SHAPE,
        row + 8 * ROW_STRIDES, 0, 0, 0,
    )  # fmt: skip


def run_record(record: int, op_words: Any, given: Any, out: int) -> Any:
    """Make the call; a new reference to what it returns, or 0 with an exception set."""
    words, api = frame_pointer(record), frame_pointer(op_words[API])
    n_inputs, n_outputs = words[N_INPUTS], words[N_OUTPUTS]
    table = frame_pointer(words[FRAME])
    result = out
    if out != 0:
        call_word(api[INCREF], out)
        for index in range(n_outputs):
            array = output_of(out, n_outputs, index)
            table[frame.WIDTH * (1 + n_inputs + index)] = frame_pointer(array + DATA)[0]
    else:
        if n_outputs > 1:
            result = call_word(api[NEW_TUPLE], n_outputs)
        for index in range(n_outputs):
            array = new_array(api, record, n_inputs + index, op_words[ARRAY_TYPE])
            if array == 0:
                if n_outputs > 1:
                    call_word(api[DECREF], result)
                return 0
            table[frame.WIDTH * (1 + n_inputs + index)] = frame_pointer(array + DATA)[0]
            if n_outputs > 1:
                call_word(api[SET_ITEM], result, index, array)
            else:
                result = array
    for index in range(n_inputs):
        table[frame.WIDTH * (1 + index)] = frame_pointer(given[index] + DATA)[0]
    if words[RELEASE] == 0:
        call_task(words[SERIAL], words[FRAME], 0, table[frame.ITEMS])
    else:
        words[BUSY] = 1
        thread = call_word(api[SAVE_THREAD])
        call_word(
            api[RUN], state(), words[SERIAL], words[PARALLEL], words[FRAME], table[frame.ITEMS],
            words[WORKERS], words[GRAIN],
        )  # fmt: skip
        call_word(api[RESTORE_THREAD], thread)
        words[BUSY] = 0
    # `last_decision` is this one; to look is cheaper than to set.
    scratch = frame_pointer(op_words[SCRATCH])
    call_word(api[GET_VARIABLE], op_words[DECISION_VARIABLE], 0, op_words[SCRATCH])
    if scratch[0] != words[DECISION]:
        call_word(api[DECREF], call_word(api[SET_VARIABLE], op_words[DECISION_VARIABLE], words[DECISION]))
    if scratch[0] != 0:
        call_word(api[DECREF], scratch[0])
    if out == 0 and n_outputs == 1 and words[ROWS + ROW_WIDTH * n_inputs + ROW_NDIM] == 0:
        return call_word(api[TO_SCALAR], result)
    return result


def entry(this: int, arguments: int, n_arguments: int, names: int) -> Any:
    """``op(*arguments, **keywords)``, as CPython calls it; a new reference, or 0 with an exception set."""
    words = frame_pointer(frame_pointer(this + DATA)[0])
    given = frame_pointer(arguments)
    out, known = 0, True
    if names != 0:
        for keyword in range(frame_pointer(names + LENGTH)[0]):
            value = given[n_arguments + keyword]
            if value == words[NONE]:
                continue
            if frame_pointer(names + ITEMS_OF_TUPLE)[keyword] == words[OUT_NAME]:
                out = value
            else:
                known = False
    api = frame_pointer(words[API])
    if known:
        chosen = words[NONE]  # the settings of `nbops.use`; looked for only where there may be some
        if frame_pointer(words[IN_USE])[0] != 0:
            call_word(api[GET_VARIABLE], words[SETTINGS_VARIABLE], 0, words[SCRATCH])
            chosen = frame_pointer(words[SCRATCH])[0]
            if chosen != 0:
                call_word(api[DECREF], chosen)
        for index in range(words[COUNT]):
            record = words[RECORDS + index]
            if fits(record, chosen, given, n_arguments, out, words[ARRAY_TYPE], words[TUPLE_TYPE]):
                return run_record(record, words, given, out)
    return call_word(api[VECTORCALL], words[LONG_WAY], arguments, n_arguments, names)


def state() -> int:
    """Stands in for the address of `nbops.targets.cpu.STATE`."""
    raise NotImplementedError


@functools.cache
def _entry_address() -> int:
    """The machine code of `entry`; 0 where objects are not laid out as expected."""
    if numba.config.BOUNDSCHECK or not _fields_are_where_expected():
        return 0  # bounds are checked on the long way, which can raise
    compiler.add_symbol("nbops_state", cpu.state_address)
    helpers: dict[str, Any] = {"state": compiler.symbol_address("nbops_state")}
    for function in (is_like, output_of, fits, new_array, run_record):
        helpers[function.__name__] = compiler.part(compiler.specialise(function, "entry", **helpers))
    twin = compiler.specialise(entry, "entry", **helpers)
    _keep.append(compiler.native(types.int64(*[types.int64] * 4), twin))
    return int(_keep[-1].address)


def prepare() -> None:
    """Compile, or load, what the short way needs."""
    _entry_address()


#: What compiled code points to, for as long as the process lives.
_keep: list[Any] = []


def _fields_are_where_expected() -> bool:
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False

    def words(address: int, count: int = 1) -> tuple[int, ...]:
        return tuple((ctypes.c_int64 * count).from_address(address))

    array, pair = np.zeros((3, 5), np.float32)[:, ::2], ("a", "b")
    expected = {
        TYPE: id(ndarray),
        DATA: array.__array_interface__["data"][0],
        DTYPE: id(array.dtype),
    }
    return (
        all(words(id(array) + offset) == (value,) for offset, value in expected.items())
        and words(id(array) + NDIM)[0] & INT32 == 2
        and words(words(id(array) + SHAPE)[0], 2) == array.shape
        and words(words(id(array) + STRIDES)[0], 2) == array.strides
        and bool(words(id(array) + FLAGS)[0] & WRITEABLE)
        and words(id(pair) + LENGTH, 3) == (2, id(pair[0]), id(pair[1]))
    )


@functools.cache
def _api() -> np.ndarray:
    """The addresses of the C functions that `entry` calls."""
    multiarray: Any = importlib.import_module("numpy._core._multiarray_umath")

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    array_api = (ctypes.c_int64 * 128).from_address(get(multiarray._ARRAY_API, None))
    python = [
        ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        for name in (
            "PyObject_Vectorcall", "PyEval_SaveThread", "PyEval_RestoreThread", "PyContextVar_Get",
            "PyContextVar_Set", "Py_IncRef", "Py_DecRef", "PyTuple_New", "PyTuple_SetItem",
        )
    ]  # fmt: skip
    # numpy/__multiarray_api.h: PyArray_NewFromDescr and PyArray_Return
    return np.array([*python, array_api[94], array_api[76], cpu.run_native().address], np.int64)


# ---- remembering ------------------------------------------------------------------------------------


class _MethodDefinition(ctypes.Structure):
    """CPython's ``PyMethodDef``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


class ShortWay:
    """An op's remembered calls, and the builtin function that makes them again.

    Attributes
    ----------
    call : builtin function
        ``call(*operands, out=None, ...)``; what is like no remembered call goes to the op's own method.
    """

    def __init__(self, op: Op, entry_address: int) -> None:
        self._scratch = np.zeros(1, np.int64)
        self._words = np.zeros(RECORDS + MAX_RECORDS, np.int64)
        self._out_name = sys.intern("out")
        self._long_way = op.call_any_way
        self._records: list[tuple[np.ndarray, Any]] = []
        self._oldest = 0
        self._words[:RECORDS] = (
            _api().ctypes.data,
            id(self._long_way),
            id(self._out_name),
            id(ndarray),
            id(tuple),
            id(None),
            cpu.state_address + 8 * cpu.IN_USE,
            id(settings_variable),
            id(dispatch.decision_variable),
            self._scratch.ctypes.data,
            0,
        )
        fastcall_with_keywords = 0x0080 | 0x0002
        self._definition = _MethodDefinition(op.name.encode(), entry_address, fastcall_with_keywords, None)
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
        self.call = new(ctypes.addressof(self._definition), self._words, None)

    def add(self, record: np.ndarray, keep: Any) -> None:
        """Remember a call; the oldest one is forgotten when there are too many."""
        place = len(self._records)
        if place < MAX_RECORDS:
            self._records.append((record, keep))
        else:
            place = self._oldest
            if self._records[place][0][BUSY]:  # another thread is in it
                return
            self._oldest = (place + 1) % MAX_RECORDS
            self._records[place] = (record, keep)
        self._words[RECORDS + place] = record.ctypes.data
        self._words[COUNT] = len(self._records)


def remember(
    op: Op,
    operands: list[np.ndarray],
    table: np.ndarray,
    tasks: tuple[int, int],
    grain: int,
    decision: dispatch.Decision,
    fresh: bool,
) -> None:
    """Keep what is needed to make this call again, where the short way can serve it.

    Parameters
    ----------
    op : Op
    operands : list of ndarray
        As the loop sees them.
    table : ndarray
        The frame.
    tasks : tuple of int
        The serial and the parallel task's address.
    grain : int
    decision : Decision
    fresh : bool
        Whether the outputs are new arrays, such as a call without ``out=`` should make.
    """
    n_operands, n_outputs = len(operands), len(operands) - op.n_inputs
    if n_operands > MAX_OPERANDS or (n_outputs > 1 and min(x.ndim for x in operands[op.n_inputs :]) == 0):
        return
    for x in operands:
        if x.ndim > MAX_NDIM or not x.dtype.isnative or not x.size or min(x.strides, default=0) < 0:
            return  # with a negative stride, its first element is not its lowest address
    address = _entry_address()
    if not address:
        return
    own_frame = table.copy()
    record = np.zeros(ROWS + ROW_WIDTH * n_operands, np.int64)
    release = decision.rule != "small"
    chosen = dispatch.chosen_here()
    record[:ROWS] = (
        op.n_inputs, n_outputs, own_frame.ctypes.data, *tasks, decision.workers, grain, fresh,
        release, 0, id(decision), id(chosen),
    )  # fmt: skip
    for index, x in enumerate(operands):
        row = record[ROWS + ROW_WIDTH * index :]
        extent = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) + x.itemsize
        in_place = sum(  # a bit for each output that may be written over this input, at the same place
            1 << number
            for number, output in enumerate(operands[op.n_inputs :])
            if index < op.n_inputs
            and index in op.overwritten(number)
            and (x.shape, x.strides, x.itemsize) == (output.shape, output.strides, output.itemsize)
        )
        row[:ROW_SHAPE] = id(x.dtype), x.itemsize, extent, in_place, x.ndim
        row[ROW_SHAPE : ROW_SHAPE + x.ndim] = x.shape
        row[ROW_STRIDES : ROW_STRIDES + x.ndim] = x.strides
    if op.short_way is None:
        op.short_way = ShortWay(op, address)
        type(op).__call__ = op.short_way.call  # type: ignore[method-assign]
    op.short_way.add(record, (own_frame, decision, chosen, [x.dtype for x in operands]))
