"""Packing: copying parts of A and B to where, and in the order in which, the micro-kernel reads them.

A *panel* of B (kc rows, nr columns) becomes kc rows of nr adjacent elements. The micro-kernel then reads
memory strictly in order, whatever B's strides were, and a panel with fewer columns is filled up with
zeros::

      B[p:p+kc, j:j+nr]   -->   row p, row p+1, ..., row p+kc-1      (nr elements each)

A *strip* of A (mr rows, kc columns) only has to become compact, because the micro-kernel reads its mr
rows side by side with any strides. So it keeps A's order and is copied at the speed of memory: row after
row where rows are contiguous, column after column where columns are (A is a transposed array).
"""

from __future__ import annotations

from typing import Any

import numba

from nbops.compiler import FLAGS
from nbops.tuned.pointers import element_pointer, get, item_bytes, never_inline, put, shift, zero_of
from nbops.tuned.vectors import copy_row, copy_transposed, tile_columns, tile_rows, vector_lanes


@numba.njit(**FLAGS)
def copy_matrix(
    source: Any, row: int, column: int,
    target: Any, target_row: int, target_column: int, rows: int, columns: int,
) -> None:  # fmt: skip
    """Copy a matrix between any strides."""
    never_inline()
    size = item_bytes(source)
    if column == size and target_column == size:
        for i in range(rows):
            for j in range(columns):
                put(target, i * target_row + j * size, get(source, i * row + j * size))
    else:
        for i in range(rows):
            for j in range(columns):
                put(target, i * target_row + j * target_column, get(source, i * row + j * column))


@numba.njit(**FLAGS)
def pack_panels(
    element: Any, kc: int, b_address: int, b_step: int, b_column: int, columns: int, panel_address: int
) -> None:
    """Copy ``kc x columns`` elements of B to panels of nr columns, the last one filled up with zeros.

    Rows are the outer loop where B's rows are contiguous, because a row of one panel is less than two cache
    lines and B's next row often lies in another page.
    """
    never_inline()
    b, panel = element_pointer(element, b_address), element_pointer(element, panel_address)
    size, nr = item_bytes(b), tile_columns(b)
    whole = columns // nr if b_column == size else 0
    for k in range(kc):
        for g in range(whole):
            copy_row(shift(b, k * b_step + g * nr * size), shift(panel, (g * kc + k) * nr * size))
    for j in range(whole * nr, columns, nr):
        pack_panel(
            kc, shift(b, j * b_column), b_step, b_column, min(nr, columns - j), shift(panel, j * kc * size)
        )


@numba.njit(**FLAGS)
def pack_panel(kc: int, b: Any, b_step: int, b_column: int, columns: int, panel: Any) -> None:
    """Copy ``kc x columns`` elements of B, in any layout, to rows of nr, filled up with zeros."""
    never_inline()
    size, nr, width = item_bytes(b), tile_columns(b), vector_lanes(b)
    first = 0  # the first column that is not yet packed
    whole = kc // width * width
    while b_step == size and first + width <= columns:
        for k in range(0, whole, width):
            source = shift(b, first * b_column + k * size)
            copy_transposed(source, b_column, shift(panel, (k * nr + first) * size), nr * size)
        source, target = shift(b, first * b_column + whole * size), shift(panel, (whole * nr + first) * size)
        copy_matrix(source, size, b_column, target, nr * size, size, kc - whole, width)
        first += width
    source, target = shift(b, first * b_column), shift(panel, first * size)
    copy_matrix(source, b_step, b_column, target, nr * size, size, kc, columns - first)
    zero = zero_of(b)
    for k in range(kc):
        for j in range(columns, nr):
            put(panel, (k * nr + j) * size, zero)


@numba.njit(**FLAGS)
def pack_strip(
    element: Any, kc: int, a_address: int, a_row: int, a_step: int, rows: int, strip_address: int
) -> None:
    """Copy ``rows x kc`` elements of A, to rows of kc where its rows are contiguous, or columns of mr."""
    never_inline()
    a, strip = element_pointer(element, a_address), element_pointer(element, strip_address)
    size, mr = item_bytes(a), tile_rows()
    if a_step == size:
        copy_matrix(a, a_row, size, strip, kc * size, size, rows, kc)
    elif a_row == size and rows == mr:
        for k in range(kc):
            for i in range(mr):  # a constant, so that LLVM copies whole vectors
                put(strip, (k * mr + i) * size, get(a, k * a_step + i * size))
    else:
        copy_matrix(a, a_step, a_row, strip, mr * size, size, kc, rows)
