"""What an op remembers of its calls: the records that `nbops.repeat` compares the next call to."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from nbops import arrays, dispatch, frame, large_arrays
from nbops.repeat import (
    BUSY,
    COUNT,
    MAX_NDIM,
    MAX_OPERANDS,
    MAX_RECORDS,
    RECORDS,
    ROW_DTYPE,
    ROW_NUMBER,
    ROW_SHAPE,
    ROW_STRIDES,
    ROW_VALUE,
    ROW_WIDTH,
    ROWS,
    addresses,
    entry_address,
)
from nbops.settings import settings_variable
from nbops.targets import cpu

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["ShortWay", "forget_all", "remember"]

_short_ways: weakref.WeakSet[ShortWay] = weakref.WeakSet()


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
        self._large: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
        self._records: list[tuple[np.ndarray, Any]] = []
        self._left_in_use: list[tuple[np.ndarray, Any]] = []
        self._oldest = 0
        self._words[:RECORDS] = (
            addresses().ctypes.data,
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
        _short_ways.add(self)

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

    def add_large(self, given: Sequence[Any], results: Sequence[np.ndarray]) -> None:
        """Remember what arrays a call needs for results that `call` would not make well."""
        if len(self._large) >= MAX_RECORDS:
            self._large.clear()
        self._large[_look(given)] = [
            (x.shape, x.dtype, "C" if x.flags.c_contiguous else "F") for x in results
        ]

    def large_results(self, given: Sequence[Any]) -> Any:
        """``out=`` for a call like a remembered one with large results; None where there is none."""
        # Under other settings the shapes are the same; `call` goes the long way then, with these arrays.
        wanted = self._large.get(_look(given)) if self._large else None
        if wanted is None:
            return None
        results = tuple(arrays.new_array(*array) for array in wanted)
        return results if len(results) > 1 else results[0]

    def forget(self) -> None:
        """Remember no call. The records that other threads are in stay, where no new call finds them."""
        self._words[COUNT] = 0
        self._large.clear()
        self._left_in_use = [kept for kept in self._left_in_use + self._records if kept[0][BUSY]]
        self._records, self._oldest = [], 0


def forget_all() -> None:
    """Let every op decide anew, because what decisions rest on has changed."""
    for short_way in list(_short_ways):
        short_way.forget()


def remember(
    op: Op,
    given: Sequence[Any],
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
    given : sequence of array_like
        The inputs as they came.
    operands : list of ndarray
        All, as the loop sees them.
    table : ndarray
        The frame.
    tasks : tuple of int
        The serial and the parallel task's address.
    grain : int
    decision : Decision
    fresh : bool
        Whether the outputs were made for this call, which came without ``out=``.
    """
    if not _seen_to_be_alike(op, given, operands):
        return
    n_operands, n_outputs = len(operands), len(operands) - op.n_inputs
    if n_operands > MAX_OPERANDS or (n_outputs > 1 and min(x.ndim for x in operands[op.n_inputs :]) == 0):
        return
    for x in operands:
        if x.ndim > MAX_NDIM or not x.dtype.isnative or not x.size or min(x.strides, default=0) < 0:
            return  # with a negative stride, its first element is not its lowest address
    address = entry_address()
    if not address:
        return
    # The short way makes results as NumPy does, which suits small ones.
    large = fresh and max(x.nbytes for x in operands[op.n_inputs :]) >= large_arrays.LARGE
    own_frame = table.copy()
    record = np.zeros(ROWS + ROW_WIDTH * n_operands, np.int64)
    release = decision.rule != "small"
    chosen = dispatch.chosen_here()
    record[:ROWS] = (
        op.n_inputs, n_outputs, own_frame.ctypes.data, *tasks, decision.workers, grain, fresh and not large,
        release, 0, id(decision), id(chosen),
    )  # fmt: skip
    for index, x in enumerate(operands):
        row = record[ROWS + ROW_WIDTH * index :]
        extent = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) + x.itemsize
        if index < op.n_inputs and not isinstance(given[index], ndarray):
            row[ROW_NUMBER] = id(type(given[index]))
            place = record.ctypes.data + 8 * (ROWS + ROW_WIDTH * index + ROW_VALUE)
            own_frame[1 + index, frame.POINTER] = place
        in_place = sum(  # a bit for each output that may be written over this input, at the same place
            1 << number
            for number, output in enumerate(operands[op.n_inputs :])
            if index < op.n_inputs
            and index in op.overwritten(number)
            and (x.shape, x.strides, x.itemsize) == (output.shape, output.strides, output.itemsize)
        )
        row[ROW_DTYPE:ROW_SHAPE] = id(x.dtype), x.itemsize, extent, in_place, x.ndim
        row[ROW_SHAPE : ROW_SHAPE + x.ndim] = x.shape
        row[ROW_STRIDES : ROW_STRIDES + x.ndim] = x.strides
    if op.short_way is None:
        op.short_way = ShortWay(op, address)
        type(op).__call__ = op.short_way.call  # type: ignore[method-assign]
    if large:
        op.short_way.add_large(given, operands[op.n_inputs :])
    op.short_way.add(record, (own_frame, decision, chosen, [x.dtype for x in operands], [*map(type, given)]))


def _look(given: Sequence[Any]) -> tuple[Any, ...]:
    """What remembered calls and the next one have in common."""
    return tuple((x.shape, x.strides, x.dtype) if type(x) is ndarray else type(x) for x in given)


def _seen_to_be_alike(op: Op, given: Sequence[Any], operands: list[np.ndarray]) -> bool:
    """Whether a look tells that operands are like these: arrays that need no conversion, plain numbers."""
    return op.types.known_by_type(given) and all(
        x is array
        if isinstance(x, ndarray)
        else type(x) in (int, float) or isinstance(x, np.integer | np.floating)
        for x, array in zip(given, operands, strict=False)
    )
