"""A product of few rows, limited by how fast B can be read.

Each element of B is used once per row of A, so with few rows nothing is gained by packing it: reading it
is the work. `multiply_rows` therefore reads B's rows in the order of memory, four at a time, and adds
their multiples to the rows of sums, which stay in the L1 cache::

      A                  B
      [a0 a1 a2 a3 ..]   [b0 b0 b0 b0 b0 ..]      sums += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
                         [b1 b1 b1 b1 b1 ..]
                         [b2 b2 b2 b2 b2 ..]      (one addition after the other,
                         [b3 b3 b3 b3 b3 ..]       in the order in which the tile adds)
"""

from __future__ import annotations

from typing import Any

import numba

from nbops.compiler import FLAGS
from nbops.tuned.gemm_arguments import (
    A_ROW,
    A_STEP,
    ADDEND,
    ADDEND_COLUMN,
    ADDEND_ROW,
    ALPHA,
    B_STEP,
    BIAS,
    BIAS_COLUMN,
    BIAS_ROW,
    C_COLUMN,
    C_ROW,
    RECTIFY,
    SUMS,
    A,
    B,
    C,
    K,
    inner_block,
)
from nbops.tuned.pointers import element_pointer, get, item_bytes, never_inline, put, shift, zero_of
from nbops.tuned.vectors import multiply_add


@numba.njit(**FLAGS)
def multiply_rows(arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: int) -> None:
    """``C[i0:i1, j0:j1]``, at most FEW_ROWS rows, where B's columns are adjacent."""
    never_inline()
    k = arguments[K]
    block = inner_block(k)
    chunk = SUMS // (i1 - i0)
    for jc in range(j0, j1, chunk):
        columns = min(chunk, j1 - jc)
        for p in range(0, max(k, 1), block):  # once even when k is 0: the product is then zeros
            end = min(k, p + block)
            add_block(arguments, element, i0, i1, jc, columns, p, end, scratch)
            finish_rows(arguments, element, i0, i1, jc, columns, p > 0, end == k, scratch)


@numba.njit(**FLAGS)
def add_block(
    arguments: Any, element: Any, i0: int, i1: int, j: int, columns: int, start: int, stop: int, scratch: int
) -> None:
    """``sums = A[i0:i1, start:stop] @ B[start:stop, j:j+columns]``."""
    sums = element_pointer(element, scratch)
    size = item_bytes(sums)
    for q in range((i1 - i0) * columns):
        put(sums, q * size, zero_of(sums))
    step, b_step = arguments[A_STEP], arguments[B_STEP]
    whole = start + (stop - start) // 4 * 4
    for q in range(start, whole, 4):
        b0 = element_pointer(element, arguments[B] + q * b_step + j * size)
        b1, b2, b3 = shift(b0, b_step), shift(b0, 2 * b_step), shift(b0, 3 * b_step)
        for i in range(i0, i1):
            a = element_pointer(element, arguments[A] + i * arguments[A_ROW] + q * step)
            a0, a1, a2, a3 = get(a, 0), get(a, step), get(a, 2 * step), get(a, 3 * step)
            row = shift(sums, (i - i0) * columns * size)
            for c in range(columns):
                total = multiply_add(a0, get(b0, c * size), get(row, c * size))
                total = multiply_add(a1, get(b1, c * size), total)
                total = multiply_add(a2, get(b2, c * size), total)
                put(row, c * size, multiply_add(a3, get(b3, c * size), total))
    for q in range(whole, stop):
        b0 = element_pointer(element, arguments[B] + q * b_step + j * size)
        for i in range(i0, i1):
            a0 = get(element_pointer(element, arguments[A] + i * arguments[A_ROW] + q * step), 0)
            row = shift(sums, (i - i0) * columns * size)
            for c in range(columns):
                put(row, c * size, multiply_add(a0, get(b0, c * size), get(row, c * size)))


@numba.njit(**FLAGS)
def finish_rows(
    arguments: Any, element: Any, i0: int, i1: int, j: int, columns: int,
    accumulate: bool, last: bool, scratch: int,
) -> None:  # fmt: skip
    """Write the sums to C, or add them to it or the addend; after the last, add the bias and rectify."""
    sums = element_pointer(element, scratch)
    size = item_bytes(sums)
    c_column, bias_column = arguments[C_COLUMN], arguments[BIAS_COLUMN]
    scaled, added = arguments[ALPHA] != 0, arguments[ADDEND] != 0
    alpha = element_pointer(element, arguments[ALPHA])
    for i in range(i0, i1):
        row = shift(sums, (i - i0) * columns * size)
        c = element_pointer(element, arguments[C] + i * arguments[C_ROW] + j * c_column)
        bias = element_pointer(element, arguments[BIAS] + i * arguments[BIAS_ROW] + j * bias_column)
        before, before_column = c, c_column
        if not accumulate and added:
            before_column = arguments[ADDEND_COLUMN]
            start = arguments[ADDEND] + i * arguments[ADDEND_ROW] + j * before_column
            before = element_pointer(element, start)
        for q in range(columns):
            total = get(row, q * size)
            if scaled:
                total = get(alpha, 0) * total
            if accumulate or added:
                total = get(before, q * before_column) + total
            if last and arguments[BIAS] != 0:
                total = get(bias, q * bias_column) + total
            if last and arguments[RECTIFY] != 0 and total < zero_of(sums):
                total = zero_of(sums)
            put(c, q * c_column, total)
