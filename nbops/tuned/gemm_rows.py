"""A product of few rows, limited by how fast B can be read; and one that has no memory to work in.

Each element of B is used once per row of A, so with few rows nothing is gained by packing it: reading it
is the work. `multiply_rows` therefore reads B's rows in the order of memory, four at a time, and adds
their multiples to the rows of sums, which stay in the L1 cache::

      A                  B
      [a0 a1 a2 a3 ..]   [b0 b0 b0 b0 b0 ..]      sums += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
                         [b1 b1 b1 b1 b1 ..]
                         [b2 b2 b2 b2 b2 ..]      (one addition after the other,
                         [b3 b3 b3 b3 b3 ..]       in the order in which the tile adds)

`multiply_elements` computes one element after the other, in the same order, and needs no memory at all. It
is for when there is none left: a product then takes long, and is right.
"""

from __future__ import annotations

from typing import Any

from nbops.compiler import part
from nbops.tuned.gemm_arguments import (
    A_ROW,
    A_STEP,
    B_COLUMN,
    B_STEP,
    SUMS,
    TOTAL,
    A,
    B,
    K,
    M,
    N,
    inner_block,
)
from nbops.tuned.gemm_finish import finish
from nbops.tuned.pointers import (
    address_of,
    element_pointer,
    get,
    item_bytes,
    never_inline,
    put,
    shift,
    zero_of,
)
from nbops.tuned.vectors import multiply_add


@part
def multiply_rows(arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: int) -> None:
    """``C[i0:i1, j0:j1]``, at most FEW_ROWS rows, where B's columns are adjacent."""
    never_inline()
    k, size = arguments[K], item_bytes(element_pointer(element, scratch))
    block = inner_block(k)
    chunk = SUMS // (i1 - i0)
    for jc in range(j0, j1, chunk):
        columns = min(chunk, j1 - jc)
        for p in range(0, max(k, 1), block):  # once even when k is 0: the product is then zeros
            end = min(k, p + block)
            add_block(arguments, element, i0, i1, jc, columns, p, end, scratch)
            sums, row = element_pointer(element, scratch), columns * size
            finish(arguments, element, sums, row, i0, i1 - i0, jc, columns, p == 0, end == k)


@part
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


@part
def multiply_elements(arguments: Any, element: Any) -> None:
    """All of C, one element at a time."""
    never_inline()
    k, block = arguments[K], inner_block(arguments[K])
    a_step, b_step = arguments[A_STEP], arguments[B_STEP]
    total = element_pointer(element, address_of(arguments) + 8 * TOTAL)
    size = item_bytes(total)
    for i in range(arguments[M]):
        for j in range(arguments[N]):
            for p in range(0, max(k, 1), block):  # once even when k is 0
                end = min(k, p + block)
                sum_ = zero_of(total)
                row = element_pointer(element, arguments[A] + i * arguments[A_ROW])
                column = element_pointer(element, arguments[B] + j * arguments[B_COLUMN])
                for q in range(p, end):
                    sum_ = multiply_add(get(row, q * a_step), get(column, q * b_step), sum_)
                put(total, 0, sum_)
                finish(arguments, element, total, size, i, 1, j, 1, p == 0, end == k)
