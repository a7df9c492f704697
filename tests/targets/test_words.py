"""Tables of words on the stack of compiled code: zeros at first, read and written by row and column."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numba import types
from numba.core import errors

from nbops import compiler
from nbops.targets.tasks import frame_pointer
from nbops.targets.words import Rows, new_rows, new_words

WIDTH = 5
new_table = new_rows(WIDTH)


def fill(rows: int, out: int) -> int:
    """A table of ``10 row + column``, but for the last column, copied to `out`; the sum of what was there."""
    table, words = new_table(rows), new_words(rows)
    before = 0
    for row in range(rows):
        before += words[row]
        for column in range(WIDTH):
            before += table[row, column]
    flag = np.int32(1)
    for row in range(rows):
        words[row] = row
        for column in range(WIDTH - 1):
            table[row, column] = 10 * words[row] + column
        table[row, 0] += flag  # of another type
        table[row, 0] -= 1
    target = frame_pointer(out)
    for row in range(rows):
        for column in range(WIDTH):
            target[row * WIDTH + column] = table[row, np.uint8(column)]
    return before


def test_tables_on_the_stack() -> None:
    native = compiler.native(types.int64(types.int64, types.int64), compiler.specialise(fill, "test"))
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(native.address)
    for rows in (1, 2, 7, 7):  # the last one finds what the one before left on the stack
        out = np.full((rows, WIDTH), -1)
        assert call(rows, out.ctypes.data) == 0
        expected = 10 * np.arange(rows)[:, None] + np.arange(WIDTH)
        expected[:, -1] = 0
        np.testing.assert_array_equal(out, expected)


def test_a_width_has_one_type() -> None:
    assert Rows(3) == Rows(3)
    assert Rows(3) != Rows(4)
    assert new_rows(3) is new_rows(3)


def read(rows: int) -> int:
    return new_table(rows)[0]


def test_a_table_is_read_by_pairs_only() -> None:
    with pytest.raises(errors.TypingError, match="getitem"):
        compiler.native(types.int64(types.int64), compiler.specialise(read, "test"))
