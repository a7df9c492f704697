"""Adds the parts that a product's sums were cut into, ``out[i, j] = activate(Σ parts[s, i, j] + bias[j])``.

Or scales the sum and adds it to another matrix, ``out[i, j] = addend[i, j] + factor Σ parts[s, i, j]``. There
may be one part only; `out` may be `addend`, because a thread reads no element that another one writes.

A thread adds `WIDTH` neighbours, in the order of the parts: the result is the same each time. All parts of
its elements are asked for before the first is needed, because the loop over them is unrolled.
"""

from __future__ import annotations

from typing import Any

from nbops.targets.cuda.toolchain import cuda, types
from nbops.tuned.cuda.memory import get_elements, load, load_vector, put_elements, store, store_vector

__all__ = ["add_parts"]

# What every kernel has its own of: see `nbops.tuned.cuda.gemm`.
ELEMENT: Any = types.float32
ITEMSIZE, PARTS, WIDTH, HAS_BIAS, HAS_ADDEND = 4, 2, 4, False, False
BATCH_RANK, BATCH, OUT_BATCH, BIAS_BATCH, ADDEND_BATCH, FACTOR_BATCH = 0, 0, 0, 0, 0, 0
# Places of words in the kernel's tuple; there is a bias or an addend.
M, N, K, ITEMS, WORKSPACE, OUT, OUT_M, OUT_N, BIAS, BIAS_N = range(10)
ADDEND, ADDEND_M, ADDEND_N, FACTOR = range(8, 12)

index: Any = types.uint32
word: Any = types.int64


def finish(total: Any, bias: Any) -> Any:
    """Stands in for bias and activation."""
    raise NotImplementedError


def item_offset(words: Any, item: Any, strides: int) -> Any:
    """Stands in for the offset of a batch item."""
    raise NotImplementedError


def add_parts(words: Any) -> None:
    """The kernel; see the top of the file."""
    m, n = index(words[M]), index(words[N])
    rows = index(index(words[ITEMS]) * m)
    columns = index(n // index(WIDTH))
    number = index(cuda.grid(1))
    if number >= index(rows * columns):
        return
    row = index(number // columns)
    column = index(index(number - row * columns) * index(WIDTH))
    item = index(row // m)

    total = cuda.local.array(WIDTH, ELEMENT)
    part = cuda.local.array(WIDTH, ELEMENT)
    for lane in range(WIDTH):
        total[lane] = ELEMENT(0)
    place = words[WORKSPACE] + word(number) * word(WIDTH * ITEMSIZE)
    for _ in range(PARTS):
        if WIDTH == 1:
            part[0] = load(ELEMENT, place)
        else:
            put_elements(part, index(0), load_vector(ELEMENT, place))
        for lane in range(WIDTH):
            total[lane] += part[lane]
        place += word(rows) * word(n) * word(ITEMSIZE)

    for lane in range(WIDTH):
        bias = ELEMENT(0)
        if HAS_BIAS:
            first = words[BIAS] + item_offset(words, item, BIAS_BATCH)
            bias = load(ELEMENT, first + word(column + index(lane)) * words[BIAS_N])
        total[lane] = finish(total[lane], bias)
    if HAS_ADDEND:
        place = words[ADDEND] + item_offset(words, item, ADDEND_BATCH)
        place += word(row - item * m) * words[ADDEND_M] + word(column) * words[ADDEND_N]
        if WIDTH == 1:
            part[0] = load(ELEMENT, place)
        else:
            put_elements(part, index(0), load_vector(ELEMENT, place))
        factor = load(ELEMENT, words[FACTOR] + item_offset(words, item, FACTOR_BATCH))
        for lane in range(WIDTH):
            total[lane] = part[lane] + factor * total[lane]
    place = words[OUT] + item_offset(words, item, OUT_BATCH)
    place += word(row - item * m) * words[OUT_M] + word(column) * words[OUT_N]
    if WIDTH == 1:
        store(place, total[0])
    else:
        store_vector(place, get_elements(total, index(0)))
