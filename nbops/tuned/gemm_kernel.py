"""The inner task of every matrix product: ``C = activation(addend + alpha A @ B + bias)`` for a block of C.

**Blocking.** The tile (see `nbops.tuned.tile`) saves loads; blocking and packing make the remaining ones
cheap, by keeping each operand in the cache from which it is read::

            j0      jc  j      j1                for jc in steps of nc:          columns
             |      |   |nr|    |                  for p in steps of kc:         inner axis
       kc  B |......[===|##|===]|
                                                     for ic in steps of mc:      rows
       A  kc                                           for j in steps of nr:     panels of B
      i0 ....                                            for i in steps of mr:   strips of A
      ic [==]       [   |  |   ]                           tile = A strip @ B panel
       i [##]       [   |##|   ] mr                        C[i:i+mr, j:j+nr] += tile
         [==]       [   |  |   ]
      i1 ....         C

A strip of ``mr x kc`` elements stays in the L1 cache while it meets a panel; a panel of ``kc x nr`` stays
close to it while it meets the strips of mc rows; those rows (``mc x kc``) stay in the L2 cache while they
meet all panels. Strips and panels are *packed* (see `nbops.tuned.gemm_packing`), a panel when it is first
used. Each copy costs as much as reading the operand once, and saves that much each time it is used again.

**The same bits always.** Every element of C is computed as ``bias + (... + (t1 + (t0 + addend)))``, where
block q of the inner axis gives ``tq = alpha fma(a, b, ... fma(a, b, 0))`` in the order of k. The blocks
depend on the length of the inner axis alone. So an element does not depend on the number of threads, on the
other rows or columns, on where in a tile it fell, or on which function computed it.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from nbops.compiler import FLAGS
from nbops.tuned.gemm_arguments import (
    A_ROW,
    A_STEP,
    ADDEND,
    ADDEND_COLUMN,
    ADDEND_ROW,
    ALPHA,
    B_COLUMN,
    B_STEP,
    BIAS,
    BIAS_COLUMN,
    BIAS_ROW,
    C_COLUMN,
    C_ROW,
    COLUMNS,
    FEW_ROWS,
    GRID,
    MC,
    NC,
    RECTIFY,
    REST,
    REST_ROWS,
    ROWS,
    SCRATCH,
    SCRATCH_SIZE,
    A,
    B,
    C,
    K,
    M,
    N,
    inner_block,
)
from nbops.tuned.gemm_packing import copy_matrix, pack_panels, pack_strip
from nbops.tuned.gemm_rows import multiply_rows
from nbops.tuned.pointers import element_pointer, item_bytes, never_inline, shift
from nbops.tuned.tile import (
    add_matrix,
    add_outer_product,
    prefetch_tile,
    rectify,
    row_offsets,
    scale_tile,
    store_tile,
    zero_tile,
)
from nbops.tuned.vectors import tile_columns, tile_rows

ELEMENT = types.float64  # `nbops.tuned.gemm_cpu` puts the dtype here
COPY_A = 128  # with more columns than this, strips of A are packed
GROUP = 8  # panels that are packed together
IN_PLACE = 16384  # a B of at most so many bytes stays in the L1 cache and is not packed


@numba.njit(**FLAGS)
def multiply_tile(
    arguments: Any, element: Any, kc: int, strip: int, strip_row: int, strip_step: int,
    panel: int, panel_step: int, i: int, j: int, rows: int, columns: int, first: bool, last: bool, spare: int,
) -> None:  # fmt: skip
    """The micro-kernel: add a strip of A times a panel of B to the tile of C at row i and column j.

    The `first` product of a tile is added to the addend or replaces what C held; after the `last`, bias and
    activation are applied.
    A ragged tile, or one whose columns are not adjacent, goes through a whole tile in `spare` memory.
    """
    never_inline()
    c_row, c_column = arguments[C_ROW], arguments[C_COLUMN]
    c = element_pointer(element, arguments[C] + i * c_row + j * c_column)
    prefetch_tile(c, c_row)
    a, b = element_pointer(element, strip), element_pointer(element, panel)
    tile = zero_tile(a)
    offsets = row_offsets(strip_row, rows)
    size, nr = item_bytes(c), tile_columns(c)
    packed_step = nr * size  # a constant, unlike panel_step
    whole = kc // 4 * 4 if panel_step == packed_step else 0
    for _ in range(0, whole, 4):
        tile = add_outer_product(tile, offsets, a, b)
        a = shift(a, strip_step)
        tile = add_outer_product(tile, offsets, a, shift(b, packed_step))
        a = shift(a, strip_step)
        tile = add_outer_product(tile, offsets, a, shift(b, 2 * packed_step))
        a = shift(a, strip_step)
        tile = add_outer_product(tile, offsets, a, shift(b, 3 * packed_step))
        a, b = shift(a, strip_step), shift(b, 4 * packed_step)
    for _ in range(whole, kc):
        tile = add_outer_product(tile, offsets, a, b)
        a, b = shift(a, strip_step), shift(b, panel_step)
    ragged = rows < tile_rows() or columns < nr
    target, row = c, c_row
    through_spare = ragged or c_column != size
    if through_spare:
        target, row = element_pointer(element, spare), nr * size
    if arguments[ALPHA] != 0:
        tile = scale_tile(tile, element_pointer(element, arguments[ALPHA]))
    before, before_row, before_column = c, c_row, c_column
    if first and arguments[ADDEND] != 0:
        before_row, before_column = arguments[ADDEND_ROW], arguments[ADDEND_COLUMN]
        before = element_pointer(element, arguments[ADDEND] + i * before_row + j * before_column)
    if not first or arguments[ADDEND] != 0:
        if ragged or before_column != size:
            whole = element_pointer(element, spare)
            copy_matrix(before, before_row, before_column, whole, nr * size, size, rows, columns)
            before, before_row = whole, nr * size
        tile = add_matrix(tile, before, before_row)
    if last and arguments[BIAS] != 0:
        bias_row, bias_column = arguments[BIAS_ROW], arguments[BIAS_COLUMN]
        bias = element_pointer(element, arguments[BIAS] + i * bias_row + j * bias_column)
        if ragged or bias_column != size:
            whole = element_pointer(element, spare + tile_rows() * nr * size)
            copy_matrix(bias, bias_row, bias_column, whole, nr * size, size, rows, columns)
            bias, bias_row = whole, nr * size
        tile = add_matrix(tile, bias, bias_row)
    if last and arguments[RECTIFY] != 0:
        tile = rectify(tile)
    store_tile(tile, target, row)
    if through_spare:
        copy_matrix(target, row, size, c, c_row, c_column, rows, columns)


@numba.njit(**FLAGS, inline="always")  # one function fewer to compile: half a second
def multiply_block(
    arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: int, size: int, nr: int
) -> None:
    """``C[i0:i1, j0:j1]``, at most NC columns."""
    mr = tile_rows()
    k, a_row, a_step = arguments[K], arguments[A_ROW], arguments[A_STEP]
    b_step, b_column = arguments[B_STEP], arguments[B_COLUMN]
    block = inner_block(k)
    strips = scratch + 2 * mr * nr * size
    panels = strips + (min(i1 - i0, MC) + mr - 1) // mr * mr * block * size
    in_place = b_column == size and k * abs(b_step) <= IN_PLACE
    copy_a = j1 - j0 > COPY_A
    for p in range(0, max(k, 1), block):  # once even when k is 0: the product is then zeros
        kc = min(block, k - p)
        first, last = p == 0, p + kc == k
        for ic in range(i0, i1, MC):
            ie = min(i1, ic + MC)
            strip, pitch = arguments[A] + ic * a_row + p * a_step, mr * a_row
            strip_row, strip_step = a_row, a_step
            if copy_a:
                pitch = mr * kc * size
                for i in range(ic, ie, mr):
                    rows = min(mr, ie - i)
                    target = strips + (i - ic) // mr * pitch
                    pack_strip(element, kc, strip + (i - ic) * a_row, a_row, a_step, rows, target)
                strip, strip_row, strip_step = strips, size, mr * size
                if a_step == size:
                    strip_row, strip_step = kc * size, size
            for j in range(j0, j1, nr):
                columns = min(nr, j1 - j)
                panel, panel_step = panels + (j - j0) * kc * size, nr * size
                b = arguments[B] + p * b_step + j * b_column
                if in_place and columns == nr:
                    panel, panel_step = b, b_step
                elif ic == i0 and (in_place or (j - j0) % (GROUP * nr) == 0):
                    pack_panels(element, kc, b, b_step, b_column, min(GROUP * nr, j1 - j), panel)
                for i in range(ic, ie, mr):
                    multiply_tile(
                        arguments, element, kc, strip + (i - ic) // mr * pitch, strip_row, strip_step,
                        panel, panel_step, i, j, min(mr, ie - i), columns, first, last, scratch,
                    )  # fmt: skip


def multiply(arguments: Any, start: int, stop: int) -> None:
    """The task: the blocks of C of workers `start` to `stop`."""
    m, n = arguments[M], arguments[N]
    for worker in range(start, stop):
        scratch = arguments[SCRATCH] + worker * arguments[SCRATCH_SIZE]
        like = element_pointer(ELEMENT, scratch)
        size, nr = item_bytes(like), tile_columns(like)
        i0, rows = worker // arguments[GRID] * arguments[ROWS], arguments[ROWS]
        j0, columns = worker % arguments[GRID] * arguments[COLUMNS], arguments[COLUMNS]
        for _ in range(2):
            i1, j1 = min(m, i0 + rows), min(n, j0 + columns)
            if i0 < i1:
                few = i1 - i0 <= FEW_ROWS and arguments[B_COLUMN] == size
                if few and (i1 - i0 == 1 or arguments[K] * abs(arguments[B_STEP]) > IN_PLACE):
                    multiply_rows(arguments, ELEMENT, i0, i1, j0, j1, scratch)
                else:
                    for jc in range(j0, j1, NC):
                        multiply_block(arguments, ELEMENT, i0, i1, jc, min(j1, jc + NC), scratch, size, nr)
            i0, rows = worker * arguments[REST_ROWS], arguments[REST_ROWS]
            j0, columns = arguments[REST], n - arguments[REST]
