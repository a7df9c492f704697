"""Packing: copying parts of A and B to where, and in the order in which, the micro-kernel reads them.

A *panel* of B (kc rows, nr columns) becomes kc rows of nr adjacent elements. The micro-kernel then reads
memory strictly in order, whatever B's strides were. The last panels are narrower; they too are whole vectors
wide, filled up with what is not used::

      B[p:p+kc, j:j+nr]   -->   row p, row p+1, ..., row p+kc-1      (nr elements each)

A *strip* of A (mr rows, kc columns) only has to become compact, because the micro-kernel reads its
rows side by side with any strides. So it keeps A's order and is copied at the speed of memory: row after
row where rows are contiguous, column after column where columns are (A is a transposed array).
"""

from __future__ import annotations

from typing import Any

from nbops.compiler import part
from nbops.tuned.pointers import element_pointer, get, item_bytes, never_inline, put, shift, zero_of
from nbops.tuned.vectors import (
    copy_column,
    copy_row,
    copy_transposed,
    get_part,
    get_vector,
    put_vector,
    tile_columns,
    tile_rows,
    vector_lanes,
)

GROUP = 8  # strips, or panels, that are packed together


@part
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


@part
def pack_panels(
    element: Any, kc: int, b_address: int, b_step: int, b_column: int, columns: int, panel_address: int
) -> None:
    """Copy ``kc x columns`` elements of B to whole panels.

    Rows are the outer loop where B's rows are contiguous, because a row of one panel is less than two cache
    lines and B's next row often lies in another page.
    """
    never_inline()
    b, panel = element_pointer(element, b_address), element_pointer(element, panel_address)
    size, nr = item_bytes(b), tile_columns(b)
    if b_column == size:
        for k in range(kc):
            for g in range(columns // nr):
                copy_row(shift(b, k * b_step + g * nr * size), shift(panel, (g * kc + k) * nr * size))
    else:
        for j in range(0, columns, nr):
            pack_panel(element, kc, b_address + j * b_column, b_step, b_column, nr, nr,
                       panel_address + j * kc * size)  # fmt: skip


@part
def pack_panel(
    element: Any, kc: int, b_address: int, b_step: int, b_column: int, columns: int, width: int,
    panel_address: int,
) -> None:  # fmt: skip
    """Copy ``kc x columns`` elements of B, in any layout, to rows of `width`.

    What fills them up is zeros, or more of B.
    """
    never_inline()
    b, panel = element_pointer(element, b_address), element_pointer(element, panel_address)
    size, lanes = item_bytes(b), vector_lanes(b)
    if b_column == size:
        # After a short row comes more of B, so all but the last rows can be read as whole vectors. What lies
        # between two rows may be read too: less than a page, it has no page of its own that could be missing.
        beyond = (width - columns) * size
        whole = max(0, kc - (beyond + b_step - 1) // b_step) if 0 < b_step <= width * size else 0
        for k in range(whole):
            for j in range(0, width, lanes):
                put_vector(panel, (k * width + j) * size, get_vector(b, k * b_step + j * size))
        for k in range(whole, kc):
            for j in range(0, width, lanes):
                row = get_part(b, k * b_step + j * size, columns - j)
                put_vector(panel, (k * width + j) * size, row)
        return
    first = 0  # the first column that is not yet packed
    while b_step == size and first + lanes <= columns:
        for k in range(0, kc, lanes):
            source, target = shift(b, first * b_column + k * size), shift(panel, (k * width + first) * size)
            copy_transposed(source, b_column, target, width * size, min(lanes, kc - k))
        first += lanes
    source, target = shift(b, first * b_column), shift(panel, first * size)
    copy_matrix(source, b_step, b_column, target, width * size, size, kc, columns - first)
    zero = zero_of(b)
    for k in range(kc):
        for j in range(columns, width):
            put(panel, (k * width + j) * size, zero)


@part
def pack_strips(
    element: Any, kc: int, a_address: int, a_row: int, a_step: int, rows: int, strips: int, pitch: int
) -> None:
    """Copy ``rows x kc`` elements of A to strips: rows where its rows are contiguous, or columns of mr.

    Several strips at a time get their parts of a contiguous column, because one part is less than a cache
    line, and A's next column often lies in another page.
    """
    never_inline()
    a, strip = element_pointer(element, a_address), element_pointer(element, strips)
    size, mr = item_bytes(a), tile_rows()
    whole = rows // mr * mr if a_row == size and a_step != size else 0
    for first in range(0, whole, GROUP * mr):
        for k in range(kc):
            for i in range(first, min(whole, first + GROUP * mr), mr):
                copy_column(shift(a, k * a_step + i * size), shift(strip, i // mr * pitch + k * mr * size))
    for i in range(whole, rows, mr):
        source, target, height = shift(a, i * a_row), shift(strip, i // mr * pitch), min(mr, rows - i)
        if a_step == size:
            copy_matrix(source, a_row, size, target, pitch // mr, size, height, kc)
        else:
            copy_matrix(source, a_step, a_row, target, mr * size, size, kc, height)
