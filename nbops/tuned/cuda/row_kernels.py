"""Kernels that read a row, sum over it, and write a row, a number, or both: softmax and its relatives.

All of them compute a total of terms, and then what each element becomes of it::

                  term              what is written
    softmax       exp(x - peak)     exp(x - peak) / total
    log_softmax   exp(x - peak)     x - peak - log(total)
    cross-entropy exp(x - peak)     log(total) - (x[label] - peak), or its gradient

THREADS threads share a row: some lanes of a warp, a warp, or a block. Thread t takes WIDTH neighbours from
``t * WIDTH`` on, and again THREADS * WIDTH further on, so that a warp reads memory without gaps.

**In registers** (`row_in_registers`). The row is read once, by COUNT elements a thread, and stays in
registers for the peak, the sum and the result.

**Streamed** (`streamed_row`). A row too long for that is read once for peak and total together, where a
higher peak rescales the total so far, and once more where a row is written.

An op writes a row, a number from the labelled element, or both: HAS_ROW and HAS_NUMBER say which.

The order of all additions depends on the length of the row and on whether it is aligned, on nothing else.
"""

from __future__ import annotations

import math
from typing import Any

from nbops.targets.cuda.toolchain import cuda
from nbops.tuned.cuda.memory import get_elements, load, load_vector, put_elements, store, store_vector
from nbops.tuned.cuda.warps import all_largest, all_sum

__all__ = [
    "chosen_of",
    "finish_chunk",
    "peak_of",
    "position",
    "put_number",
    "read_chunk",
    "read_row",
    "rescaled",
    "row_in_registers",
    "streamed_row",
    "summarise",
    "this_row",
    "write_chunk",
]

# What every kernel has its own of: see `nbops.tuned.cuda.rows`.
ELEMENT: Any = None
index: Any = None
word: Any = None
ITEMSIZE, WIDTH, THREADS, BLOCK, COUNT, SCRATCH = 4, 4, 32, 128, 16, 1
HAS_PEAK, HAS_LABEL, HAS_ROW, HAS_NUMBER = True, False, True, False
LOWEST: Any = -math.inf


def term(value: Any, peak: Any) -> Any:
    """What an element adds to the total; stands in for the op's own."""
    return math.exp(value - peak)


def kept(value: Any, own_term: Any) -> Any:
    """What `finish` is given, the element or its term; stands in for the op's own."""
    return own_term


def share(total: Any, upstream: Any) -> Any:
    """What is computed once a row; stands in for the op's own."""
    return ELEMENT(1) / total


def finish(kept: Any, peak: Any, shared: Any) -> Any:
    """What an element becomes; stands in for the op's own."""
    return kept * shared


def finish_label(value: Any, finished: Any, upstream: Any) -> Any:
    """What the labelled element becomes; stands in for the op's own."""
    return finished - upstream


def loss(value: Any, peak: Any, total: Any) -> Any:
    """A row's number, from its labelled element; stands in for the op's own."""
    return math.log(total) - (value - peak)


# ---- a thread's part of a row -------------------------------------------------------------------------


def this_row() -> Any:
    """The row that this thread works on."""
    return index(index(cuda.blockIdx.x) * index(BLOCK // THREADS) + index(cuda.threadIdx.x) // index(THREADS))


def position(chunk: int) -> Any:
    """Where in the row a thread's chunk begins."""
    lane = index(index(cuda.threadIdx.x) % index(THREADS))
    return index(index(index(chunk) * index(THREADS) + lane) * index(WIDTH))


def read_chunk(values: Any, first: int, row: int, at: int, n: int) -> None:
    """Read WIDTH elements of a row into ``values[first:]``; what is past its end is LOWEST."""
    if at < n:
        if WIDTH == 1:
            values[first] = load(ELEMENT, row + word(at) * ITEMSIZE)
        else:
            put_elements(values, index(first), load_vector(ELEMENT, row + word(at) * ITEMSIZE))
    else:
        for k in range(WIDTH):
            values[first + k] = LOWEST


def write_chunk(values: Any, first: int, row: int, at: int, n: int) -> None:
    """Write WIDTH elements of a row, as far as they are inside."""
    if at < n:
        if WIDTH == 1:
            store(row + word(at) * ITEMSIZE, values[first])
        else:
            store_vector(row + word(at) * ITEMSIZE, get_elements(values, index(first)))


# ---- rows that fit into registers ---------------------------------------------------------------------


def read_row(values: Any, row: int, n: int) -> None:
    """A thread's part of a row."""
    for chunk in range(COUNT // WIDTH):
        read_chunk(values, chunk * WIDTH, row, position(chunk), n)


def peak_of(values: Any, scratch: Any) -> Any:
    """The row's largest element. A NaN may be passed over: it comes back through the exponential."""
    peak = values[0]
    for i in range(1, COUNT):
        peak = values[i] if values[i] > peak else peak
    return all_largest(peak, scratch)


def finish_chunk(
    values: Any, first: int, at: int, peak: Any, shared: Any, upstream: Any, labelled: int, size: int
) -> None:
    """WIDTH elements become what is written."""
    for k in range(WIDTH):
        value = values[first + k]
        finished = finish(value, peak, shared)
        if HAS_LABEL:
            if word(at) + k == labelled:
                finished = finish_label(value, finished, upstream)
            if labelled < 0 or labelled >= size:
                finished = ELEMENT(math.nan)
        values[first + k] = finished


def chosen_of(values: Any, labelled: int, n: int) -> tuple[Any, Any]:
    """The labelled element, and whether this thread holds it."""
    chosen = ELEMENT(0)
    owner = False
    for i in range(COUNT):
        at = position(i // WIDTH)
        if word(at) + i % WIDTH == labelled:
            chosen = values[i]
            owner = at < n
    return chosen, owner


def put_number(place: int, chosen: Any, owner: Any, first: Any, peak: Any, total: Any, outside: Any) -> None:
    """Write a row's number, by the thread that holds its label; the first writes NaN where there is none."""
    if owner:
        store(place, loss(chosen, peak, total))
    elif first and outside:
        store(place, ELEMENT(math.nan))


def row_in_registers(words: Any) -> None:
    """A row becomes a row, or a number, or both."""
    items, size, label, label_row, x, x_row, dout, dout_row, out, out_row, number, number_row = words
    scratch = cuda.shared.array(SCRATCH, ELEMENT)
    more_scratch = cuda.shared.array(SCRATCH, ELEMENT)
    values = cuda.local.array(COUNT, ELEMENT)
    row = word(this_row())
    inside = row < items
    n = index(size) if inside else index(0)
    row = row if inside else word(0)
    read_row(values, x + row * x_row, n)
    peak = peak_of(values, scratch) if HAS_PEAK else ELEMENT(0)
    labelled = load(word, label + row * label_row) if HAS_LABEL else word(0)
    chosen, owner = chosen_of(values, labelled, n) if HAS_NUMBER else (ELEMENT(0), False)
    total = ELEMENT(0)
    for i in range(COUNT):
        own_term = term(values[i], peak)
        total += own_term if position(i // WIDTH) < n else ELEMENT(0)
        if HAS_ROW:
            values[i] = kept(values[i], own_term)
    total = all_sum(total, more_scratch)
    if HAS_NUMBER:
        first, outside = inside and position(0) == 0, labelled < 0 or labelled >= size
        put_number(number + row * number_row, chosen, owner, first, peak, total, outside)
    if HAS_ROW:
        upstream = load(ELEMENT, dout + row * dout_row) if HAS_LABEL else ELEMENT(0)
        shared = share(total, upstream)
        for chunk in range(COUNT // WIDTH):
            finish_chunk(values, chunk * WIDTH, position(chunk), peak, shared, upstream, labelled, size)
            write_chunk(values, chunk * WIDTH, out + row * out_row, position(chunk), n)


# ---- rows that don't ------------------------------------------------------------------------------------


def summarise(row: int, n: int, scratch: Any, more_scratch: Any) -> tuple[Any, Any]:
    """A row's peak, and the total of its terms, in one pass."""
    values = cuda.local.array(WIDTH, ELEMENT)
    peak = LOWEST
    total = ELEMENT(0)
    at = position(0)
    while at < n:
        read_chunk(values, 0, row, at, n)
        if HAS_PEAK:
            higher = peak
            for k in range(WIDTH):
                higher = values[k] if values[k] > higher else higher
            total = rescaled(total, peak, higher)
            peak = higher
        # exp(-inf - -inf) would be NaN, where a part of a row is -inf only
        shift = peak if peak != LOWEST else ELEMENT(0)
        for k in range(WIDTH):
            total += term(values[k], shift)
        at = index(at + index(THREADS * WIDTH))
    if HAS_PEAK:
        highest = all_largest(peak, scratch)
        total = rescaled(total, peak, highest)
        peak = highest
    return peak, all_sum(total, more_scratch)


def rescaled(total: Any, peak: Any, higher: Any) -> Any:
    """A total of exponentials below `peak`, as one below a higher peak."""
    return total if peak == higher else total * ELEMENT(math.exp(peak - higher))


def streamed_row(words: Any) -> None:
    """A row becomes a row, or a number, or both, one block a row."""
    _, size, label, label_row, x, x_row, dout, dout_row, out, out_row, number, number_row = words
    scratch = cuda.shared.array(SCRATCH, ELEMENT)
    more_scratch = cuda.shared.array(SCRATCH, ELEMENT)
    values = cuda.local.array(WIDTH, ELEMENT)
    row = word(this_row())
    n = index(size)
    peak, total = summarise(x + row * x_row, n, scratch, more_scratch)
    if HAS_NUMBER and cuda.threadIdx.x == 0:
        labelled = load(word, label + row * label_row)
        outside = labelled < 0 or labelled >= size
        chosen = load(ELEMENT, x + row * x_row + (word(0) if outside else labelled) * ITEMSIZE)
        put_number(number + row * number_row, chosen, not outside, True, peak, total, outside)
    if HAS_ROW:
        labelled = load(word, label + row * label_row) if HAS_LABEL else word(0)
        upstream = load(ELEMENT, dout + row * dout_row) if HAS_LABEL else ELEMENT(0)
        shared = share(total, upstream)
        at = position(0)
        while at < n:
            read_chunk(values, 0, x + row * x_row, at, n)
            for k in range(WIDTH):
                values[k] = kept(values[k], term(values[k], peak))
            finish_chunk(values, 0, at, peak, shared, upstream, labelled, size)
            write_chunk(values, 0, out + row * out_row, at, n)
            at = index(at + index(THREADS * WIDTH))
