"""What the parts of a matrix product tell each other: the argument block, and how it is cut into blocks.

The argument block is a table of 64-bit integers, like the frame. It describes one product
``C = activation(addend + alpha A @ B + bias)`` by addresses, byte strides and sizes, and is all that compiled
code gets.
"""

from __future__ import annotations

from nbops.compiler import part
from nbops.tuned.caches import cache_bytes

# The product. Strides are in bytes, in the order of the axes of A[m, k], B[k, n], C[m, n], bias[m, n] and
# addend[m, n]. `run_batch` relies on the order A, B, C, bias, addend, alpha, three words each.
A, A_ROW, A_STEP = 0, 1, 2
B, B_STEP, B_COLUMN = 3, 4, 5
C, C_ROW, C_COLUMN = 6, 7, 8
BIAS, BIAS_ROW, BIAS_COLUMN = 9, 10, 11  # BIAS may be 0: none
ADDEND, ADDEND_ROW, ADDEND_COLUMN = 12, 13, 14  # ADDEND may be 0: none; it may be C itself
ALPHA = 15  # where the factor of A @ B is; may be 0: none
M, K, N = 18, 19, 20
RECTIFY = 21  # whether the activation is relu; otherwise there is none

# The pieces of C (see `piece_start`): number p is number p % ROW_PIECES of the rows, at most ROWS of them,
# and number p // ROW_PIECES of the columns. A thread that computes some takes one of SLOTS stretches of
# memory, SCRATCH_SIZE bytes from SCRATCH + s * SCRATCH_SIZE on. Where SCRATCH is 0, there is no memory: one
# thread computes all of C.
SLOTS, ROW_PIECES, ROWS, COLUMN_PIECES, COLUMN_UNIT, SCRATCH, SCRATCH_SIZE = 17, 22, 23, 24, 25, 26, 27

# Whether a slot keeps all packed panels of its columns, for other pieces of the same columns. A slot's memory
# begins with a line of two words: whether it is taken, and 1 + the number of the columns whose panels it has.
KEPT = 16
TAKEN, HOLDS = 0, 8

IN_PLACE = 28  # whether a B that fits is read where it lies, without being packed

# Up to here, in four cache lines, is what a thread reads that computes a piece: with a fifth line, a product
# of 64 x 64 x 64 took 1.1 times as long. The rest is for `gemm_tasks.run_batch`: the frame, the row of the
# frame that each address comes from (0: it is constant), the tile, the address of the dtype's `multiply`, and
# room for a 1; and for `gemm_rows`, room for one element.
FRAME_ADDRESS = 32
A_OPERAND, B_OPERAND, C_OPERAND, BIAS_OPERAND, ADDEND_OPERAND, ALPHA_OPERAND = 33, 34, 35, 36, 37, 38
OPERANDS = 6
MR, NR, LANES, ITEMSIZE, KERNEL, ONE, TOTAL = 39, 40, 41, 42, 43, 44, 45
ARGUMENTS = 46

# Block sizes, by the megabytes of the L2 cache: KC in elements, MC and NC in bytes (an MC of 768 is 192 rows
# of float32, or 96 of float64), and whether A is read where it lies even if its rows are whole pages apart.
# NC is a multiple of every nr. The longer KC, the less often C is read and written; MC rows and two panels of
# that length must fit in the L2 cache (see `row_block`). KC x NC is each worker's part of the L3 cache: 8 MB
# where a core has 2 MB of L2, and other caches to match, took 0.95 to 0.99 of the time of 4 MB for a
# product of 2048, because A is read half as often; where cores share a smaller L3 cache, a tenth more.
KC, MC, NC, PAGED_ROWS = {0: (400, 768, 8448, False), 1: (1040, 384, 4608, False)}.get(
    cache_bytes(2) >> 20, (1040, 960, 8448, True)
)
SHORT = min(64, cache_bytes(2) // NC)  # a short inner axis: kc such that all panels stay in the L2 cache
KC_STEP = 16  # blocks of the inner axis are multiples of this, so that whole vectors can be transposed
# `multiply_rows` takes so many rows, or VERY_FEW where B is in a near cache or transposed, and keeps so many
# bytes of sums.
# With VERY_FEW columns, the product is transposed, so that they are rows.
FEW_ROWS, VERY_FEW, SUMS = 32, 4, cache_bytes(1) // 2 or 16384
TURNED = 64  # it copies so many rows and columns of a transposed B at a time, for VERY_FEW rows of A
LINE = 64  # bytes in a cache line
PAGE = 4096  # rows whole pages apart compete for the same places in a cache
# A B of at most SMALL bytes stays in the L1 cache. One of at most NEAR stays in L2, and reading it from there
# costs each strip of A a little; packing it costs as much as that for so many rows.
SMALL, NEAR, NEAR_ROWS = cache_bytes(1) * 3 // 4 or 16384, cache_bytes(2) // 4, 512


@part
def piece_start(length: int, unit: int, piece: int, pieces: int) -> int:
    """Where a piece of an axis begins: they have whole units, and some have one more, the first above all.

    For the caller, who computes that one, begins before the others.
    """
    if piece == 0 or piece == pieces:  # most often, and without a division
        return 0 if piece == 0 else length
    return min(length, ((length + unit - 1) // unit * piece + pieces - 1) // pieces * unit)


@part
def piece_length(length: int, unit: int, pieces: int) -> int:
    """The length of the longest piece, or a little more."""
    if pieces == 1:
        return length
    return ((length + unit - 1) // unit + pieces - 1) // pieces * unit


@part
def inner_block(k: int) -> int:
    """The length of a block of an inner axis of length `k`: at most KC, and all nearly equal.

    It depends on nothing else, so that an element of C is always summed in the same order.
    """
    blocks = max(1, (k + KC - 1) // KC)
    return max(1, ((k + blocks - 1) // blocks + KC_STEP - 1) // KC_STEP) * KC_STEP


@part
def near_rows(kc: int, itemsize: int) -> int:
    """How many rows of A, of `kc` columns, make a block.

    As many as stay in the L2 cache: MC bytes of KC columns, more of fewer. But no more than MC is for
    float32: an update of weights of 784 x 512 took 1.1 times as long in one block as in blocks of 240.

    Of a short inner axis, all panels of B stay in the L2 cache, and what takes long is to write C. Then there
    are few rows, so that C is written along its rows rather than down its columns, where each element may lie
    in another page: 5000 x 20 x 5000 took 0.37 of the time in blocks of 24 rows.
    """
    if kc <= SHORT:
        return 24
    return min(MC // 4, MC * KC // (kc * itemsize))


@part
def row_block(rows: int, kc: int, mr: int, itemsize: int) -> int:
    """How many rows of A are multiplied before the next ones: all, or blocks that are nearly equal."""
    most = near_rows(kc, itemsize)
    blocks = max(1, (rows + most - 1) // most)
    return ((rows + blocks - 1) // blocks + 2 * mr - 1) // (2 * mr) * 2 * mr


@part
def whole_panels(columns: int, nr: int, lanes: int) -> int:
    """How many panels of nr columns are cut from so many columns, before those of `rest_panel`.

    A vector by itself would leave the processor waiting for memory. So a vector that would be left alone
    shares the columns of the last whole panel.
    """
    left = columns % nr
    return columns // nr - (0 < left <= lanes and 2 * lanes < nr <= columns)


@part
def rest_panel(columns: int, nr: int, lanes: int) -> int:
    """The width, in whole vectors, of the next panel for the columns that `whole_panels` leaves."""
    width = (columns + lanes - 1) // lanes * lanes
    return width if width <= nr else 2 * lanes


@part
def scratch_bytes(rows: int, k: int, columns: int, mr: int, nr: int, itemsize: int, kept: bool) -> int:
    """What a thread needs for a piece of C: packed strips and panels and a tile, or some rows of sums.

    Enough for fewer rows, too: they can make one block where `rows` make two. `kept` says whether all panels
    are kept for other pieces.
    """
    kc = inner_block(k)
    most = near_rows(kc, itemsize)
    columns_kept = min(columns, NC // itemsize) if rows > most or kept else nr
    panels = (columns_kept + nr - 1) // nr * nr * kc * itemsize
    strips = (min(rows, most + 2 * mr) + mr - 1) // mr * strip_bytes(mr, kc, itemsize)
    turned = TURNED * TURNED * itemsize
    size: int = (max(panels + strips + mr * nr * itemsize, SUMS + turned) // LINE + 2) * LINE
    return size


@part
def strip_bytes(mr: int, kc: int, itemsize: int) -> int:
    """How far a packed strip of A is from the next one.

    Were they whole pages apart, those that are written together would compete for the same places in a cache.
    """
    size: int = mr * (kc * itemsize + 16)
    return size
