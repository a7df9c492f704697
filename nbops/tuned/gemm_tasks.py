"""The tasks of the matrix products: from a frame to the argument blocks of `gemm_kernel.multiply`.

**Sharing a product between cores.** C is cut into a grid of equal blocks, one for each worker, in multiples of the
register tile. Columns are cut first, because workers with different columns pack different panels of B; rows are
cut where there are not enough panels for all workers::

    3 workers, grid of 3        4 workers, grid of 2
    [ w0 | w1 | w2 ]            [ w0 | w1 ]
    [    |    |    ]            [ w2 | w3 ]
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from nbops.compiler import FLAGS
from nbops.frame import CORE, WIDTH, item_offset
from nbops.targets.tasks import call_task
from nbops.tuned.gemm_kernel import (
    A_ROW,
    A_STEP,
    ARGUMENTS,
    B_COLUMN,
    B_STEP,
    BIAS,
    BIAS_STRIDE,
    C_COLUMN,
    C_ROW,
    COLUMNS,
    GRID,
    LINE,
    RECTIFY,
    ROWS,
    SCRATCH,
    SCRATCH_SIZE,
    A,
    B,
    C,
    K,
    M,
    N,
    scratch_bytes,
)

# `gemm_cpu` replaces these
MR, NR, ITEMSIZE = 4, 8, 8  # the register tile and its element
ONE = 0  # the bits of 1
RELU = 0  # whether the activation is relu


def count_workers() -> int:
    """How many workers share a product; stands in for `one_worker` or `all_workers`."""
    raise NotImplementedError


def execute(words: np.ndarray, workers: int) -> None:
    """Compute the product of an argument block; stands in for `execute_serially` or `execute_in_parallel`."""
    raise NotImplementedError


def kernel_address() -> int:
    """The address of the dtype's `gemm_kernel.multiply`."""
    raise NotImplementedError


def launcher_address() -> int:
    """The address of `launch`."""
    raise NotImplementedError


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """The parallel loop of `nbops.targets.cpu`."""
    raise NotImplementedError


def one_worker() -> int:
    return 1


def all_workers() -> int:
    return int(numba.get_num_threads())


def execute_serially(words: np.ndarray, workers: int) -> None:
    call_task(kernel_address(), words.ctypes.data, 0, 1)


def execute_in_parallel(words: np.ndarray, workers: int) -> None:
    call_task(launcher_address(), words.ctypes.data, kernel_address(), workers)


def launch(words: int, kernel: int, workers: int) -> None:
    """Call ``kernel(words, w, w + 1)`` for every worker w, on every core."""
    spread(kernel, words, workers, workers, 1)


@numba.njit(**FLAGS)
def allocate(m: int, k: int, n: int, workers: int, mr: int, nr: int, itemsize: int) -> np.ndarray:
    """An argument block for a product of this size, followed by scratch memory for all workers.

    A block for a product serves every item of a batch. It must outlive the calls that get its address.
    """
    grid = grid_columns(m, n, workers, mr, nr)
    rows, columns = share(m, workers // grid, mr), share(n, grid, nr)
    size = scratch_bytes(rows, k, columns, mr, nr, itemsize)
    words = np.empty(ARGUMENTS + (workers * size + LINE) // 8, np.int64)
    words[M], words[K], words[N] = m, k, n
    words[GRID], words[ROWS], words[COLUMNS] = grid, rows, columns
    words[SCRATCH] = (words.ctypes.data + 8 * ARGUMENTS + LINE - 1) // LINE * LINE
    words[SCRATCH_SIZE] = size
    words[BIAS], words[BIAS_STRIDE], words[RECTIFY] = 0, 0, 0
    return words


@numba.njit(**FLAGS)
def share(length: int, workers: int, unit: int) -> int:
    """An equal share of `length`, rounded up to a multiple of `unit`; at least one unit."""
    units = (length + unit - 1) // unit
    return max(1, (units + workers - 1) // workers) * unit


@numba.njit(**FLAGS)
def grid_columns(m: int, n: int, workers: int, mr: int, nr: int) -> int:
    """Into how many groups of columns C is cut: the most that divide the workers and keep them all busy."""
    strips, panels = (m + mr - 1) // mr, (n + nr - 1) // nr
    for columns in range(workers, 1, -1):
        even = panels % columns == 0 or panels >= 8 * columns
        enough = panels >= 2 * columns or strips < 2 * workers
        if workers % columns == 0 and even and enough and panels >= columns:
            return columns
    return 1


@numba.njit(**FLAGS)
def set_strides(words: np.ndarray, a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> None:
    """Byte strides of the matrices: ``(row, step)``, ``(step, column)``, ``(row, column)``."""
    words[A_ROW], words[A_STEP] = a
    words[B_STEP], words[B_COLUMN] = b
    words[C_ROW], words[C_COLUMN] = c


@numba.njit(**FLAGS)
def core(frame: Any, operand: int) -> tuple[int, int]:
    """The byte strides of a matrix operand."""
    word = (1 + operand) * WIDTH + CORE
    return frame[word], frame[word + 1]


@numba.njit(**FLAGS)
def flip(strides: tuple[int, int]) -> tuple[int, int]:
    return strides[1], strides[0]


@numba.njit(**FLAGS)
def place(frame: Any, operand: int, item: int) -> int:
    """The address of an operand's matrix in a batch item."""
    return frame[(1 + operand) * WIDTH] + item_offset(frame, 1 + operand, item)


def run_products(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(k,n)->(m,n)"``.

    A product with one column is computed as its transpose, ``c.T = b.T @ a.T``, which has one row.
    """
    m, k, n = frame[CORE], frame[CORE + 1], frame[CORE + 2]
    workers = count_workers()
    a, b, c = core(frame, 0), core(frame, 1), core(frame, 2)
    left, right = 0, 1
    if n == 1 and m > 1:
        m, n, left, right = n, m, right, left
        a, b, c = flip(b), flip(a), flip(c)
    words = allocate(m, k, n, workers, MR, NR, ITEMSIZE)
    set_strides(words, a, b, c)
    for item in range(start, stop):
        words[A], words[B] = place(frame, left, item), place(frame, right, item)
        words[C] = place(frame, 2, item)
        execute(words, workers)


def run_dense(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(k,n),(n)->(m,n)"``."""
    m, k, n = frame[CORE], frame[CORE + 1], frame[CORE + 2]
    workers = count_workers()
    words = allocate(m, k, n, workers, MR, NR, ITEMSIZE)
    set_strides(words, core(frame, 0), core(frame, 1), core(frame, 3))
    words[BIAS_STRIDE] = frame[3 * WIDTH + CORE]
    words[RECTIFY] = RELU
    for item in range(start, stop):
        words[A], words[B] = place(frame, 0, item), place(frame, 1, item)
        words[BIAS], words[C] = place(frame, 2, item), place(frame, 3, item)
        execute(words, workers)


def run_weight_gradients(frame: Any, start: int, stop: int) -> None:
    """``"(m,k),(m,n)->(k,n),(n)"``.

    The bias gradient is a product too, of a row of ones (one number, with strides 0) and dz.
    """
    m, k, n = frame[CORE], frame[CORE + 1], frame[CORE + 2]
    workers = count_workers()
    words = allocate(k, m, n, workers, MR, NR, ITEMSIZE)
    set_strides(words, flip(core(frame, 0)), core(frame, 1), core(frame, 2))
    sums = allocate(1, m, n, workers, MR, NR, ITEMSIZE)
    set_strides(sums, (0, 0), core(frame, 1), (0, frame[4 * WIDTH + CORE]))
    one = np.full(1, ONE, np.int64)
    sums[A] = one.ctypes.data
    for item in range(start, stop):
        words[A], words[B] = place(frame, 0, item), place(frame, 1, item)
        words[C] = place(frame, 2, item)
        execute(words, workers)
        sums[B], sums[C] = words[B], place(frame, 3, item)
        execute(sums, workers)
        one[0] = ONE  # the array must live until here
