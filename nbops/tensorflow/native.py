"""The kernel and the shape function of every nbops op in TensorFlow, compiled once for all of them.

TensorFlow calls `compute` with a *descriptor*, a table of words that says which op it is: its signature, its
tasks' addresses by dtype and layout, its cost. `compute` does what `nbops.op.Op` does for NumPy arrays, with
the same functions of `nbops.frame`, but in machine code without the GIL: shapes, outputs, frame, choice of
serial or parallel, run. Python is called back in two cases only: a task that is not compiled yet, and an
error that needs its message. Operands that hold labels are checked first (see `nbops.labels`).
"""

from __future__ import annotations

import functools
from typing import Any

from numba import types

from nbops import compiler
from nbops.frame import (
    CORE,
    GENERAL,
    GEOMETRY_WIDTH,
    ITEMS,
    LAYOUT,
    MAX_BATCH,
    NDIM,
    POINTER,
    SHAPE,
    STRIDES,
    WIDTH,
    build_frame,
    infer_shapes,
    set_contiguous,
)
from nbops.targets import cpu
from nbops.targets.calls import call_int, call_word
from nbops.targets.tasks import frame_pointer
from nbops.targets.words import new_rows, new_words
from nbops.tensorflow.c_api import INDEX, INVALID_ARGUMENT
from nbops.tuned.pointers import address_of

__all__ = ["compile_compute", "compute_native", "infer_native"]

# The descriptor's words. Behind them, one row per operand: which dtype it has, and whether it is swapped.
API, STATE, TABLE, SLOTS, RUN, REQUEST, FAIL, PICOSECONDS, GRAIN, MESSAGE, LEADER, NUMBER = range(12)
ITEM_NANOSECONDS = 12
PLANS, PLAN, DRIVER_FAILED = range(13, 16)  # for a GPU
LABELS, ROWS = 16, 17  # the operands of `nbops.labels`, or NO_LABELS
OPERANDS = 18
TYPE, SWAPPED, OPERAND_WIDTH = 0, 1, 2
GENERIC = 0  # an operand of type T
SLOT_TYPES = 16  # slots are indexed by TensorFlow's own number of T; those in use are below this
NO_PARALLEL_TASK = -1
NO_LABELS = -1
WRONG_LABEL = -1  # an error beside those of `infer_shapes`, which are positive

NEW_STATUS, DELETE_STATUS = INDEX["TF_NewStatus"], INDEX["TF_DeleteStatus"]
GET_CODE, SET_STATUS = INDEX["TF_GetCode"], INDEX["TF_SetStatus"]
GET_INPUT, ALLOCATE_OUTPUT = INDEX["TF_GetInput"], INDEX["TF_AllocateOutput"]
TENSOR_DATA, TENSOR_TYPE = INDEX["TF_TensorData"], INDEX["TF_TensorType"]
NUM_DIMS, DIM = INDEX["TF_NumDims"], INDEX["TF_Dim"]
DELETE_TENSOR, FAILURE = INDEX["TF_DeleteTensor"], INDEX["TF_OpKernelContext_Failure"]
NEW_SHAPE, DELETE_SHAPE = INDEX["TF_NewShapeHandle"], INDEX["TF_DeleteShapeHandle"]
SHAPE_INPUT, SHAPE_OUTPUT = (
    INDEX["TF_ShapeInferenceContextGetInput"],
    INDEX["TF_ShapeInferenceContextSetOutput"],
)
RANK_KNOWN, RANK = INDEX["TF_ShapeInferenceContextRankKnown"], INDEX["TF_ShapeInferenceContextRank"]
SHAPE_DIM, NEW_DIM = INDEX["TF_ShapeInferenceContextDim"], INDEX["TF_NewDimensionHandle"]
DELETE_DIM = INDEX["TF_DeleteDimensionHandle"]
DIM_KNOWN, DIM_VALUE = INDEX["TF_DimensionHandleValueKnown"], INDEX["TF_DimensionHandleValue"]
SCALAR, VECTOR = (
    INDEX["TF_ShapeInferenceContextScalar"],
    INDEX["TF_ShapeInferenceContextVectorFromSize"],
)
CONCATENATE = INDEX["TF_ShapeInferenceContextConcatenateShapes"]
UNKNOWN_SHAPE = INDEX["TF_ShapeInferenceContextSetUnknownShape"]

new_geometry, new_frame = new_rows(GEOMETRY_WIDTH), new_rows(WIDTH)


def itemsize_of(dtype: int) -> int:
    """The itemsize of TensorFlow's DT_FLOAT (1), DT_DOUBLE (2), DT_INT32 (3) and DT_INT64 (9)."""
    return 4 if dtype in (1, 3) else 8


def swap_last(geometry: Any, operand: int) -> None:
    """Exchange an operand's last two axes, as `numpy.swapaxes` does."""
    last = geometry[operand, NDIM] - 1
    if last >= 1:
        for words in (SHAPE, STRIDES):
            kept = geometry[operand, words + last]
            geometry[operand, words + last] = geometry[operand, words + last - 1]
            geometry[operand, words + last - 1] = kept


def check_labels(geometry: Any, labels: int, rows: int) -> int:
    """0, or `WRONG_LABEL` when a label is no position in a row."""
    classes = geometry[rows, SHAPE + geometry[rows, NDIM] - 1]
    count = 1
    for axis in range(geometry[labels, NDIM]):
        count *= geometry[labels, SHAPE + axis]
    values = frame_pointer(geometry[labels, POINTER])
    for i in range(count):
        if values[i] < 0 or values[i] >= classes:
            return WRONG_LABEL
    return 0


def compute(kernel: int, context: int) -> None:
    """TensorFlow's ``compute`` function; `kernel` is the descriptor's address."""
    words = frame_pointer(kernel)
    api = frame_pointer(words[API])
    table = frame_pointer(words[TABLE])
    n_inputs, n_operands = table[0], table[1]
    status = call_word(api[NEW_STATUS])
    tensors = new_words(n_operands)
    geometry = new_geometry(n_operands)
    good = True
    for o in range(n_inputs):
        call_word(api[GET_INPUT], context, o, address_of(tensors) + 8 * o, status)
        good = good and tensors[o] != 0
    if good:
        dtype = call_int(api[TENSOR_TYPE], tensors[words[LEADER]])
        for o in range(n_inputs):
            own = words[OPERANDS + OPERAND_WIDTH * o + TYPE]
            geometry[o, POINTER] = call_word(api[TENSOR_DATA], tensors[o])
            geometry[o, 1] = itemsize_of(dtype if own == GENERIC else own)
            geometry[o, NDIM] = call_int(api[NUM_DIMS], tensors[o])
            if geometry[o, NDIM] > MAX_BATCH:
                continue  # more than a row holds: `infer_shapes` says so
            for axis in range(geometry[o, NDIM]):
                geometry[o, SHAPE + axis] = call_word(api[DIM], tensors[o], axis)
            set_contiguous(geometry, o)
            if words[OPERANDS + OPERAND_WIDTH * o + SWAPPED] != 0:
                swap_last(geometry, o)
        error = infer_shapes(table, geometry)
        if error != 0:
            call_word(words[FAIL], words[NUMBER], status, address_of(geometry), error)
            good = False
    if good:
        for o in range(n_inputs, n_operands):
            own = words[OPERANDS + OPERAND_WIDTH * o + TYPE]
            out_type = dtype if own == GENERIC else own
            geometry[o, 1] = itemsize_of(out_type)
            elements = set_contiguous(geometry, o)
            tensors[o] = call_word(
                api[ALLOCATE_OUTPUT],
                context,
                o - n_inputs,
                out_type,
                address_of(geometry) + 8 * (GEOMETRY_WIDTH * o + SHAPE),
                geometry[o, NDIM],
                elements * geometry[o, 1],
                status,
            )
            good = good and tensors[o] != 0 and call_int(api[GET_CODE], status) == 0
            if tensors[o] != 0:
                geometry[o, POINTER] = call_word(api[TENSOR_DATA], tensors[o])
    if good:
        good = run_frame(words, table, geometry, dtype, context, status)
    if not good:
        call_word(api[FAILURE], context, status)
    for o in range(n_operands):
        if tensors[o] != 0:
            call_word(api[DELETE_TENSOR], tensors[o])
    call_word(api[DELETE_STATUS], status)


def run_frame(words: Any, table: Any, geometry: Any, dtype: int, context: int, status: int) -> bool:
    """Build the frame, choose serial or parallel, and run; False after an error."""
    n_inputs, n_operands = table[0], table[1]
    if words[LABELS] != NO_LABELS:
        error = check_labels(geometry, words[LABELS], words[ROWS])
        if error != 0:
            call_word(words[FAIL], words[NUMBER], status, address_of(geometry), error)
            return False
    call = new_frame(1 + n_operands)
    build_frame(table, geometry, call)
    items = call[0, ITEMS]
    if items == 0:
        return True
    layout = call[0, LAYOUT]
    layouts = (1 << n_inputs) + 1
    slots = frame_pointer(words[SLOTS])
    slot = 2 * (dtype * layouts + (layouts - 1 if layout == GENERAL else layout))
    if slots[slot] == 0:
        call_word(words[REQUEST], words[NUMBER], dtype, layout, 0, status)
    if slots[slot] == 0:
        return False
    state = frame_pointer(words[STATE])
    steps = items
    for axis in range(table[2]):
        steps *= call[0, CORE + axis]
    workers = 1
    if items * words[ITEM_NANOSECONDS] + steps * words[PICOSECONDS] // 1000 >= state[cpu.BREAK_EVEN]:
        workers = state[cpu.WORKERS]
    parallel = 0
    if workers > 1 and items < workers:
        if slots[slot + 1] == 0:
            call_word(words[REQUEST], words[NUMBER], dtype, layout, 1, status)
        if slots[slot + 1] == 0:
            return False
        parallel = max(slots[slot + 1], 0)
    call_word(words[RUN], words[STATE], slots[slot], parallel, address_of(call), items, workers, words[GRAIN])
    return True


def infer(descriptor: int, context: int, status: int) -> None:
    """The shape inference function: the same rules, with -1 for an unknown length.

    TensorFlow holds the graph's lock meanwhile. In Python this function would wait for the GIL, which
    another thread may have while it waits for the graph.
    """
    words = frame_pointer(descriptor)
    api = frame_pointer(words[API])
    table = frame_pointer(words[TABLE])
    n_inputs, n_operands = table[0], table[1]
    geometry = new_geometry(n_operands)
    known = True
    shape = call_word(api[NEW_SHAPE])
    length = call_word(api[NEW_DIM])
    for o in range(n_inputs):
        call_word(api[SHAPE_INPUT], context, o, shape, status)
        if (call_int(api[RANK_KNOWN], context, shape) & 255) == 0:
            known = False
            break
        geometry[o, NDIM] = call_word(api[RANK], context, shape)
        if geometry[o, NDIM] > MAX_BATCH:
            continue  # more than a row holds: `infer_shapes` says so
        for axis in range(geometry[o, NDIM]):
            call_word(api[SHAPE_DIM], context, shape, axis, length)
            geometry[o, SHAPE + axis] = -1
            if (call_int(api[DIM_KNOWN], length) & 255) != 0:
                geometry[o, SHAPE + axis] = call_word(api[DIM_VALUE], length)
        if words[OPERANDS + OPERAND_WIDTH * o + SWAPPED] != 0:
            swap_last(geometry, o)
    call_word(api[DELETE_DIM], length)
    call_word(api[DELETE_SHAPE], shape)
    if not known:
        call_word(api[UNKNOWN_SHAPE], context, status)
        return
    if infer_shapes(table, geometry) != 0:
        call_word(api[SET_STATUS], status, INVALID_ARGUMENT, words[MESSAGE])
        return
    for o in range(n_inputs, n_operands):
        result = call_word(api[SCALAR], context)
        for axis in range(geometry[o, NDIM]):
            vector = call_word(api[VECTOR], context, geometry[o, SHAPE + axis])
            call_word(api[CONCATENATE], context, result, vector, result, status)
            call_word(api[DELETE_SHAPE], vector)
        call_word(api[SHAPE_OUTPUT], context, o - n_inputs, result, status)
        call_word(api[DELETE_SHAPE], result)


#: Each of these functions once, for all that call it.
part = functools.cache(compiler.part)


@functools.cache
def compute_native() -> Any:
    """`compute` for the CPU, as machine code with the C signature that TensorFlow expects."""
    return compile_compute(run_frame, "tensorflow", check_labels=part(check_labels))


def compile_compute(run: Any, name: str, **helpers: Any) -> Any:
    """`compute` as machine code, around the function that runs a frame; see `run_frame`."""
    names: dict[str, Any] = {
        "itemsize_of": part(itemsize_of),
        "swap_last": part(swap_last),
        "infer_shapes": part(infer_shapes),
        "run_frame": compiler.part(compiler.specialise(run, name, build_frame=part(build_frame), **helpers)),
    }
    return compiler.native(types.void(types.int64, types.int64), compiler.specialise(compute, name, **names))


@functools.cache
def infer_native() -> Any:
    """`infer` as machine code, behind trampolines that add the descriptor."""
    return compiler.native(
        types.void(types.int64, types.int64, types.int64),
        compiler.specialise(
            infer,
            "tensorflow",
            infer_shapes=part(infer_shapes),
            swap_last=part(swap_last),
        ),
    )
