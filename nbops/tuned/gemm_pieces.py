"""How a matrix product is shared between cores: the pieces of C.

C is cut into equal blocks, one for each worker, in multiples of a vector of columns and of the register
tile's rows. Columns are cut first, because workers with different columns pack different panels of B.
Rows are cut where there are not enough panels for all workers, and where packing costs little: B is
small, or C is tall. For where columns are cut, two cores write one cache line of every row, and where
rows are cut, one at most (64 x 64 x 64 took up to 1.8 times as long)::

    2 workers, 5 panels            4 workers, 2 panels
    [ w0 w0 w0 | w1 w1 w1 ]        [ w0 | w1 ]
    [ w0 w0 w0 | w1 w1 w1 ]        [ w2 | w3 ]

A large product has up to four pieces for each worker, so that one whose core is slower leaves some to others.
"""

from __future__ import annotations

from typing import Any

from nbops.compiler import part
from nbops.tuned.gemm_arguments import (
    B_COLUMN,
    B_STEP,
    COLUMN_PIECES,
    COLUMN_UNIT,
    FEW_ROWS,
    IN_PLACE,
    ITEMSIZE,
    KEPT,
    LANES,
    MR,
    NEAR,
    NEAR_ROWS,
    NR,
    PAGE,
    ROW_PIECES,
    ROWS,
    SCRATCH_SIZE,
    SMALL,
    K,
    M,
    N,
    inner_block,
    near_rows,
    piece_length,
    scratch_bytes,
)

# Where columns are cut, each row of C has a cache line that two cores write. Packing all of B by each takes
# less from so many strips for each worker on, and where B has at most so many bytes for each row of C.
TALL, NARROW = 48, 512
# A worker's block is cut into so many pieces, of at least so many multiply-adds each.
PIECES_EACH, PIECE = 4, 1 << 22


@part
def cut(words: Any, workers: int) -> None:
    """Cut C into pieces for so many workers, and say how much memory each needs."""
    m, k, n, mr, nr, itemsize = words[M], words[K], words[N], words[MR], words[NR], words[ITEMSIZE]
    in_place = words[B_COLUMN] == itemsize and stays_near(k, words[B_STEP], m)
    rows_alone = in_place or k * n * itemsize <= NARROW * m
    by_rows, by_columns = 1, 1
    if workers > 1:
        by_rows, by_columns = share_out(m, n, mr, nr, workers, rows_alone)
    unit, kept = words[LANES], False
    if workers > 1 and m > FEW_ROWS and m * n * k >= 2 * PIECE * workers:
        each = min(PIECES_EACH, m * n * k // (PIECE * workers))
        rows, most = piece_length(m, mr, by_rows), near_rows(inner_block(k), itemsize)
        several = k > inner_block(k)
        if by_columns > 1 and (rows <= most or several):
            by_columns, unit = min(by_columns * each, (n + nr - 1) // nr), nr
        else:
            # Where the inner axis has several blocks, each piece packs all panels again, for many rows.
            by_rows *= max(1, min(each, rows // (4 * most))) if several else each
            kept = True
    words[ROWS], words[ROW_PIECES] = piece_length(m, mr, by_rows), by_rows
    words[COLUMN_PIECES], words[COLUMN_UNIT] = by_columns, unit
    words[IN_PLACE], words[KEPT] = in_place, kept
    columns = piece_length(n, unit, by_columns)
    words[SCRATCH_SIZE] = scratch_bytes(words[ROWS], k, columns, mr, nr, itemsize, kept)


@part
def stays_near(k: int, b_step: int, m: int) -> bool:
    """Whether B, with k rows, stays in a near cache without being packed."""
    size = k * abs(b_step)
    return size <= SMALL or (size <= NEAR and m <= NEAR_ROWS and b_step % PAGE != 0)


@part
def share_out(m: int, n: int, mr: int, nr: int, workers: int, rows_alone: bool) -> tuple[int, int]:
    """Into how many groups of rows and of columns C is cut, one of each for a worker.

    `rows_alone` says to cut rows alone where that is even.
    """
    strips = max(1, (m + mr - 1) // mr)
    even = strips % workers == 0 or strips >= 5 * workers
    tall = m > n and strips >= TALL * workers
    grid = 1 if (rows_alone and even) or tall else grid_columns(strips, (n + nr - 1) // nr, workers)
    return min(strips, workers // grid), grid


@part
def grid_columns(strips: int, panels: int, workers: int) -> int:
    """Into how many groups of columns C is cut, given its strips of mr rows and panels of nr columns.

    The most that divide the workers; where there are too few strips to cut the rows, one for each panel.
    """
    for columns in range(workers, 1, -1):
        if workers % columns == 0 and panels >= columns and strips >= workers // columns:
            return columns
    if strips < workers:
        return max(1, min(workers, panels))
    return 1
