"""The inner task of every matrix product: ``C[i0:i1, j0:j1] = activation(A @ B + bias)`` for a block of C.

**Blocking.** The tile (see `nbops.tuned.tile`) saves loads; blocking and packing make the remaining ones cheap,
by keeping each operand in the cache from which it is read::

            j0      jc  j      j1                for jc in steps of nc:          columns
             |      |   |nr|    |                  for p in steps of kc:         inner axis
       kc  B |......[===|##|===]|                    pack B[p:p+kc, jc:jc+nc]
                                                     for ic in steps of mc:      rows
       A  kc                                           for j in steps of nr:     panels of B
      i0 ....                                            for i in steps of mr:   strips of A
      ic [==]       [   |  |   ]                           tile = A strip @ B panel
       i [##]       [   |##|   ] mr                        C[i:i+mr, j:j+nr] += tile
         [==]       [   |  |   ]
      i1 ....         C

A strip of ``mr x kc`` stays in the L1 cache while it meets a panel, a panel of ``kc x nr`` while it meets the
strips of ``mc`` rows, and those rows of A (``mc x kc``) stay in L2 while they meet all panels.

**Packing** copies a panel so that its rows lie one after the other: the micro-kernel then reads memory strictly
in order, whatever B's strides were, and the columns that a last panel lacks are filled with zeros::

      B[p:p+kc, j:j+nr]   -->   row p, row p+1, ..., row p+kc-1     (nr elements each)

It costs one pass over B and pays when a panel is used often enough. A few rows of A use B in place. A is read
where it lies, mr rows side by side, unless its strides are unfriendly.

**The same bits always.** Every element of C is computed as ``((t0 + t1) + t2 ...) + bias``, where block q of the
inner axis gives ``tq = fma(a, b, ... fma(a, b, 0))`` in the order of k. The blocks depend on the length of the
inner axis alone. So an element does not depend on the number of threads, on the other rows or columns, on where
in a tile it fell, or on which of the functions below computed it.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from nbops.compiler import FLAGS
from nbops.tuned.tile import (
    add_matrix,
    add_outer_product,
    address_of,
    copy_row,
    copy_transposed,
    element_pointer,
    get,
    item_bytes,
    multiply_add,
    never_inline,
    put,
    rectify,
    row_offsets,
    shift,
    store_tile,
    tile_columns,
    tile_rows,
    vector_lanes,
    zero_of,
    zero_tile,
)

# The argument block, in 64-bit words. Strides are in bytes; BIAS may be 0.
A, A_ROW, A_STEP = 0, 1, 2
B, B_STEP, B_COLUMN = 3, 4, 5
C, C_ROW, C_COLUMN = 6, 7, 8
M, K, N = 9, 10, 11
BIAS, BIAS_STRIDE, RECTIFY = 12, 13, 14
# worker w computes ROWS x COLUMNS elements from row w // GRID * ROWS and column w % GRID * COLUMNS,
# with SCRATCH_SIZE bytes from SCRATCH + w * SCRATCH_SIZE
GRID, ROWS, COLUMNS, SCRATCH, SCRATCH_SIZE = 15, 16, 17, 18, 19
# for `gemm_tasks.run_batch`: which row of the frame gives each address (0: it is constant), and for what tile
A_OPERAND, B_OPERAND, C_OPERAND, BIAS_OPERAND, FRAME_ADDRESS = 20, 21, 22, 23, 24
MR, NR, ITEMSIZE, KERNEL, WORKERS, ONE = 25, 26, 27, 28, 29, 30
ARGUMENTS = 31

KC, MC, NC = 400, 192, 2016  # NC is a multiple of every nr, MC of every mr
KC_STEP = 16  # blocks of the inner axis are multiples of this, so that whole vectors can be transposed
IN_PLACE = 2  # as many strips of A read B where it lies
ROW_CHUNK = 1024  # columns that `multiply_row` keeps in the L1 cache
ELEMENT = types.float64  # `gemm_cpu` replaces it
LINE = 64  # bytes in a cache line


@numba.njit(**FLAGS)
def inner_block(k: int) -> int:
    """The length of a block of an inner axis of length `k`: at most KC, and all nearly equal."""
    blocks = max(1, (k + KC - 1) // KC)
    return max(1, ((k + blocks - 1) // blocks + KC_STEP - 1) // KC_STEP) * KC_STEP


@numba.njit(**FLAGS)
def scratch_bytes(rows: int, k: int, columns: int, mr: int, nr: int, itemsize: int) -> int:
    """What `multiply_block` and `multiply_row` need for a block of C, in bytes."""
    kc = inner_block(k)
    panels = (min(columns, NC) + nr - 1) // nr * nr * kc
    strips = (min(rows, MC) + mr - 1) // mr * mr * kc
    spare = (mr + 1) * nr
    return (max(panels + strips + spare, ROW_CHUNK) * itemsize // LINE + 4) * LINE


@numba.njit(**FLAGS)
def multiply_tile(
    kc: int, a: Any, a_row: int, a_step: int, b: Any, b_step: int, c: Any, c_row: int, c_column: int,
    rows: int, columns: int, accumulate: bool, bias: Any, relu: bool, spare: Any,
) -> None:  # fmt: skip
    """The micro-kernel: ``C (+)= A @ B (+ bias)`` for a strip of A and a panel of B.

    A ragged tile, or one whose columns are not adjacent, goes through a whole tile in `spare`.
    """
    never_inline()
    tile = zero_tile(a)
    offsets = row_offsets(a_row, rows)
    for _ in range(kc):
        tile = add_outer_product(tile, offsets, a, b)
        a = shift(a, a_step)
        b = shift(b, b_step)
    whole = rows == tile_rows() and columns == tile_columns(a) and c_column == item_bytes(c)
    target, stride = c, c_row
    if not whole:
        target, stride = spare, tile_columns(a) * item_bytes(a)
        if accumulate:
            copy_matrix(c, c_row, c_column, target, stride, item_bytes(c), rows, columns)
    if accumulate:
        tile = add_matrix(tile, target, stride)
    if address_of(bias) != 0:
        tile = add_matrix(tile, bias, 0)
    if relu:
        tile = rectify(tile)
    store_tile(tile, target, stride)
    if not whole:
        copy_matrix(target, stride, item_bytes(c), c, c_row, c_column, rows, columns)


@numba.njit(**FLAGS)
def copy_matrix(
    source: Any, row: int, column: int, target: Any, target_row: int, target_column: int, rows: int, columns: int
) -> None:
    """Copy a matrix of any strides."""
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
def pack_panel(kc: int, b: Any, b_step: int, b_column: int, columns: int, panel: Any) -> None:
    """Copy ``kc x columns`` elements of B to rows of nr, filled up with zeros."""
    never_inline()
    size = item_bytes(b)
    nr = tile_columns(b)
    width = vector_lanes(b)
    first = 0  # the first column that is not yet packed
    if b_column == size and columns == nr:
        for k in range(kc):
            copy_row(shift(b, k * b_step), shift(panel, k * nr * size))
        first = nr
    elif b_step == size:
        whole = kc // width * width
        while first + width <= columns:
            for k in range(0, whole, width):
                source = shift(b, first * b_column + k * size)
                copy_transposed(source, b_column, shift(panel, (k * nr + first) * size), nr * size)
            copy_matrix(
                shift(b, first * b_column + whole * size), size, b_column,
                shift(panel, (whole * nr + first) * size), nr * size, size, kc - whole, width,
            )  # fmt: skip
            first += width
    source, target = shift(b, first * b_column), shift(panel, first * size)
    copy_matrix(source, b_step, b_column, target, nr * size, size, kc, columns - first)
    zero = zero_of(b)
    for k in range(kc):
        for j in range(columns, nr):
            put(panel, (k * nr + j) * size, zero)


@numba.njit(**FLAGS)
def pack_strip(kc: int, a: Any, a_row: int, a_step: int, rows: int, strip: Any) -> None:
    """Copy ``rows x kc`` elements of A to columns of mr; those past the last row repeat it."""
    never_inline()
    size = item_bytes(a)
    mr = tile_rows()
    for k in range(kc):
        for i in range(mr):
            put(strip, (k * mr + i) * size, get(a, min(i, rows - 1) * a_row + k * a_step))


@numba.njit(**FLAGS, inline="always")
def multiply_block(arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: Any) -> None:
    """``C[i0:i1, j0:j1]``; at most NC columns."""
    size, mr, nr = item_bytes(scratch), tile_rows(), tile_columns(scratch)
    a_row, a_step, b_step, b_column = arguments[A_ROW], arguments[A_STEP], arguments[B_STEP], arguments[B_COLUMN]
    k = arguments[K]
    block = inner_block(k)
    spare = scratch
    bias_row = shift(spare, mr * nr * size)
    strips = shift(bias_row, nr * size)
    panels = shift(strips, (min(i1 - i0, MC) + mr - 1) // mr * mr * block * size)
    copy_a = j1 - j0 > 128 and is_unfriendly(a_row, a_step, size)
    in_place = b_column == size and i1 - i0 <= IN_PLACE * mr
    p = 0
    while True:  # once even when k is 0: the product is then zeros
        kc = min(block, k - p)
        last = p + kc >= k
        for ic in range(i0, i1, MC):
            ie = min(i1, ic + MC)
            strip, strip_bytes = element_pointer(element, arguments[A] + ic * a_row + p * a_step), mr * a_row
            strip_row, strip_step = a_row, a_step
            if copy_a:
                for i in range(ic, ie, mr):
                    source = shift(strip, (i - ic) * a_row)
                    pack_strip(kc, source, a_row, a_step, min(mr, ie - i), shift(strips, (i - ic) * kc * size))
                strip, strip_bytes, strip_row, strip_step = strips, mr * kc * size, size, mr * size
            for j in range(j0, j1, nr):
                columns = min(nr, j1 - j)
                panel, panel_step = shift(panels, (j - j0) * kc * size), nr * size
                b = element_pointer(element, arguments[B] + p * b_step + j * b_column)
                if in_place and columns == nr:
                    panel, panel_step = b, b_step
                elif ic == i0:
                    pack_panel(kc, b, b_step, b_column, columns, panel)
                bias = element_pointer(element, 0)
                if last and arguments[BIAS] != 0:
                    bias = element_pointer(element, arguments[BIAS] + j * arguments[BIAS_STRIDE])
                    if columns < nr or arguments[BIAS_STRIDE] != size:
                        copy_matrix(bias, 0, arguments[BIAS_STRIDE], bias_row, 0, size, 1, columns)
                        bias = bias_row
                for i in range(ic, ie, mr):
                    c = arguments[C] + i * arguments[C_ROW] + j * arguments[C_COLUMN]
                    multiply_tile(
                        kc, shift(strip, (i - ic) // mr * strip_bytes), strip_row, strip_step, panel, panel_step,
                        element_pointer(element, c), arguments[C_ROW], arguments[C_COLUMN],
                        min(mr, ie - i), columns, p > 0, bias, last and arguments[RECTIFY] != 0, spare,
                    )  # fmt: skip
        p += kc
        if last:
            break


@numba.njit(**FLAGS, inline="always")
def is_unfriendly(row: int, step: int, size: int) -> bool:
    """Whether mr rows of A should be copied side by side before they are read once per panel.

    Either neither stride is an element, or they are a multiple of 4096 bytes, which sends all of them to the
    same few lines of the L1 cache.
    """
    return (row != size and step != size) or max(abs(row), abs(step)) % 4096 == 0


@numba.njit(**FLAGS)
def multiply_row(arguments: Any, element: Any, j0: int, j1: int, sums: Any) -> None:
    """``C[0, j0:j1]`` for adjacent columns of B: reads each row of B once, in order, at the memory's speed.

    Four rows at a time, so that `sums` is loaded and stored once for four multiply-adds.
    """
    never_inline()
    size = item_bytes(sums)
    k = arguments[K]
    block = inner_block(k)
    for jc in range(j0, j1, ROW_CHUNK):
        columns = min(ROW_CHUNK, j1 - jc)
        p = 0
        while True:
            kc = min(block, k - p)
            last = p + kc >= k
            for j in range(columns):
                put(sums, j * size, zero_of(sums))
            whole = kc - kc % 4
            for q in range(p, p + whole, 4):
                a0, b0 = row_of(arguments, element, q, jc)
                a1, b1 = row_of(arguments, element, q + 1, jc)
                a2, b2 = row_of(arguments, element, q + 2, jc)
                a3, b3 = row_of(arguments, element, q + 3, jc)
                for j in range(columns):
                    total = multiply_add(a0, get(b0, j * size), get(sums, j * size))
                    total = multiply_add(a1, get(b1, j * size), total)
                    total = multiply_add(a2, get(b2, j * size), total)
                    put(sums, j * size, multiply_add(a3, get(b3, j * size), total))
            for q in range(p + whole, p + kc):
                a0, b0 = row_of(arguments, element, q, jc)
                for j in range(columns):
                    put(sums, j * size, multiply_add(a0, get(b0, j * size), get(sums, j * size)))
            for j in range(columns):
                c = element_pointer(element, arguments[C] + (jc + j) * arguments[C_COLUMN])
                total = get(sums, j * size)
                if p > 0:
                    total = get(c, 0) + total
                if last and arguments[BIAS] != 0:
                    total += get(element_pointer(element, arguments[BIAS]), (jc + j) * arguments[BIAS_STRIDE])
                if last and arguments[RECTIFY] != 0 and total < zero_of(sums):
                    total = zero_of(sums)
                put(c, 0, total)
            p += kc
            if last:
                break


@numba.njit(**FLAGS)
def row_of(arguments: Any, element: Any, k: int, j: int) -> tuple[Any, Any]:
    """``A[0, k]`` and a pointer to ``B[k, j]``."""
    a = element_pointer(element, arguments[A])
    b = element_pointer(element, arguments[B] + k * arguments[B_STEP] + j * arguments[B_COLUMN])
    return get(a, k * arguments[A_STEP]), b


def multiply(arguments: Any, start: int, stop: int) -> None:
    """The task: the blocks of workers `start` to `stop`."""
    for worker in range(start, stop):
        i0 = worker // arguments[GRID] * arguments[ROWS]
        j0 = worker % arguments[GRID] * arguments[COLUMNS]
        i1 = min(arguments[M], i0 + arguments[ROWS])
        j1 = min(arguments[N], j0 + arguments[COLUMNS])
        scratch = element_pointer(ELEMENT, arguments[SCRATCH] + worker * arguments[SCRATCH_SIZE])
        if i0 < i1 and arguments[M] == 1 and arguments[B_COLUMN] == item_bytes(scratch):
            multiply_row(arguments, ELEMENT, j0, j1, scratch)
        elif i0 < i1:
            for jc in range(j0, j1, NC):
                multiply_block(arguments, ELEMENT, i0, i1, jc, min(j1, jc + NC), scratch)
