"""A product of few rows, limited by how fast B can be read; and one that has no memory to work in.

Each element of B is used once per row of A, so with few rows nothing is gained by packing it: reading it
is the work. `multiply_rows` therefore reads B's rows in the order of memory, four at a time, and adds
their multiples to the rows of sums, which stay in the L1 cache, four again at a time: with 32 vector
registers, a core then has 16 multiply-adds for 8 loads. Meanwhile it asks for the next four rows of B::

      A                  B
      [a0 a1 a2 a3 ..]   [b0 b0 b0 b0 b0 ..]      sums += a0 * b0 + a1 * b1 + a2 * b2 + a3 * b3
                         [b1 b1 b1 b1 b1 ..]
                         [b2 b2 b2 b2 b2 ..]      (one addition after the other,
                         [b3 b3 b3 b3 b3 ..]       in the order in which the tile adds)

Of a transposed B, rows lie down the columns. There it is read in squares of TURNED x TURNED elements, each of
which is turned into the L1 cache and then used like any B. With more than a few rows, the packed panels of
`nbops.tuned.gemm_kernel` are as fast.

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
    LINE,
    SUMS,
    TOTAL,
    TURNED,
    A,
    B,
    K,
    M,
    N,
    inner_block,
)
from nbops.tuned.gemm_finish import finish, read
from nbops.tuned.gemm_packing import pack_panel
from nbops.tuned.lanes import inlined
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
from nbops.tuned.prefetch import prefetch_line
from nbops.tuned.vectors import get_vector, multiply_add, put_vector, repeat, vector_lanes


@part
def multiply_rows(arguments: Any, element: Any, i0: int, i1: int, j0: int, j1: int, scratch: int) -> None:
    """``C[i0:i1, j0:j1]``, at most FEW_ROWS rows, where B's columns or its rows are adjacent."""
    never_inline()
    sums = element_pointer(element, scratch)
    k, size, lanes = arguments[K], item_bytes(sums), vector_lanes(sums)
    b_step, b_column = arguments[B_STEP], arguments[B_COLUMN]
    block = inner_block(k)
    chunk = SUMS // size // (i1 - i0) // lanes * lanes
    if b_column != size:
        chunk = min(chunk, TURNED)
    for jc in range(j0, j1, chunk):
        columns = min(chunk, j1 - jc)
        row = (columns + lanes - 1) // lanes * lanes * size  # bytes in a row of sums
        for p in range(0, max(k, 1), block):  # once even when k is 0: the product is then zeros
            end = min(k, p + block)
            for offset in range(0, (i1 - i0) * row, size):
                put(sums, offset, zero_of(sums))
            b = arguments[B] + jc * b_column
            if b_column == size:
                add_block(arguments, element, sums, row, i0, i1, b + p * b_step, b_step, columns, p, end)
            else:
                turned = scratch + SUMS
                for q in range(p, end, TURNED):
                    depth = min(TURNED, end - q)
                    ask_for_columns(b + (q + TURNED) * b_step, b_column, columns, TURNED * size)
                    pack_panel(element, depth, b + q * b_step, b_step, b_column, columns, row // size, turned)
                    add_block(arguments, element, sums, row, i0, i1, turned, row, columns, q, q + depth)
            finish(arguments, element, sums, row, i0, i1 - i0, jc, columns, p == 0, end == k)


@part
def add_block(
    arguments: Any, element: Any, sums: Any, row: int,
    i0: int, i1: int, first: int, b_step: int, columns: int, start: int, stop: int,
) -> None:  # fmt: skip
    """``sums += A[i0:i1, start:stop] @ B``, for rows of B from the address `first` on."""
    a_row, a_step = arguments[A_ROW], arguments[A_STEP]
    size = item_bytes(sums)
    by_fours = start + (stop - start) // 4 * 4
    for q in range(start, by_fours, 4):
        a = element_pointer(element, arguments[A] + i0 * a_row + q * a_step)
        b = element_pointer(element, first + (q - start) * b_step)
        for i in range(0, (i1 - i0) // 4 * 4, 4):
            add_to_four_rows(
                shift(sums, i * row), row, shift(a, i * a_row), a_row, a_step, b, b_step, columns
            )
        for i in range((i1 - i0) // 4 * 4, i1 - i0):
            add_to_row(shift(sums, i * row), shift(a, i * a_row), a_step, b, b_step, columns)
    for q in range(by_fours, stop):
        a = element_pointer(element, arguments[A] + i0 * a_row + q * a_step)
        b = element_pointer(element, first + (q - start) * b_step)
        for i in range(i1 - i0):
            for c in range(0, columns * size, size):
                put(sums, i * row + c, multiply_add(get(a, i * a_row), get(b, c), get(sums, i * row + c)))


@part
def ask_for_columns(address: int, b_column: int, columns: int, length: int) -> None:
    """Ask for so many bytes of each column of B."""
    for j in range(columns):
        for offset in range(0, length, LINE):
            prefetch_line(address + j * b_column + offset)


@part
def add_to_four_rows(
    sums: Any, row: int, a: Any, a_row: int, a_step: int, b: Any, b_step: int, columns: int
) -> None:
    """Add the multiples of four rows of B to four rows of sums, and ask for the next four."""
    lanes, size = vector_lanes(sums), item_bytes(sums)
    factors = (
        four_elements(a, a_step),
        four_elements(shift(a, a_row), a_step),
        four_elements(shift(a, 2 * a_row), a_step),
        four_elements(shift(a, 3 * a_row), a_step),
    )
    ahead, whole = address_of(b) + 4 * b_step, columns // lanes * lanes * size
    for c in range(0, whole, lanes * size):
        prefetch_line(ahead + c)
        prefetch_line(ahead + c + b_step)
        prefetch_line(ahead + c + 2 * b_step)
        prefetch_line(ahead + c + 3 * b_step)
        add_to_vectors(sums, row, c, factors, four_vectors(b, b_step, c, lanes))
    if whole < columns * size:
        rest = four_vectors(b, b_step, whole, columns - whole // size)
        add_to_vectors(sums, row, whole, factors, rest)


@part
def add_to_row(sums: Any, a: Any, a_step: int, b: Any, b_step: int, columns: int) -> None:
    """Add the multiples of four rows of B to one row of sums."""
    lanes, size = vector_lanes(sums), item_bytes(sums)
    factors, whole = four_elements(a, a_step), columns // lanes * lanes * size
    for c in range(0, whole, lanes * size):
        add_to_vector(sums, c, factors, four_vectors(b, b_step, c, lanes))
    if whole < columns * size:
        add_to_vector(sums, whole, factors, four_vectors(b, b_step, whole, columns - whole // size))


@inlined
def four_elements(pointer: Any, step: int) -> Any:
    """Four vectors, each of copies of one element."""
    return repeat(pointer, 0), repeat(pointer, step), repeat(pointer, 2 * step), repeat(pointer, 3 * step)


@inlined
def four_vectors(pointer: Any, step: int, offset: int, count: int) -> Any:
    """A vector, of which `count` elements are read, from each of four rows."""
    return (
        read(pointer, offset, count),
        read(pointer, offset + step, count),
        read(pointer, offset + 2 * step, count),
        read(pointer, offset + 3 * step, count),
    )


@inlined
def add_to_vectors(sums: Any, row: int, offset: int, a: Any, b: Any) -> None:
    """`add_to_vector` for four rows of sums."""
    add_to_vector(sums, offset, a[0], b)
    add_to_vector(sums, offset + row, a[1], b)
    add_to_vector(sums, offset + 2 * row, a[2], b)
    add_to_vector(sums, offset + 3 * row, a[3], b)


@inlined
def add_to_vector(sums: Any, offset: int, a: Any, b: Any) -> None:
    """Add four products to a vector of sums, one after the other."""
    total = multiply_add(a[0], b[0], get_vector(sums, offset))
    total = multiply_add(a[1], b[1], total)
    total = multiply_add(a[2], b[2], total)
    put_vector(sums, offset, multiply_add(a[3], b[3], total))


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
