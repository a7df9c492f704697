"""Kernels that sum a row, or the rows of a matrix.

**A row** (`sum_row`). Thread t adds up the WIDTH neighbours from ``t * WIDTH`` on, and again THREADS * WIDTH
further on, in WIDTH totals; then the totals of all threads are added by shuffles.

**The rows of a matrix** (`sum_rows`). A block takes 32 * WIDTH columns. Its warps take rows in turn, so that
each reads its part of a row without gaps; then the warps' totals are added through shared memory::

    warp 0    row 0   row 8   row 16  …
    warp 1    row 1   row 9   …
    …

What is long is cut into parts of PART elements (rows), each summed by threads of its own into the workspace.
A second launch sums the parts' totals. So the order of the additions depends on lengths alone, and no atomic
operation is needed. float32 is summed in float64, as on the CPU (`nbops.tuned.sums_cpu.wide`).
"""

from __future__ import annotations

from typing import Any

from nbops.targets.cuda.toolchain import cuda
from nbops.tuned.cuda.memory import get_elements, load, load_vector, put_elements, store, store_vector
from nbops.tuned.cuda.row_kernels import position, this_row
from nbops.tuned.cuda.warps import WARP, all_sum

__all__ = [
    "part_of_columns",
    "part_of_row",
    "part_of_rows",
    "read_up_to",
    "sum_part",
    "sum_row",
    "sum_rows",
]

# What every kernel has its own of: see `nbops.tuned.cuda.sums`.
ELEMENT: Any = None
TOTAL: Any = None
RESULT: Any = None
index: Any = None
word: Any = None
ITEMSIZE, TOTAL_SIZE, RESULT_SIZE = 4, 8, 4
WIDTH, VECTOR, RESULT_VECTOR = 4, 4, 4
THREADS, PART, SCRATCH, WARPS, WARP_COLUMNS = 256, 16384, 8, 8, 128
ALIGNED = True
#: Which of the two launches this is: from the operand, and to the result.
FROM_OPERAND, TO_RESULT = True, True


def read_up_to(values: Any, place: int, count: int) -> None:
    """Read `count` neighbours, WIDTH at most; the rest is 0."""
    if ALIGNED and count >= WIDTH:
        for first in range(0, WIDTH, VECTOR):
            put_elements(values, index(first), load_vector(ELEMENT, place + first * ITEMSIZE))
    else:
        for k in range(WIDTH):
            values[k] = load(ELEMENT, place + k * ITEMSIZE) if k < count else ELEMENT(0)


def part_of_row(size: int) -> tuple[Any, Any, Any, Any]:
    """The number of a thread's part, its row, where in the row it begins, and its length."""
    number = word(this_row())
    parts = (size - 1) // PART + 1
    row = number // parts
    start = (number - row * parts) * PART
    return number, row, start, (size - start if size - start < PART else word(PART))


def part_of_columns(columns: int) -> tuple[Any, Any, Any, Any]:
    """A thread's lane and warp, the number of its block's part, and its first column."""
    thread = index(cuda.threadIdx.x)
    lane, warp = index(thread % index(WARP)), index(thread // index(WARP))
    blocks = (columns - 1) // WARP_COLUMNS + 1
    number = word(cuda.blockIdx.x) // blocks
    column = (word(cuda.blockIdx.x) - number * blocks) * WARP_COLUMNS + word(lane) * WIDTH
    return lane, warp, number, column


def part_of_rows(number: int, rows: int) -> tuple[Any, Any, Any]:
    """A part's item, its first row, and the row behind its last."""
    parts = (rows - 1) // PART + 1
    item = number // parts
    start = (number - item * parts) * PART
    return item, start, (rows if rows - start < PART else start + PART)


def sum_part(place: int, n: int) -> Any:
    """A thread's share of the sum of `n` neighbours."""
    values = cuda.local.array(WIDTH, ELEMENT)
    totals = cuda.local.array(WIDTH, TOTAL)
    for k in range(WIDTH):
        totals[k] = TOTAL(0)
    at = position(0)
    while at < n:
        read_up_to(values, place + word(at) * ITEMSIZE, word(n) - word(at))
        for k in range(WIDTH):
            totals[k] += TOTAL(values[k])
        at = index(at + index(THREADS * WIDTH))
    total = totals[0]
    for k in range(1, WIDTH):
        total += totals[k]
    return total


def sum_row(words: Any) -> None:
    """Each THREADS threads sum a part of a row, or the totals of its parts."""
    items, size, x, x_row, out, out_row, workspace = words
    scratch = cuda.shared.array(SCRATCH, TOTAL)
    parts = (size - 1) // PART + 1
    number, row, start, n = part_of_row(size)
    if not FROM_OPERAND:
        row, start, n = number, word(0), parts
    inside = row < items
    row, n = (row, n) if inside else (word(0), word(0))
    place = x + row * x_row + start * ITEMSIZE if FROM_OPERAND else workspace + row * parts * TOTAL_SIZE
    total = all_sum(sum_part(place, index(n)), scratch)
    if inside and position(0) == 0:
        if TO_RESULT:
            store(out + row * out_row, RESULT(total))
        else:
            store(workspace + number * TOTAL_SIZE, total)


def sum_rows(words: Any) -> None:
    """Each block sums a part of the rows of 32 * WIDTH columns, or the totals of the parts."""
    rows, columns, x, x_item, out, out_item, workspace = words
    scratch = cuda.shared.array(SCRATCH, TOTAL)
    values = cuda.local.array(WIDTH, ELEMENT)
    totals = cuda.local.array(WIDTH, TOTAL)
    results = cuda.local.array(WIDTH, RESULT)
    lane, warp, number, column = part_of_columns(columns)
    parts = (rows - 1) // PART + 1
    item, start, stop = part_of_rows(number, rows)
    if not FROM_OPERAND:
        item, start, stop = number, word(0), parts
    first = x + item * x_item if FROM_OPERAND else workspace + item * parts * columns * TOTAL_SIZE
    for k in range(WIDTH):
        totals[k] = TOTAL(0)
    if column < columns:
        row = start + word(warp)
        while row < stop:
            read_up_to(values, first + (row * columns + column) * ITEMSIZE, WIDTH)
            for k in range(WIDTH):
                totals[k] += TOTAL(values[k])
            row += WARPS
    for k in range(WIDTH):
        scratch[index((warp * index(WIDTH) + index(k)) * index(WARP) + lane)] = totals[k]
    cuda.syncthreads()
    if warp == 0 and column < columns:
        for k in range(WIDTH):
            total = totals[k]
            for other in range(1, WARPS):
                total += scratch[index(index((other * WIDTH + k) * WARP) + lane)]
            results[k] = RESULT(total)
        place = out + item * out_item if TO_RESULT else workspace + number * columns * TOTAL_SIZE
        place += column * RESULT_SIZE
        if ALIGNED:
            for first in range(0, WIDTH, RESULT_VECTOR):
                store_vector(place + first * RESULT_SIZE, get_elements(results, index(first)))
        else:
            for k in range(WIDTH):
                store(place + k * RESULT_SIZE, results[k])
