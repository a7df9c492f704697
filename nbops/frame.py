"""The frame: how a call, whatever arrays it came with, is described to compiled code.

A compiled loop never sees a NumPy array object or a TensorFlow tensor. It sees a *frame*, a table of
64-bit integers with pointers, sizes and strides, and runs over the items of the batch. So one compiled
task serves NumPy and TensorFlow alike, and everything between the caller's shapes and the loop's happens
here, once, in functions that run interpreted as well as inside a TensorFlow kernel:

    geometry  --infer_shapes-->  output shapes  --build_frame-->  frame  --task(frame, start, stop)

**Geometry**: one row per operand, ``[pointer, itemsize, ndim, shape..., strides...]``, strides in bytes.

**Frame**: a header row, then one row per operand, `WIDTH` words each, with room for `MAX_CORE` core axes and
`MAX_BATCH` of the batch::

    header   [items, batch rank, layout, workers, backwards, serial, -...]  [core sizes]    [batch sizes]
    operand  [pointer, itemsize, -...]                                      [core strides]  [batch strides]

Batch axes are merged where the strides of all operands allow it, so most calls have batch rank 0 or 1. An
elementwise op (all operands ``()``) takes the last merged axis as its core axis, the *columns*; its items
are single elements, so that a long row can be split between cores.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import numba
import numpy as np
from numba import types

from nbops.compiler import helper, jit

__all__ = [
    "build",
    "build_frame",
    "compiled",
    "count_steps",
    "decode_error",
    "get_shape",
    "infer",
    "infer_shapes",
    "new_frame",
    "new_geometry",
    "set_shape",
    "signature_table",
]


class Words(Protocol):
    """A table of int64: an array, or in compiled code also a pointer."""

    def __getitem__(self, index: Any, /) -> int: ...
    def __setitem__(self, index: Any, value: int, /) -> None: ...


MAX_CORE = 8
MAX_BATCH = 64  # NumPy's own limit on the number of axes

# a geometry row
POINTER, ITEMSIZE, NDIM, SHAPE, STRIDES = 0, 1, 2, 3, 3 + MAX_BATCH
GEOMETRY_WIDTH = STRIDES + MAX_BATCH
# a frame row
ITEMS, BATCH_RANK, LAYOUT, WORKERS = 0, 1, 2, 3  # the launcher says how many threads may share an item
BACKWARDS = 4  # whether an elementwise op may begin with its last elements: `nbops.repeat` turns it round
SERIAL = 5  # where the launcher puts the serial task's address, for a parallel task that cuts items
CORE = 8
BATCH = CORE + MAX_CORE
WIDTH = BATCH + MAX_BATCH
# the signature table: three counts, then one row per operand
N_INPUTS, N_OPERANDS, N_AXES, ROWS = 0, 1, 2, 3
ROW_WIDTH = 1 + MAX_CORE
# error kinds
TOO_FEW_AXES, CORE_MISMATCH, NOT_BROADCASTABLE, TOO_MANY_AXES, TOO_LARGE = 1, 2, 3, 4, 5

# Layouts choose which compiled variant may run. Bit o of the layout is set when an elementwise op's
# operand o has column stride 0 (a broadcast scalar); GENERAL means that some stride is neither.
CONTIGUOUS, GENERAL = 0, -1


def signature_table(n_inputs: int, operands: Sequence[Sequence[int]]) -> np.ndarray:
    """Encode a signature: for each operand its core rank and the numbers of its core axes."""
    table = np.zeros(ROWS + ROW_WIDTH * len(operands), np.int64)
    axes = [axis for operand in operands for axis in operand]
    table[:ROWS] = n_inputs, len(operands), 1 + max(axes, default=-1)
    for index, operand in enumerate(operands):
        start = ROWS + ROW_WIDTH * index
        table[start] = len(operand)
        table[start + 1 : start + 1 + len(operand)] = operand
    return table


def new_geometry(n_operands: int) -> np.ndarray:
    """An empty geometry table."""
    return np.zeros((n_operands, GEOMETRY_WIDTH), np.int64)


def new_frame(n_operands: int) -> np.ndarray:
    """An empty frame."""
    return np.zeros((1 + n_operands, WIDTH), np.int64)


def set_shape(row: np.ndarray, shape: Sequence[int]) -> None:
    """Write a shape into a geometry row."""
    row[NDIM] = len(shape)
    row[SHAPE : SHAPE + min(len(shape), MAX_BATCH)] = shape[:MAX_BATCH]


def get_shape(row: np.ndarray) -> tuple[int, ...]:
    """Read a geometry row's shape."""
    return tuple(row[SHAPE : SHAPE + row[NDIM]].tolist())


def describe(row: np.ndarray, array: np.ndarray) -> None:
    """Write an array's place and shape into a geometry row."""
    ndim = array.ndim
    row[POINTER] = array.__array_interface__["data"][0]
    row[ITEMSIZE] = array.itemsize
    row[NDIM] = ndim
    row[SHAPE : SHAPE + ndim] = array.shape
    row[STRIDES : STRIDES + ndim] = array.strides


@helper
def _error(kind: int, operand: int, axis: int, other: int, other_axis: int) -> int:
    return kind | operand << 8 | axis << 16 | other << 24 | other_axis << 32


def decode_error(code: int) -> tuple[int, int, int, int, int]:
    """``(kind, operand, axis, other operand, other axis)`` of an error code."""
    return (code & 255, code >> 8 & 255, code >> 16 & 255, code >> 24 & 255, code >> 32 & 255)


@helper
def infer_shapes(table: Words, geometry: Words) -> int:
    """Write the outputs' shapes into `geometry`; return 0, or an encoded error.

    A length of -1 is unknown: it agrees with every length.
    """
    n_inputs, n_operands = table[N_INPUTS], table[N_OPERANDS]
    # The first output's row is the scratch space: nothing is allocated, and loading this code is quick.
    sizes, owner, owner_axis = STRIDES, STRIDES + MAX_CORE, STRIDES + 2 * MAX_CORE
    for c in range(MAX_CORE):
        geometry[n_inputs, sizes + c] = -1
    batch_rank = 0
    for o in range(n_inputs):
        rank = table[ROWS + ROW_WIDTH * o]
        ndim = geometry[o, NDIM]
        if ndim < rank:
            return _error(TOO_FEW_AXES, o, 0, 0, 0)
        if ndim > MAX_BATCH:
            return _error(TOO_MANY_AXES, o, 0, 0, 0)
        batch_rank = max(batch_rank, ndim - rank)
        for c in range(rank):
            axis = table[ROWS + ROW_WIDTH * o + 1 + c]
            size = geometry[o, SHAPE + ndim - rank + c]
            if size >= 0:
                if geometry[n_inputs, sizes + axis] < 0:
                    geometry[n_inputs, sizes + axis] = size
                    geometry[n_inputs, owner + axis] = o
                    geometry[n_inputs, owner_axis + axis] = c
                elif geometry[n_inputs, sizes + axis] != size:
                    first, first_axis = (
                        geometry[n_inputs, owner + axis],
                        geometry[n_inputs, owner_axis + axis],
                    )
                    return _error(CORE_MISMATCH, o, c, first, first_axis)
    for i in range(batch_rank):
        geometry[n_inputs, SHAPE + i] = 1
    for o in range(n_inputs):
        n_batch = geometry[o, NDIM] - table[ROWS + ROW_WIDTH * o]
        for i in range(n_batch):
            size = geometry[o, SHAPE + i]
            place = SHAPE + batch_rank - n_batch + i
            known = geometry[n_inputs, place]
            if known == 1 or (known == -1 and size != 1):
                geometry[n_inputs, place] = size
            elif size != known and size != 1 and size != -1:
                return _error(NOT_BROADCASTABLE, o, i, 0, 0)
    for o in range(n_inputs, n_operands):
        rank = table[ROWS + ROW_WIDTH * o]
        if batch_rank + rank > MAX_BATCH:
            return _error(TOO_MANY_AXES, 0, 0, 0, 0)
        geometry[o, NDIM] = batch_rank + rank
        total = 1.0
        for i in range(batch_rank):
            geometry[o, SHAPE + i] = geometry[n_inputs, SHAPE + i]
            total *= max(geometry[o, SHAPE + i], 1)
        for c in range(rank):
            size = geometry[n_inputs, sizes + table[ROWS + ROW_WIDTH * o + 1 + c]]
            geometry[o, SHAPE + batch_rank + c] = size
            total *= max(size, 1)
        if total * 8 >= 2.0**63:
            return _error(TOO_LARGE, 0, 0, 0, 0)
    return 0


@helper
def set_contiguous(geometry: Words, operand: int) -> int:
    """Give an operand the strides of a C-contiguous array; return its number of elements."""
    elements = 1
    for i in range(geometry[operand, NDIM] - 1, -1, -1):
        geometry[operand, STRIDES + i] = elements * geometry[operand, ITEMSIZE]
        elements *= geometry[operand, SHAPE + i]
    return elements


@helper
def build_frame(table: Words, geometry: Words, frame: Words) -> None:
    """Fill `frame` from a geometry whose outputs are known and allocated."""
    n_operands = table[N_OPERANDS]
    last = n_operands - 1
    batch_rank = geometry[last, NDIM] - table[ROWS + ROW_WIDTH * last]
    contiguous = True
    for o in range(n_operands):
        rank = table[ROWS + ROW_WIDTH * o]
        ndim = geometry[o, NDIM]
        frame[1 + o, POINTER] = geometry[o, POINTER]
        frame[1 + o, ITEMSIZE] = geometry[o, ITEMSIZE]
        expected = geometry[o, ITEMSIZE]
        for c in range(rank - 1, -1, -1):
            size = geometry[o, SHAPE + ndim - rank + c]
            stride = geometry[o, STRIDES + ndim - rank + c]
            frame[0, CORE + table[ROWS + ROW_WIDTH * o + 1 + c]] = size
            frame[1 + o, CORE + c] = stride
            if size != 1 and stride != expected:
                contiguous = False
            expected *= size
    # merge the batch axes, from the output's innermost outwards
    merged = 0
    items = 1
    i = -1
    for _ in range(batch_rank):
        i = _next_by_stride(geometry, last, batch_rank, i)
        size = geometry[last, SHAPE + i]
        items *= size
        if size == 1:
            continue
        mergeable = merged > 0
        for o in range(n_operands):
            stride = _batch_stride(table, geometry, o, i, batch_rank)
            frame[1 + o, BATCH + merged] = stride
            if merged > 0:
                inner = frame[0, BATCH + merged - 1] * frame[1 + o, BATCH + merged - 1]
                mergeable = mergeable and stride == inner
        if mergeable:
            frame[0, BATCH + merged - 1] *= size
        else:
            frame[0, BATCH + merged] = size
            merged += 1
    frame[0, ITEMS] = items
    frame[0, LAYOUT] = CONTIGUOUS if contiguous else GENERAL
    if table[N_AXES] == 0:
        merged = _take_columns(frame, n_operands, merged)
    frame[0, BATCH_RANK] = merged


@helper
def _next_by_stride(geometry: Words, operand: int, batch_rank: int, axis: int) -> int:
    """The batch axis after `axis` (-1: the first) by stride, smallest first; of equal ones the last first."""
    found = -1
    found_stride = 0
    stride = -1 if axis < 0 else abs(geometry[operand, STRIDES + axis])
    for i in range(batch_rank - 1, -1, -1):
        own = abs(geometry[operand, STRIDES + i])
        comes_later = own > stride or (own == stride and i < axis)
        if comes_later and (found < 0 or own < found_stride):
            found, found_stride = i, own
    return found


@helper
def _batch_stride(table: Words, geometry: Words, operand: int, axis: int, batch_rank: int) -> int:
    """The stride of an operand along an axis of the broadcast batch: 0 where it is repeated."""
    n_batch = geometry[operand, NDIM] - table[ROWS + ROW_WIDTH * operand]
    own = axis - (batch_rank - n_batch)
    if own < 0 or geometry[operand, SHAPE + own] == 1:
        return 0
    return geometry[operand, STRIDES + own]


@helper
def _take_columns(frame: Words, n_operands: int, merged: int) -> int:
    """Make the innermost batch axis of an elementwise op its core axis."""
    layout = 0
    frame[0, CORE] = 1 if merged == 0 else frame[0, BATCH]
    for o in range(n_operands):
        stride = frame[1 + o, ITEMSIZE] if merged == 0 else frame[1 + o, BATCH]
        frame[1 + o, CORE] = stride
        if stride == 0 and o < n_operands - 1:
            layout |= 1 << o
        elif stride != frame[1 + o, ITEMSIZE]:
            layout = GENERAL
            break
    if layout == GENERAL:
        for o in range(n_operands):
            if merged > 0:
                frame[1 + o, CORE] = frame[1 + o, BATCH]
    frame[0, LAYOUT] = layout
    for i in range(1, merged):
        frame[0, BATCH + i - 1] = frame[0, BATCH + i]
        for o in range(n_operands):
            frame[1 + o, BATCH + i - 1] = frame[1 + o, BATCH + i]
    return max(merged - 1, 0)


@helper
def item_offset(frame: Words, row: int, item: int) -> int:
    """Bytes from an operand's first element to the first of its part in batch item `item`.

    `frame` is the flat table of words, as compiled tasks get it; `row` is 1 + the operand's number.
    """
    rank = frame[BATCH_RANK]
    if rank == 0:
        return 0
    offset = 0
    for i in range(rank - 1):
        size = frame[BATCH + i]
        offset += (item % size) * frame[row * WIDTH + BATCH + i]
        item //= size
    return offset + item * frame[row * WIDTH + BATCH + rank - 1]


def count_steps(table: np.ndarray, frame: np.ndarray) -> tuple[int, int]:
    """A frame's batch items, and the innermost iterations of the loop over all of them."""
    items = int(frame[0, ITEMS])
    return items, math.prod(frame[0, CORE : CORE + int(table[N_AXES])].tolist(), start=items)


# ---- for callers in Python --------------------------------------------------------------------------


@functools.cache
def compiled(function: Any) -> Any:
    """One of the functions above, compiled once for all that call it: they are the longest to compile."""
    return jit(function)


@functools.cache
def _entry_point(function: Any, *ranks: int) -> Any:
    """A function compiled for tables of these ranks; Numba's own look at their types takes longer."""
    if numba.config.DISABLE_JIT:
        return function
    signature = tuple(types.Array(types.int64, rank, "C") for rank in ranks)
    dispatcher = compiled(function)  # once: another thread may make another one at the same time
    dispatcher.compile(signature)
    return dispatcher.overloads[signature].entry_point


def infer(table: np.ndarray, geometry: np.ndarray) -> int:
    """`infer_shapes`, called from Python."""
    return int(_entry_point(infer_shapes, 1, 2)(table, geometry))


def build(table: np.ndarray, geometry: np.ndarray, frame: np.ndarray) -> None:
    """`build_frame`, called from Python."""
    _entry_point(build_frame, 1, 2, 2)(table, geometry, frame)
