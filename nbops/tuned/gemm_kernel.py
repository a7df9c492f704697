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

from numba import types

from nbops.compiler import part
from nbops.targets.atomics import load, store, swap_if
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
    C_COLUMN,
    C_ROW,
    COLUMN_PIECES,
    COLUMN_UNIT,
    FEW_ROWS,
    HOLDS,
    IN_PLACE,
    KEPT,
    LINE,
    NC,
    PAGE,
    PAGED_ROWS,
    RECTIFY,
    ROW_PIECES,
    ROWS,
    SCRATCH,
    SCRATCH_SIZE,
    SLOTS,
    TAKEN,
    VERY_FEW,
    A,
    B,
    C,
    K,
    M,
    N,
    inner_block,
    piece_start,
    rest_panel,
    row_block,
    strip_bytes,
    whole_panels,
)
from nbops.tuned.gemm_finish import finish
from nbops.tuned.gemm_packing import GROUP, pack_panel, pack_panels, pack_strips
from nbops.tuned.gemm_rows import multiply_elements, multiply_rows
from nbops.tuned.pointers import element_pointer, item_bytes, never_inline, shift
from nbops.tuned.prefetch import prefetch_line_to_l2, prefetch_line_to_write
from nbops.tuned.tile import (
    add_outer_product,
    row_offsets,
    store_tile,
    tile_height,
    tile_lines,
    tile_width,
    zero_tile,
)
from nbops.tuned.vectors import tile_columns, tile_rows, vector_lanes

ELEMENT = types.float64  # `nbops.tuned.gemm_cpu` puts the dtype here
COPY_A = 128  # with more columns than this, strips of A are packed, unless they lie well as they are


@part
def multiply_tile(
    width: Any, element: Any, kc: int, strip: int, strip_row: int, strip_step: int, rows: int,
    panel: int, panel_step: int, ahead: int, pace: int, sums: int, sums_row: int, c: int, c_row: int,
    before: int, before_row: int,
) -> None:  # fmt: skip
    """The micro-kernel: write a strip of A times a panel of B to the tile at `sums`.

    A strip's elements are adjacent in its rows (the first loop) or in its columns (the second); a tile of
    half the width has twice the rows. Meanwhile the loops ask for memory: for what lies `ahead`, `pace` bytes
    further every four steps, and in the first steps for the tile's lines of C and of `before`. `finish` would
    have to wait for every row; all at once, they would keep the loop waiting.
    """
    never_inline()
    a, b = element_pointer(element, strip), element_pointer(element, panel)
    tile = zero_tile(width, a)
    size = item_bytes(a)
    packed = kc // 4 * 4
    by_rows = packed if strip_step == size else 0
    height = tile_height(width)
    by_columns = packed if strip_row == size and rows == height and by_rows == 0 else 0
    offsets = row_offsets(width, strip_row, rows)
    # The four steps are written out twice: as a function inlined into both loops, 64 x 64 x 64 took 1.1 times
    # as long.
    for step in range(by_rows // 4):
        ask(step, width, ahead + step * pace, c, c_row, before, before_row)
        tile = add_outer_product(tile, offsets, a, b)
        tile = add_outer_product(tile, offsets, shift(a, size), shift(b, panel_step))
        tile = add_outer_product(tile, offsets, shift(a, 2 * size), shift(b, 2 * panel_step))
        tile = add_outer_product(tile, offsets, shift(a, 3 * size), shift(b, 3 * panel_step))
        a, b = shift(a, 4 * size), shift(b, 4 * panel_step)
    whole = row_offsets(width, size, height)
    for step in range(by_columns // 4):
        ask(step, width, ahead + step * pace, c, c_row, before, before_row)
        tile = add_outer_product(tile, whole, a, b)
        tile = add_outer_product(tile, whole, shift(a, strip_step), shift(b, panel_step))
        tile = add_outer_product(tile, whole, shift(a, 2 * strip_step), shift(b, 2 * panel_step))
        tile = add_outer_product(tile, whole, shift(a, 3 * strip_step), shift(b, 3 * panel_step))
        a, b = shift(a, 4 * strip_step), shift(b, 4 * panel_step)
    for _ in range(by_rows + by_columns, kc):
        tile = add_outer_product(tile, offsets, a, b)
        a, b = shift(a, strip_step), shift(b, panel_step)
    store_tile(tile, element_pointer(element, sums), sums_row)


@part
def ask(step: int, width: Any, ahead: int, c: int, c_row: int, before: int, before_row: int) -> None:
    """Ask for one more line of what lies ahead, of the tile in C, and of what the sums are added to."""
    prefetch_line_to_l2(ahead)
    rows = tile_height(width)
    if step < rows * tile_lines(width):
        row, offset = step % rows, step // rows * LINE
        prefetch_line_to_write(c + row * c_row + offset)
        if before != c:
            prefetch_line_to_write(before + row * before_row + offset)


@part
def to_be_packed(b: int, b_step: int, kc: int, size: int, tile: int) -> tuple[int, int]:
    """Where a tile, by its number, begins to ask for what is packed next, and the bytes to the next line.

    A tile asks kc / 4 times: four tiles for one line of each of B's rows, or all along its columns.
    """
    times = kc // 4
    if b_step == size:
        return b + tile * times * LINE, LINE
    return b + tile % 4 * times * b_step + tile // 4 * LINE, b_step


@part
def lies_well(arguments: Any, size: int) -> bool:
    """Whether strips of A are read where they are, because their rows are contiguous.

    Of a strip whose columns are contiguous, each step reads part of another cache line, and often of another
    page.
    """
    return arguments[A_STEP] == size and (arguments[A_ROW] % PAGE != 0 or PAGED_ROWS)


@part  # one function fewer to compile: half a second
def multiply_block(
    arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: int, size: int, nr: int,
    kept: bool, fresh: bool,
) -> None:  # fmt: skip
    """``C[i0:i1, j0:j1]``, at most NC bytes of columns.

    `kept` says whether all panels are to be kept, and `fresh` whether they are still to be packed.
    """
    mr = tile_rows()
    k, a_row, a_step = arguments[K], arguments[A_ROW], arguments[A_STEP]
    b_step, b_column = arguments[B_STEP], arguments[B_COLUMN]
    c_row, c_column = arguments[C_ROW], arguments[C_COLUMN]
    sums = element_pointer(element, scratch)
    lanes = vector_lanes(sums)
    block = inner_block(k)
    most = row_block(i1 - i0, block, mr, size)
    kept = kept or i1 - i0 > most
    panels = scratch + mr * nr * size  # before the strips, so that all of their vectors begin on a line
    strips = panels + ((j1 - j0 + nr - 1) // nr if kept else 1) * nr * block * size
    copy_a = j1 - j0 > COPY_A and not lies_well(arguments, size)
    plain = c_column == size and arguments[ALPHA] == 0 and arguments[ADDEND] == 0
    plain = plain and arguments[BIAS] == 0 and arguments[RECTIFY] == 0
    whole = whole_panels(j1 - j0, nr, lanes) * nr
    # Panels that one block of rows meets are used once: all in the same place, which stays in a near cache.
    keep, group = (size, GROUP * nr) if kept else (0, nr)
    for p in range(0, max(k, 1), block):  # once even when k is 0: the product is then zeros
        kc = min(block, k - p)
        first, last = p == 0, p + kc == k
        for ic in range(i0, i1, most):
            ie = min(i1, ic + most)
            # The tiles of one panel together ask for all of the next one: kc / 4 times for each strip.
            pace = min(LINE, 4 * nr * size // ((ie - ic + mr - 1) // mr) + 1)
            strip, pitch = arguments[A] + ic * a_row + p * a_step, mr * a_row
            strip_row, strip_step = a_row, a_step
            if copy_a:
                pitch = strip_bytes(mr, kc, size)
                pack_strips(element, kc, strip, a_row, a_step, ie - ic, strips, pitch)
                strip, strip_row, strip_step = strips, size, mr * size
                if a_step == size:
                    strip_row, strip_step = pitch // mr, size
            # Whether the rows of two strips are as far apart as those of one. If not, half of a tile that is
            # as tall as two is computed in vain, in the last panel of a wide product.
            even = pitch == mr * strip_row
            coming, asked, needed = 0, 0, 0
            j = j0
            while j < j1:
                width = nr if j - j0 < whole else rest_panel(j1 - j, nr, lanes)
                columns = min(width, j1 - j)
                panel, panel_step = panels + (j - j0) * kc * keep, width * size
                b = arguments[B] + p * b_step + j * b_column
                if arguments[IN_PLACE] != 0 and columns == width:
                    panel, panel_step = b, b_step
                elif fresh and ic == i0 and j - j0 >= whole:
                    pack_panel(element, kc, b, b_step, b_column, columns, width, panel)
                elif fresh and ic == i0 and (j - j0) % group == 0:
                    packed = min(group, whole - (j - j0))
                    pack_panels(element, kc, b, b_step, b_column, packed, panel)
                    coming, asked, needed = b + packed * b_column, 0, 4 * packed * size // LINE
                height = tile_height(tile_width(3)) if 2 * width <= nr else mr
                step = height if even else mr
                for i in range(ic, ie, step):
                    rows, a = min(step, ie - i), strip + (i - ic) // mr * pitch
                    c = arguments[C] + i * c_row + j * c_column
                    before, before_row = c, c_row
                    if first and arguments[ADDEND] != 0:
                        before_row = arguments[ADDEND_ROW]
                        before = arguments[ADDEND] + i * before_row + j * arguments[ADDEND_COLUMN]
                    ahead, onwards = panel + (i - ic) // mr * (kc // 4) * pace, pace
                    if ic > i0 or not fresh:  # the next panel is packed already
                        ahead += width * kc * size
                    elif asked < needed:
                        ahead, onwards = to_be_packed(coming, b_step, kc, size, asked)
                        asked += 1
                    direct = plain and first and rows == height and columns == width
                    target, row = (c, c_row) if direct else (scratch, width * size)
                    if width == nr:
                        multiply_tile(
                            tile_width(0), element, kc, a, strip_row, strip_step, rows, panel, panel_step,
                            ahead, onwards, target, row, c, c_row, before, before_row,
                        )  # fmt: skip
                    elif width + lanes == nr:
                        multiply_tile(
                            tile_width(1), element, kc, a, strip_row, strip_step, rows, panel, panel_step,
                            ahead, onwards, target, row, c, c_row, before, before_row,
                        )  # fmt: skip
                    elif width + 2 * lanes == nr:
                        multiply_tile(
                            tile_width(2), element, kc, a, strip_row, strip_step, rows, panel, panel_step,
                            ahead, onwards, target, row, c, c_row, before, before_row,
                        )  # fmt: skip
                    else:
                        multiply_tile(
                            tile_width(3), element, kc, a, strip_row, strip_step, rows, panel, panel_step,
                            ahead, onwards, target, row, c, c_row, before, before_row,
                        )  # fmt: skip
                    if not direct:
                        finish(arguments, element, sums, row, i, rows, j, columns, first, last)
                j += width


@part
def take_slot(arguments: Any, piece: int) -> int:
    """The address of a slot of scratch memory that no thread has, if possible the one that it had before."""
    slots, size = arguments[SLOTS], arguments[SCRATCH_SIZE]
    pieces = arguments[ROW_PIECES] * arguments[COLUMN_PIECES]
    if slots == pieces:
        own: int = arguments[SCRATCH] + piece * size
        return own
    slot = piece * slots // pieces
    while swap_if(arguments[SCRATCH] + slot * size + TAKEN, 0, 1) == 0:
        slot = (slot + 1) % slots  # there are as many as threads
    address: int = arguments[SCRATCH] + slot * size
    return address


def multiply(arguments: Any, start: int, stop: int) -> None:
    """The task: the pieces of C from `start` to `stop`."""
    m, n, k, pieces = arguments[M], arguments[N], arguments[K], arguments[ROW_PIECES]
    if arguments[SCRATCH] == 0:
        multiply_elements(arguments, ELEMENT)
        return
    slot = take_slot(arguments, start)
    scratch = slot + LINE
    like = element_pointer(ELEMENT, scratch)
    size, mr, nr = item_bytes(like), tile_rows(), tile_columns(like)
    unit, columns = arguments[COLUMN_UNIT], arguments[COLUMN_PIECES]
    adjacent = arguments[B_COLUMN] == size
    few = arguments[ROWS] <= (FEW_ROWS if adjacent and arguments[IN_PLACE] == 0 else VERY_FEW)
    few = few and (adjacent or arguments[B_STEP] == size)
    for piece in range(start, stop):
        row, column = (piece, 0) if columns == 1 else (piece % pieces, piece // pieces)
        i0, i1 = piece_start(m, mr, row, pieces), piece_start(m, mr, row + 1, pieces)
        j0, j1 = piece_start(n, unit, column, columns), piece_start(n, unit, column + 1, columns)
        if i0 == i1:
            continue
        if few:
            multiply_rows(arguments, ELEMENT, i0, i1, j0, j1, scratch)
            continue
        kept = arguments[KEPT] != 0 and k <= inner_block(k) and j1 - j0 <= NC // size
        fresh = not kept or load(slot + HOLDS) != 1 + column
        for j in range(j0, j1, NC // size):
            end = min(j1, j + NC // size)
            multiply_block(arguments, ELEMENT, i0, i1, j, end, scratch, size, nr, kept, fresh)
        store(slot + HOLDS, 1 + column if kept else 0)
    if arguments[SLOTS] < pieces * columns:
        store(slot + TAKEN, 0)
