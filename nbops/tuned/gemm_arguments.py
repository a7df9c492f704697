"""What the parts of a matrix product tell each other: the argument block, and how it is cut into blocks.

The argument block is a table of 64-bit integers, like the frame. It describes one product
``C = activation(addend + alpha A @ B + bias)`` by addresses, byte strides and sizes, and is all that compiled
code gets.
"""

from __future__ import annotations

import numba

from nbops.compiler import FLAGS

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

# The workers. Number w computes ROWS x COLUMNS elements of C from row w // GRID * ROWS and column
# w % GRID * COLUMNS, and of the columns from REST on the REST_ROWS rows from w * REST_ROWS, with SCRATCH_SIZE
# bytes of memory from SCRATCH + w * SCRATCH_SIZE.
GRID, ROWS, COLUMNS, SCRATCH, SCRATCH_SIZE, REST, REST_ROWS = 22, 23, 24, 25, 26, 16, 17

# For `gemm_tasks.run_batch`: the frame, the row of the frame that each address comes from (0: it is
# constant), the tile, the address of the dtype's `multiply`, whether all cores share the product, and room
# for a 1.
FRAME_ADDRESS = 27
A_OPERAND, B_OPERAND, C_OPERAND, BIAS_OPERAND, ADDEND_OPERAND, ALPHA_OPERAND = 28, 29, 30, 31, 32, 33
OPERANDS = 6
MR, NR, ITEMSIZE, KERNEL, PARALLEL, ONE = 34, 35, 36, 37, 38, 39
ARGUMENTS = 40

# Block sizes, in elements. NC is a multiple of every nr, MC of every mr.
KC, MC, NC = 400, 192, 2016
KC_STEP = 16  # blocks of the inner axis are multiples of this, so that whole vectors can be transposed
FEW_ROWS, SUMS = 4, 2048  # `multiply_rows` takes so many rows, and computes so many elements at a time
LINE = 64  # bytes in a cache line


@numba.njit(**FLAGS)
def inner_block(k: int) -> int:
    """The length of a block of an inner axis of length `k`: at most KC, and all nearly equal.

    It depends on nothing else, so that an element of C is always summed in the same order.
    """
    blocks = max(1, (k + KC - 1) // KC)
    return max(1, ((k + blocks - 1) // blocks + KC_STEP - 1) // KC_STEP) * KC_STEP


@numba.njit(**FLAGS)
def scratch_bytes(rows: int, k: int, columns: int, mr: int, nr: int, itemsize: int) -> int:
    """What a worker needs for a block of C: packed strips and panels and two tiles, or some rows of sums."""
    kc = inner_block(k)
    panels = (min(columns, NC) + nr - 1) // nr * nr * kc
    strips = (min(rows, MC) + mr - 1) // mr * mr * kc
    sums = min(FEW_ROWS * columns, SUMS)
    size: int = (max(panels + strips + 2 * mr * nr, sums) * itemsize // LINE + 1) * LINE
    return size
