"""Products with vectors: each number of a matrix is used once, so reading the matrix is all that counts.

**Along a row** (`matrix_times_vector`, `vector_times_vector`). THREADS threads share a row and add up its
products, each those of WIDTH neighbours from ``t * WIDTH`` on and again THREADS * WIDTH further on; shuffles
add the threads' totals.

**Along a column** (`vector_times_matrix`), for a matrix whose columns are next to each other. A block takes
32 * WIDTH columns and its warps take rows in turn, each a part of a row without gaps; the warps' totals are
added through shared memory.

What is long is cut into parts of PART elements (rows), whose totals go to the workspace; the kernels of
`nbops.tuned.cuda.sum_kernels` add them. The order of the additions depends on lengths and alignment alone.
float32 is multiplied and added in float64, as the CPU does for `vecdot` (`nbops.tuned.sums_cpu.wide`).
"""

from __future__ import annotations

from typing import Any

from nbops.targets.cuda.toolchain import cuda
from nbops.tuned.cuda.memory import load, store
from nbops.tuned.cuda.row_kernels import position
from nbops.tuned.cuda.sum_kernels import part_of_columns, part_of_row, part_of_rows, read_up_to
from nbops.tuned.cuda.warps import WARP, all_sum

__all__ = [
    "dot",
    "matrix_times_vector",
    "put_total",
    "read",
    "vector_times_matrix",
    "vector_times_vector",
]

# What every kernel has its own of: see `nbops.tuned.cuda.vector_products`.
ELEMENT: Any = None
TOTAL: Any = None
index: Any = None
word: Any = None
ITEMSIZE, TOTAL_SIZE, WIDTH, THREADS, PART, SCRATCH, WARPS, WARP_COLUMNS = 4, 8, 4, 256, 16384, 8, 8, 128
ALIGNED, WHOLE = True, True


def read(values: Any, first: int, at: int, step: int, n: int) -> None:
    """Read the WIDTH elements from number `at` on; 0 for what is past the n-th."""
    if ALIGNED:
        read_up_to(values, first + word(at) * ITEMSIZE, word(n) - word(at))
    else:
        values[0] = load(ELEMENT, first + word(at) * step)


def dot(left: int, right: int, left_step: int, right_step: int, n: int, scratch: Any) -> Any:
    """The dot product of two vectors, by THREADS threads; all of them get it."""
    a = cuda.local.array(WIDTH, ELEMENT)
    b = cuda.local.array(WIDTH, ELEMENT)
    totals = cuda.local.array(WIDTH, TOTAL)
    for k in range(WIDTH):
        totals[k] = TOTAL(0)
    at = position(0)
    while at < n:
        read(a, left, at, left_step, n)
        read(b, right, at, right_step, n)
        for k in range(WIDTH):
            totals[k] += TOTAL(a[k]) * TOTAL(b[k])
        at = index(at + index(THREADS * WIDTH))
    total = totals[0]
    for k in range(1, WIDTH):
        total += totals[k]
    return all_sum(total, scratch)


def put_total(total: Any, place: int, workspace: int, number: int) -> None:
    """Write a row's total where it belongs, or a part's into the workspace."""
    if WHOLE:
        store(place, ELEMENT(total))
    else:
        store(workspace + number * TOTAL_SIZE, total)


def matrix_times_vector(words: Any) -> None:
    """Each THREADS threads compute a part of one element of ``out = a @ x``."""
    items, m, size, a, a_item, a_row, a_step, x, x_item, x_step, out, out_item, out_row, workspace = words
    scratch = cuda.shared.array(SCRATCH, TOTAL)
    number, row, start, n = part_of_row(size)
    inside = row < items * m
    row, n = (row, n) if inside else (word(0), word(0))
    item = row // m
    row -= item * m
    left = a + item * a_item + row * a_row + start * a_step
    right = x + item * x_item + start * x_step
    total = dot(left, right, a_step, x_step, index(n), scratch)
    if inside and position(0) == 0:
        put_total(total, out + item * out_item + row * out_row, workspace, number)


def vector_times_vector(words: Any) -> None:
    """Each THREADS threads compute a part of the dot product of one pair of vectors."""
    items, size, x, x_item, x_step, y, y_item, y_step, out, out_item, workspace = words
    scratch = cuda.shared.array(SCRATCH, TOTAL)
    number, item, start, n = part_of_row(size)
    inside = item < items
    item, n = (item, n) if inside else (word(0), word(0))
    left = x + item * x_item + start * x_step
    right = y + item * y_item + start * y_step
    total = dot(left, right, x_step, y_step, index(n), scratch)
    if inside and position(0) == 0:
        put_total(total, out + item * out_item, workspace, number)


def vector_times_matrix(words: Any) -> None:
    """Each block computes a part of WARP_COLUMNS elements of ``out = x @ a``."""
    rows, columns, x, x_item, x_step, a, a_item, a_row, out, out_item, out_step, workspace = words
    scratch = cuda.shared.array(SCRATCH, TOTAL)
    values = cuda.local.array(WIDTH, ELEMENT)
    totals = cuda.local.array(WIDTH, TOTAL)
    lane, warp, number, column = part_of_columns(columns)
    item, start, stop = part_of_rows(number, rows)
    for k in range(WIDTH):
        totals[k] = TOTAL(0)
    if column < columns:
        row = start + word(warp)
        place = a + item * a_item + row * a_row + column * ITEMSIZE
        weight = x + item * x_item + row * x_step
        while row < stop:
            factor = TOTAL(load(ELEMENT, weight))
            read_up_to(values, place, columns - column)
            for k in range(WIDTH):
                totals[k] += factor * TOTAL(values[k])
            row += WARPS
            place += WARPS * a_row
            weight += WARPS * x_step
    for k in range(WIDTH):
        scratch[index((warp * index(WIDTH) + index(k)) * index(WARP) + lane)] = totals[k]
    cuda.syncthreads()
    if warp == 0:
        for k in range(WIDTH):
            at = column + k
            if at < columns:
                total = totals[k]
                for other in range(1, WARPS):
                    total += scratch[index(index((other * WIDTH + k) * WARP) + lane)]
                put_total(total, out + item * out_item + at * out_step, workspace, number * columns + at)
