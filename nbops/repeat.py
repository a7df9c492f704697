"""A call like an earlier one: the short way for arrays that come again and again.

Checking dtypes, shapes and targets in Python takes longer than a small loop runs. So an op remembers its
last few calls (`nbops.remember`): of each array the dtype, the shape and the strides, of each number the
type, and with them the finished frame. When the next call's operands are alike, only the pointers and the
numbers are new: they go into the frame and the task runs. A call inside `nbops.use` is remembered with the
settings there, and is like those with the same. Anything else goes the long way, `nbops.execution`.

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
from typing import Any

import numba
import numpy as np
from numba import types
from numpy import ndarray

from nbops import compiler, frame
from nbops.targets import cpu
from nbops.targets.calls import call_int, call_word
from nbops.targets.tasks import call_task, frame_pointer

__all__ = ["addresses", "entry_address"]

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
NEW_TUPLE, SET_ITEM, CLEAR_ERROR, PACK, NEW_ARRAY, TO_SCALAR, RUN = range(7, 14)

# A record: the call, then one row per operand.
N_INPUTS, N_OUTPUTS, FRAME, SERIAL, PARALLEL, WORKERS, GRAIN = range(7)
FRESH, RELEASE, BUSY, DECISION, SETTINGS, ROWS = range(7, 13)
# A number's row has its type and room for its value; an array's has 0 for both.
ROW_NUMBER, ROW_VALUE, ROW_DTYPE, ROW_ITEMSIZE, ROW_EXTENT, ROW_IN_PLACE, ROW_NDIM, ROW_SHAPE = range(8)
MAX_NDIM = 8
ROW_STRIDES = ROW_SHAPE + MAX_NDIM
ROW_WIDTH = ROW_STRIDES + MAX_NDIM
MAX_OPERANDS = 6


# ---- compiled ---------------------------------------------------------------------------------------


def is_like(record: int, index: int, array: int, array_type: int) -> Any:
    """Whether an object is like a record's operand: its dtype, shape and strides, or its type of number."""
    row = record + 8 * (ROWS + ROW_WIDTH * index)
    expected = frame_pointer(row)
    if expected[ROW_NUMBER] != 0:
        return frame_pointer(array + TYPE)[0] == expected[ROW_NUMBER]
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
            if words[ROWS + ROW_WIDTH * index + ROW_NUMBER] != 0:
                continue
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


def take_numbers(record: int, api: Any, given: Any) -> Any:
    """Put the numbers where the frame says; False when one does not fit its dtype."""
    for index in range(frame_pointer(record)[N_INPUTS]):
        row = record + 8 * (ROWS + ROW_WIDTH * index)
        words = frame_pointer(row)
        if words[ROW_NUMBER] != 0:
            frame_pointer(record)[BUSY] = 1  # a warning may let another thread in
            failed = call_int(api[PACK], words[ROW_DTYPE], row + 8 * ROW_VALUE, given[index])
            frame_pointer(record)[BUSY] = 0
            if failed != 0:
                call_word(api[CLEAR_ERROR])  # the long way raises it again
                return False
    return True


def run_record(record: int, op_words: Any, given: Any, out: int) -> Any:
    """Make the call; a new reference to what it returns, or 0 with an exception set."""
    words, api = frame_pointer(record), frame_pointer(op_words[API])
    n_inputs, n_outputs = words[N_INPUTS], words[N_OUTPUTS]
    table = frame_pointer(words[FRAME])
    # The other way round than the last time: what that one touched last is still in the cache.
    table[frame.BACKWARDS] = 1 - table[frame.BACKWARDS]
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
        if words[ROWS + ROW_WIDTH * index + ROW_NUMBER] == 0:
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
                if not take_numbers(record, api, given):
                    break
                return run_record(record, words, given, out)
    return call_word(api[VECTORCALL], words[LONG_WAY], arguments, n_arguments, names)


def state() -> int:
    """Stands in for the address of `nbops.targets.cpu.STATE`."""
    raise NotImplementedError


@functools.cache
def entry_address() -> int:
    """The machine code of `entry`; 0 where objects are not laid out as expected."""
    if numba.config.BOUNDSCHECK or not _fields_are_where_expected():
        return 0  # bounds are checked on the long way, which can raise
    compiler.add_symbol("nbops_state", cpu.state_address)
    helpers: dict[str, Any] = {"state": compiler.symbol_address("nbops_state")}
    for function in (is_like, output_of, fits, take_numbers, new_array, run_record):
        helpers[function.__name__] = compiler.part(compiler.specialise(function, "entry", **helpers))
    twin = compiler.specialise(entry, "entry", **helpers)
    _keep.append(compiler.native(types.int64(*[types.int64] * 4), twin))
    return int(_keep[-1].address)


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
def addresses() -> np.ndarray:
    """Those of the C functions that `entry` calls."""
    multiarray: Any = importlib.import_module("numpy._core._multiarray_umath")

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    array_api = (ctypes.c_int64 * 128).from_address(get(multiarray._ARRAY_API, None))
    python = [
        ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
        for name in (
            "PyObject_Vectorcall", "PyEval_SaveThread", "PyEval_RestoreThread", "PyContextVar_Get",
            "PyContextVar_Set", "Py_IncRef", "Py_DecRef", "PyTuple_New", "PyTuple_SetItem", "PyErr_Clear",
        )
    ]  # fmt: skip
    # numpy/__multiarray_api.h: PyArray_Pack, PyArray_NewFromDescr and PyArray_Return
    of_numpy = array_api[65], array_api[94], array_api[76]
    return np.array([*python, *of_numpy, cpu.run_native().address], np.int64)
