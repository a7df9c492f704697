"""From sums of products to C: ``C = activation(bias + alpha sums + addend)`` for a block of C.

The kernels leave their sums in memory that is still in the L1 cache. For each block of the inner axis what is
added is the addend (the first block) or what C holds by then (the others); bias and activation follow the
last block. See `nbops.tuned.gemm_kernel` for the order of the additions.

Where the columns of all operands are adjacent, whole vectors are read and written; what is left at the end of
a row is a vector of which only a part is touched. Otherwise it goes element by element.
"""

from __future__ import annotations

from typing import Any

from nbops.compiler import part
from nbops.tuned.gemm_arguments import (
    ADDEND,
    ADDEND_COLUMN,
    ADDEND_ROW,
    ALPHA,
    BIAS,
    BIAS_COLUMN,
    BIAS_ROW,
    C_COLUMN,
    C_ROW,
    RECTIFY,
    C,
)
from nbops.tuned.lanes import inlined
from nbops.tuned.pointers import element_pointer, get, item_bytes, never_inline, put, shift, zero_of
from nbops.tuned.vectors import (
    add_vectors,
    get_part,
    get_vector,
    put_part,
    put_vector,
    rectify_vector,
    scale_vector,
    vector_lanes,
)


@part
def finish(
    arguments: Any, element: Any, sums: Any, sums_row: int,
    i: int, rows: int, j: int, columns: int, first: bool, last: bool,
) -> None:  # fmt: skip
    """``C[i:i+rows, j:j+columns]`` from the sums of one block of the inner axis, `sums_row` bytes a row."""
    never_inline()
    size = item_bytes(sums)
    c_row, c_column = arguments[C_ROW], arguments[C_COLUMN]
    c = element_pointer(element, arguments[C] + i * c_row + j * c_column)
    before, before_row, before_column = c, c_row, c_column
    added = not first or arguments[ADDEND] != 0
    if first and added:
        before_row, before_column = arguments[ADDEND_ROW], arguments[ADDEND_COLUMN]
        before = element_pointer(element, arguments[ADDEND] + i * before_row + j * before_column)
    biased = last and arguments[BIAS] != 0
    bias_row, bias_column = arguments[BIAS_ROW], arguments[BIAS_COLUMN]
    bias = element_pointer(element, arguments[BIAS] + i * bias_row + j * bias_column)
    scaled, rectified = arguments[ALPHA] != 0, last and arguments[RECTIFY] != 0
    alpha = element_pointer(element, arguments[ALPHA])
    adjacent = (
        c_column == size and (not added or before_column == size) and (not biased or bias_column == size)
    )
    lanes = vector_lanes(sums)
    whole = columns // lanes * lanes
    # Plain sums, which are most, need no look at what is added: a product with ten columns takes 0.94.
    if adjacent and not (scaled or added or biased or rectified):
        for r in range(rows):
            for q in range(0, whole, lanes):
                put_vector(c, r * c_row + q * size, get_vector(sums, r * sums_row + q * size))
            if whole < columns:
                rest = get_part(sums, r * sums_row + whole * size, columns - whole)
                put_part(c, r * c_row + whole * size, columns - whole, rest)
        return
    for r in range(rows):
        row, c_, before_ = shift(sums, r * sums_row), shift(c, r * c_row), shift(before, r * before_row)
        bias_ = shift(bias, r * bias_row)
        if adjacent:
            for q in range(0, whole, lanes):
                finish_vector(
                    row, c_, before_, bias_, alpha, q * size, lanes, scaled, added, biased, rectified
                )
            if whole < columns:
                finish_vector(
                    row, c_, before_, bias_, alpha, whole * size, columns - whole, scaled, added, biased,
                    rectified,
                )  # fmt: skip
        else:
            for q in range(columns):
                total = get(row, q * size)
                if scaled:
                    total = get(alpha, 0) * total
                if added:
                    total = get(before_, q * before_column) + total
                if biased:
                    total = get(bias_, q * bias_column) + total
                if rectified and total < zero_of(sums):
                    total = zero_of(sums)
                put(c_, q * c_column, total)


@inlined
def read(pointer: Any, offset: int, count: int) -> Any:
    """A vector of `count` elements."""
    if count == vector_lanes(pointer):
        return get_vector(pointer, offset)
    return get_part(pointer, offset, count)


@inlined
def finish_vector(
    row: Any, c: Any, before: Any, bias: Any, alpha: Any, offset: int, count: int,
    scaled: bool, added: bool, biased: bool, rectified: bool,
) -> None:  # fmt: skip
    """`count` elements of a row of C, at most as many as a vector holds."""
    total = read(row, offset, count)
    if scaled:
        total = scale_vector(alpha, total)
    if added:
        total = add_vectors(read(before, offset, count), total)
    if biased:
        total = add_vectors(read(bias, offset, count), total)
    if rectified:
        total = rectify_vector(total)
    if count == vector_lanes(row):
        put_vector(c, offset, total)
    else:
        put_part(c, offset, count, total)
