"""The tasks of the matrix products: from a frame to argument blocks for `gemm_kernel.multiply`.

Three steps, all with the task signature ``void task(int64 *words, int64 start, int64 stop)``::

    run_products, run_row    ---+
    run_dense, run_gemm, …   ---+--> run_batch  --> multiply(block, 0, pieces)            on this core
    run_weight_gradients     ---+               --> launch --> multiply(block, p, p + 1)  on any core, piece p

The functions on the left differ for each kind of product; they say which operand is which. `run_batch`
goes through the items of the batch; it serves all kinds and dtypes. The frame's header says how many cores
may share an item; `nbops.tuned.gemm_pieces` cuts it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from nbops.compiler import part
from nbops.frame import CORE, WIDTH, WORKERS, item_offset
from nbops.targets.atomics import store
from nbops.targets.tasks import FRAME, call_task, frame_pointer
from nbops.tuned.gemm_arguments import (
    A_OPERAND,
    A_ROW,
    A_STEP,
    ADDEND_COLUMN,
    ADDEND_OPERAND,
    ADDEND_ROW,
    ALPHA_OPERAND,
    ARGUMENTS,
    B_COLUMN,
    B_OPERAND,
    B_STEP,
    BIAS_COLUMN,
    BIAS_OPERAND,
    BIAS_ROW,
    C_COLUMN,
    C_OPERAND,
    C_ROW,
    COLUMN_PIECES,
    FRAME_ADDRESS,
    HOLDS,
    ITEMSIZE,
    KEPT,
    KERNEL,
    LANES,
    LINE,
    MR,
    NR,
    ONE,
    OPERANDS,
    RECTIFY,
    ROW_PIECES,
    SCRATCH,
    SCRATCH_SIZE,
    SLOTS,
    TAKEN,
    VERY_FEW,
    A,
    B,
    K,
    M,
    N,
)
from nbops.tuned.gemm_pieces import cut
from nbops.tuned.pointers import address_of, never_inline

# What the functions below stand in for is put in their place by `nbops.tuned.gemm_cpu`.
RELU = 0  # whether the activation is relu
TILE = (0, 0, 0, 0, 0)  # mr, nr, the lanes of a vector, the itemsize and the bits of 1.0


def kernel_address() -> int:
    """The address of `gemm_kernel.multiply`, compiled for the dtype."""
    raise NotImplementedError


def batch_address() -> int:
    """The address of `run_batch`."""
    raise NotImplementedError


def launcher_address() -> int:
    """The address of `launch`."""
    raise NotImplementedError


def borrow(size: int) -> int:
    """`nbops.tuned.scratch`'s memory."""
    raise NotImplementedError


def give_back(address: int) -> None:
    """It is no longer used."""
    raise NotImplementedError


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """The parallel loop of `nbops.targets.cpu`."""
    raise NotImplementedError


@intrinsic
def argument_block(typingctx: Any) -> Any:
    """A new argument block, all zeros, on the stack of the calling function."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        block = ir.ArrayType(ir.IntType(64), ARGUMENTS)
        place = cgutils.alloca_once(builder, block)
        place.align = LINE
        builder.store(ir.Constant(block, None), place)
        return builder.bitcast(place, ir.IntType(64).as_pointer())

    return FRAME(), codegen


# One function per kind of product ---------------------------------------------------------------------------


def run_products(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(k,n)->(m,n)"``."""
    words = argument_block()
    describe(words, frame, 3)
    submit(words, frame, start, stop)


def run_row(frame: Any, start: int, stop: int) -> None:
    """``"(m),(m,n)->(n)"``: a product whose first operand is one row."""
    words = argument_block()
    describe_row(words, frame, frame[CORE + 1], 2, 3)
    words[A_OPERAND], words[A_STEP] = 1, frame[WIDTH + CORE]
    submit(words, frame, start, stop)


def run_dense(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(k,n),(n)->(m,n)"``."""
    words = argument_block()
    describe(words, frame, 4)
    words[BIAS_OPERAND], words[BIAS_COLUMN] = 3, frame[3 * WIDTH + CORE]
    words[RECTIFY] = RELU
    submit(words, frame, start, stop)


def run_gemm(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(k,n),(m,n),()->(m,n)"``; the output may be the addend."""
    words = argument_block()
    describe(words, frame, 5)
    words[ADDEND_OPERAND], words[ALPHA_OPERAND] = 3, 4
    words[ADDEND_ROW], words[ADDEND_COLUMN] = frame[3 * WIDTH + CORE], frame[3 * WIDTH + CORE + 1]
    submit(words, frame, start, stop)


@part
def describe(words: Any, frame: Any, output: int) -> None:
    """The product of the frame's first two operands, written to number `output`."""
    words[M], words[K], words[N] = frame[CORE], frame[CORE + 1], frame[CORE + 2]
    words[A_OPERAND], words[B_OPERAND], words[C_OPERAND] = 1, 2, output
    words[A_ROW], words[A_STEP] = frame[WIDTH + CORE], frame[WIDTH + CORE + 1]
    words[B_STEP], words[B_COLUMN] = frame[2 * WIDTH + CORE], frame[2 * WIDTH + CORE + 1]
    words[C_ROW], words[C_COLUMN] = frame[output * WIDTH + CORE], frame[output * WIDTH + CORE + 1]


def run_weight_gradients(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(m,n)->(k,n),(n)"``, computed as two products: ``x.T @ dz``, and a row of ones times dz."""
    words = argument_block()
    words[M], words[K], words[N] = frame[CORE + 1], frame[CORE], frame[CORE + 2]
    words[A_OPERAND], words[B_OPERAND], words[C_OPERAND] = 1, 2, 3
    words[A_STEP], words[A_ROW] = frame[WIDTH + CORE], frame[WIDTH + CORE + 1]
    words[B_STEP], words[B_COLUMN] = frame[2 * WIDTH + CORE], frame[2 * WIDTH + CORE + 1]
    words[C_ROW], words[C_COLUMN] = frame[3 * WIDTH + CORE], frame[3 * WIDTH + CORE + 1]
    submit(words, frame, start, stop)
    sums = argument_block()
    describe_row(sums, frame, frame[CORE + 2], 2, 4)
    fill_with_ones(sums, TILE[4])
    submit(sums, frame, start, stop)


def run_sums(frame: Any, start: int, stop: int) -> None:
    """``"(m,n)->(n)"``, the sums of columns: a row of ones times the matrix."""
    words = argument_block()
    describe_row(words, frame, frame[CORE + 1], 1, 2)
    fill_with_ones(words, TILE[4])
    submit(words, frame, start, stop)


@part
def describe_row(words: Any, frame: Any, columns: int, matrix: int, output: int) -> None:
    """The product of some row and operand number `matrix`, whose rows are the frame's first core axis."""
    words[M], words[K], words[N] = 1, frame[CORE], columns
    words[B_OPERAND], words[C_OPERAND] = matrix, output
    words[B_STEP], words[B_COLUMN] = frame[matrix * WIDTH + CORE], frame[matrix * WIDTH + CORE + 1]
    words[C_COLUMN] = frame[output * WIDTH + CORE]


@part
def fill_with_ones(words: Any, one: int) -> None:
    """The row is of ones: of a single number, which is read with stride 0."""
    words[ONE] = one
    words[A] = address_of(words) + 8 * ONE


def submit(words: Any, frame: Any, start: int, stop: int) -> None:
    """Compute the product that a block describes for the batch items `start` to `stop` of a frame."""
    words[FRAME_ADDRESS] = address_of(frame)
    words[MR], words[NR], words[LANES], words[ITEMSIZE] = TILE[0], TILE[1], TILE[2], TILE[3]
    words[KERNEL] = kernel_address()
    call_task(batch_address(), address_of(words), start, stop)


# One function for all ---------------------------------------------------------------------------------------


def run_batch(words: Any, start: int, stop: int) -> None:
    """Compute the product that a block describes for the batch items `start` to `stop` of its frame.

    Finds out how many workers share a product, and allocates their scratch memory once for all items.
    """
    m, n, mr, lanes = words[M], words[N], words[MR], words[LANES]
    if n < m and (n <= VERY_FEW or 2 * padded(n, mr, m, lanes) <= padded(m, mr, n, lanes)):
        transpose(words)  # few columns would leave most of each vector idle
    frame = frame_pointer(words[FRAME_ADDRESS])
    workers = max(1, frame[WORKERS])
    cut(words, workers)
    pieces = words[ROW_PIECES] * words[COLUMN_PIECES]
    slots = min(workers, pieces)
    size = words[SCRATCH_SIZE]
    memory = borrow(slots * size + LINE)
    words[SCRATCH] = (memory + LINE - 1) // LINE * LINE
    words[SLOTS] = slots
    if memory == 0:
        slots = 1  # which does without, and takes long
    for item in range(start, stop):
        for operand in range(OPERANDS):
            row = words[A_OPERAND + operand]
            if row != 0:
                words[A + 3 * operand] = frame[row * WIDTH] + item_offset(frame, row, item)
        if memory != 0 and (slots < pieces or words[KEPT] != 0):
            for slot in range(slots):
                store(words[SCRATCH] + slot * size + TAKEN, 0)
                store(words[SCRATCH] + slot * size + HOLDS, 0)
        if slots == 1:
            call_task(words[KERNEL], address_of(words), 0, pieces)
        else:
            call_task(launcher_address(), address_of(words), words[KERNEL], pieces)
    give_back(memory)


@part
def padded(rows: int, mr: int, columns: int, lanes: int) -> int:
    """How many elements are computed for a block of C, whose tiles and vectors are always whole."""
    return (rows + mr - 1) // mr * mr * ((columns + lanes - 1) // lanes * lanes)


@part
def transpose(words: Any) -> None:
    """Make ``C = addend + A @ B + bias`` the same as ``C.T = addend.T + B.T @ A.T + bias.T``."""
    never_inline()
    words[M], words[N] = words[N], words[M]
    words[A_OPERAND], words[B_OPERAND] = words[B_OPERAND], words[A_OPERAND]
    words[A], words[B] = words[B], words[A]
    words[A_ROW], words[B_COLUMN] = words[B_COLUMN], words[A_ROW]
    words[A_STEP], words[B_STEP] = words[B_STEP], words[A_STEP]
    words[C_ROW], words[C_COLUMN] = words[C_COLUMN], words[C_ROW]
    words[BIAS_ROW], words[BIAS_COLUMN] = words[BIAS_COLUMN], words[BIAS_ROW]
    words[ADDEND_ROW], words[ADDEND_COLUMN] = words[ADDEND_COLUMN], words[ADDEND_ROW]


def launch(words: Any, kernel: int, pieces: int) -> None:
    """Call ``kernel(words, p, p + 1)`` for every piece p, on as many cores as there are slots."""
    spread(kernel, address_of(words), pieces, words[SLOTS], 1)
