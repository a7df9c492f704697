"""The ops' kernels on TensorFlow's GPU: one compute function for all ops, as on the CPU.

TensorFlow's C API hands out no stream of its own GPU device. So the compute function makes the primary
context current, waits for everything that was launched before (the inputs may still be computed, and an
output may get memory that an earlier kernel still reads), launches on the driver's default stream, and waits
for that. It is right for any producer and any consumer, and costs two waits an op.

What to launch says a *record*, a table of words made by Python when a call of new shapes first comes: its
kernels' handles, grids and blocks, and which words of the frame each kernel takes. Machine code finds a
call's record by the frame, in which addresses count by their alignment only, and passes the driver pointers
into the frame. So Python is called back once for each shape, and for an error's message.

Nobody has run this on hardware yet: the tests give it a table of the driver's functions that the emulator
stands behind.
"""

from __future__ import annotations

import ctypes
import functools
import traceback
from typing import Any

import numpy as np
import tensorflow as tf

from nbops.compiler import jit
from nbops.frame import NDIM, POINTER, SHAPE, WIDTH, build_frame
from nbops.targets import cuda
from nbops.targets.atomics import load, swap_if
from nbops.targets.calls import call_int, call_word
from nbops.targets.cuda.driver import DEVICE_ORDINAL, OUT_OF_MEMORY
from nbops.targets.cuda.words import WORKSPACE
from nbops.targets.tasks import frame_pointer
from nbops.tensorflow import native
from nbops.tensorflow.c_api import INDEX, INTERNAL, RESOURCE_EXHAUSTED
from nbops.tensorflow.registered import address_of, dtypes_of, set_status, variants

__all__ = ["available", "compute_native", "describe"]

#: The driver's functions that machine code calls. An op has a table with their addresses and, behind them,
#: the first records by a hash of the frame.
FUNCTIONS = (
    "cuPointerGetAttribute",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxSynchronize",
    "cuLaunchKernel",
    "cuStreamSynchronize",
)
POINTER_ATTRIBUTE, PUSH, POP, WAIT_FOR_ALL, LAUNCH, WAIT = range(len(FUNCTIONS))
BUCKETS = 64

# A record: this, the frame that it is for, and then the launches, each with the parameters' places behind it.
NEXT, CONTEXT, WORKSPACE_BYTES, LAUNCHES = range(4)
RECORD_HEADER = 4
FUNCTION, GRID, BLOCK, SHARED_BYTES, PARAMETERS = 0, 1, 4, 7, 8
LAUNCH_HEADER = 9
MAX_PARAMETERS = 512

# Words of a frame's header that no task uses, in which the frame of a record says for what it is.
DTYPE, ORDINAL = 4, 5
#: Plans may look at an address for its alignment; more than this is never asked for.
ALIGNMENT = 256

UINT8 = tf.uint8.as_datatype_enum
ALLOCATE_TEMP, TENSOR_DATA = INDEX["TF_AllocateTemp"], INDEX["TF_TensorData"]
DELETE_TENSOR, GET_CODE = INDEX["TF_DeleteTensor"], INDEX["TF_GetCode"]


def available() -> bool:
    """Whether ops get kernels for TensorFlow's GPUs: it was built with CUDA, and nbops can use a GPU here."""
    return bool(tf.test.is_built_with_cuda()) and cuda.available()


# ---- in machine code ---------------------------------------------------------------------------------


@jit
def operand_with_elements(table: Any, geometry: Any) -> int:
    """The number of an output that has something to write; -1 if none has."""
    for o in range(table[0], table[1]):
        elements = 1
        for axis in range(geometry[o, NDIM]):
            elements *= geometry[o, SHAPE + axis]
        if elements > 0:
            return o
    return -1


@jit
def bucket_of(key: Any) -> int:
    """Which bucket a record for this frame is in."""
    mixed = np.uint64(14695981039346656037)
    for word in key.flat:
        mixed = (mixed ^ np.uint64(word)) * np.uint64(1099511628211)
    return int((mixed >> np.uint64(32)) % np.uint64(BUCKETS))


@jit
def find_record(heads: int, bucket: int, key: Any) -> int:
    """The record for a frame; 0 if there is none yet."""
    record: int = load(heads + 8 * bucket)
    while record != 0:
        words = frame_pointer(record)
        same = True
        index = RECORD_HEADER
        for word in key.flat:
            if words[index] != word:
                same = False
                break
            index += 1
        if same:
            return record
        record = words[NEXT]
    return 0


@jit
def add_record(place: int, record: int) -> None:
    """Put a record before the others of its bucket, for threads that may be looking there."""
    words = frame_pointer(record)
    words[NEXT] = load(place)
    while swap_if(place, words[NEXT], record) == 0:
        words[NEXT] = load(place)


@jit
def launch_all(driver: Any, record: int, first: int, call: Any) -> int:
    """Wait, launch, wait; 0, or the number of the function that failed and its error."""
    code: int = call_int(driver[WAIT_FOR_ALL])
    if code != 0:
        return code << 8 | WAIT_FOR_ALL
    pointers = np.zeros(MAX_PARAMETERS, np.int64)
    words = frame_pointer(record)
    place = first
    for _ in range(words[LAUNCHES]):
        n = words[place + PARAMETERS]
        for i in range(n):
            pointers[i] = call.ctypes.data + 8 * words[place + LAUNCH_HEADER + i]
        code = call_int(
            driver[LAUNCH],
            words[place + FUNCTION],
            words[place + GRID],
            words[place + GRID + 1],
            words[place + GRID + 2],
            words[place + BLOCK],
            words[place + BLOCK + 1],
            words[place + BLOCK + 2],
            words[place + SHARED_BYTES],
            0,
            pointers.ctypes.data,
            0,
        )
        if code != 0:
            break
        place += LAUNCH_HEADER + n
    # What was launched before a failure still uses the tensors.
    waited: int = call_int(driver[WAIT], 0)
    if code != 0:
        return code << 8 | LAUNCH
    return 0 if waited == 0 else waited << 8 | WAIT


def run_frame(words: Any, table: Any, geometry: Any, dtype: int, context: int, status: int) -> bool:
    """Build the frame, find what to launch for it, and run that; False after an error."""
    written = operand_with_elements(table, geometry)
    if written < 0:
        return True
    api = frame_pointer(words[native.API])
    driver = frame_pointer(words[native.PLANS])
    call = np.zeros((1 + table[1], WIDTH), np.int64)
    build_frame(table, geometry, call)
    found = np.zeros(1, np.int64)
    code = call_int(driver[POINTER_ATTRIBUTE], found.ctypes.data, DEVICE_ORDINAL, geometry[written, POINTER])
    if code != 0:
        call_word(words[native.DRIVER_FAILED], words[native.NUMBER], status, code << 8 | POINTER_ATTRIBUTE)
        return False
    key = call.copy()
    key[0, DTYPE], key[0, ORDINAL] = dtype, found[0]
    for o in range(table[1]):
        key[1 + o, POINTER] &= ALIGNMENT - 1
    bucket = bucket_of(key)
    record = find_record(words[native.PLANS] + 8 * len(FUNCTIONS), bucket, key)
    if record == 0:
        record = call_word(
            words[native.PLAN], words[native.NUMBER], call.ctypes.data, key.ctypes.data, bucket, status
        )
        if record == 0:
            return False
    plan = frame_pointer(record)
    scratch = 0
    if plan[WORKSPACE_BYTES] > 0:
        size = np.array([plan[WORKSPACE_BYTES]], np.int64)
        attributes = np.array([9, 0], np.int64)  # TF_AllocatorAttributes: its size, and not on the host
        scratch = call_word(
            api[ALLOCATE_TEMP], context, UINT8, size.ctypes.data, size.size, attributes.ctypes.data, status
        )
        good = scratch != 0 and call_int(api[GET_CODE], status) == 0 and attributes[1] == 0
        if good:
            call[0, WORKSPACE] = call_word(api[TENSOR_DATA], scratch)
        else:
            if scratch != 0:
                call_word(api[DELETE_TENSOR], scratch)
            return False
    failed: int = call_int(driver[PUSH], plan[CONTEXT]) << 8 | PUSH
    if failed == PUSH:
        failed = launch_all(driver, record, RECORD_HEADER + call.size, call)
        call_int(driver[POP], found.ctypes.data)
    if scratch != 0:
        call_word(api[DELETE_TENSOR], scratch)
    if failed != 0:
        call_word(words[native.DRIVER_FAILED], words[native.NUMBER], status, failed)
    return failed == 0


@functools.cache
def compute_native() -> Any:
    """TensorFlow's ``compute`` function for a GPU, as machine code."""
    return native.compile_compute(run_frame, "tensorflow_gpu")


# ---- what machine code asks Python for -----------------------------------------------------------------


def describe(words: np.ndarray) -> np.ndarray:
    """Write what a GPU's kernel needs into a descriptor; return memory that the descriptor points to."""
    table = np.zeros(len(FUNCTIONS) + BUCKETS, np.int64)
    table[: len(FUNCTIONS)] = [_driver().address(name) for name in FUNCTIONS]
    words[native.PLANS] = table.ctypes.data
    words[native.PLAN] = address_of(_plan)
    words[native.DRIVER_FAILED] = address_of(_driver_failed)
    return table


def _driver() -> Any:
    from nbops.targets.cuda import driver

    return driver.load()


@ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)
def _plan(number: int, call: int, key: int, bucket: int, status: int) -> int:
    """Make the record for a frame, and put it where the next call finds it; its address, 0 after an error."""
    entry = variants[number]
    try:
        from nbops.targets.cuda import driver, execution

        n_operands = len(entry.op.signature.operands)
        table, wanted = (_words_at(place, (1 + n_operands) * WIDTH) for place in (call, key))
        gpu = driver.gpu(_driver(), int(wanted[ORDINAL]))
        dtypes = dtypes_of(entry.op, int(wanted[DTYPE]))
        plan, places = execution.plan_frame(entry.op.kernel, table.reshape(-1, WIDTH), dtypes, gpu)
        words = [0, gpu.context, plan.workspace_bytes, len(plan.launches), *wanted]
        for launch in plan.launches:
            function = gpu.function(launch.kernel, launch.shared_bytes)
            parameters = [places[name] for name in launch.words]
            assert len(parameters) <= MAX_PARAMETERS
            words += [
                function,
                *launch.grid,
                *launch.block,
                launch.shared_bytes,
                len(parameters),
                *parameters,
            ]
        record = np.array(words, np.int64)
        entry.keep.append(record)  # for good: another thread may be reading it
        heads = int(entry.descriptor[native.PLANS]) + 8 * len(FUNCTIONS)
        add_record(heads + 8 * bucket, record.ctypes.data)
        return int(record.ctypes.data)
    except MemoryError as error:
        set_status(status, RESOURCE_EXHAUSTED, f"{entry.op.name} on the GPU: {error}")
    except RuntimeError as error:  # of the driver
        set_status(status, INTERNAL, f"{entry.op.name} on the GPU: {error}")
    except Exception:
        set_status(
            status, INTERNAL, f"{entry.op.name}: planning for the GPU failed\n{traceback.format_exc()}"
        )
    return 0


def _words_at(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))


@ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)
def _driver_failed(number: int, status: int, failed: int) -> int:
    """Say in a status which function of the driver failed, and how."""
    code, function = failed >> 8, FUNCTIONS[failed & 255]
    name = _driver().error_name(code)
    kind = RESOURCE_EXHAUSTED if code == OUT_OF_MEMORY else INTERNAL
    set_status(status, kind, f"{variants[number].op.name} on the GPU: {function} failed with {name}")
    return 0
