"""Small changes of the tuned kernels, each of which a checker or the numbers must notice.

A mutant is a kernel's own source with one thing changed: a barrier removed, ``<`` for ``<=``, an index
shifted, a mask cut, a total not reset. It takes the kernel's place, and a case that the kernel passes must
fail: by memcheck, initcheck, racecheck or synccheck, or by a wrong number. So the tests are tested here.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.ops import logits as from_logits
from nbops.ops.reductions import sum_row, sum_rows
from nbops.ops.softmax import softmax_last
from nbops.ops.softmax_gradients import softmax_gradient
from nbops.targets.emulator.errors import EmulatorError
from nbops.tuned.cuda import (
    elementwise,
    gemm,
    gemm_kernel,
    gemm_parts,
    helpers,
    row_gradient_kernels,
    row_gradients,
    row_kernels,
    rows,
    sum_kernels,
    sums,
    tensor_cores,
    vector_kernels,
    vector_products,
    warps,
)
from tests.cases import as_list
from tests.targets.cuda import needs_compiler
from tests.tuned.cuda.test_products import to_tf32

pytestmark = needs_compiler

BARRIER = "    cuda.syncthreads()\n"


# ---- cases: calls whose result is known -----------------------------------------------------------------


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def close(result: Any, exact: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(result, exact, rtol=tolerance, atol=tolerance)


def close_each(results: Any, exact: Any) -> None:
    for result, wanted in zip(as_list(results), as_list(exact), strict=True):
        close(result, wanted)


def spread(rows_: int, n: int) -> np.ndarray:
    """Ascending numbers that are too large for an exponential without their peak."""
    return np.linspace(-300, 300, rows_ * n, dtype=np.float32).reshape(rows_, n)


def softmax_of(x: np.ndarray) -> Callable[[], None]:
    return lambda: close(softmax_last(x), softmax_last(x.astype(np.float64), target="serial"))


def labelled(op: Any, n: int) -> Callable[[], None]:
    """The third label is no element's."""
    x, labels = draw(5, n), np.array([0, n - 1, n, 3, 4])
    operands = [labels, x, draw(5)][: len(op.arguments)]
    return lambda: close_each(op(*operands), op(*operands, target="serial"))


def gradient_of(n: int) -> Callable[[], None]:
    y, dy = draw(5, n), draw(1, n)[:, ::-1].copy().repeat(5, 0)
    exact = [x.astype(np.float64) for x in (y, dy)]
    return lambda: close(softmax_gradient(y, dy), softmax_gradient(*exact, target="serial"), 1e-4)


def add_of(*shapes: tuple[int, ...]) -> Callable[[], None]:
    x, y = (draw(*shape) for shape in shapes)
    return lambda: close(nbops.add(x, y), x + y)


def product_of(m: int, k: int, n: int) -> Callable[[], None]:
    a, b = draw(m, k), draw(k, n)
    return lambda: close(nbops.matmul(a, b), a.astype(np.float64) @ b, 1e-4)


def added_to(*shapes: tuple[int, ...]) -> Callable[[], None]:
    a, b, c = (draw(*shape) for shape in shapes)
    return lambda: close(nbops.gemm(a, b, c, np.float32(0.5)), c + 0.5 * (a.astype(np.float64) @ b), 1e-4)


def on_tensor_cores(m: int, k: int, n: int) -> None:
    a, b = draw(m, k), draw(k, n)
    with nbops.use("cuda-emulator", tf32=True):
        result = nbops.matmul(a, b)
    close(result, to_tf32(a).astype(np.float64) @ to_tf32(b))


def dot_of(n: int) -> Callable[[], None]:
    x, y = draw(2, n)
    return lambda: close(nbops.vecdot(x, y), x.astype(np.float64) @ y)


def matvec_of(*shape: int) -> Callable[[], None]:
    a, x = draw(*shape), draw(*shape[:-2], shape[-1])
    return lambda: close(nbops.matvec(a, x), np.einsum("...ij,...j->...i", a.astype(np.float64), x))


def vecmat_of(m: int, n: int) -> Callable[[], None]:
    x, a = draw(m), draw(m, n)
    return lambda: close(nbops.vecmat(x, a), x.astype(np.float64) @ a)


CASES: dict[str, Callable[[], None]] = {
    "a block a row": softmax_of(spread(3, 2044)),
    "lanes a row": softmax_of(draw(5, 10)),
    "a warp a row": softmax_of(spread(2, 32)),
    "blocks of short rows": softmax_of(draw(20, 10)),
    "a streamed row": softmax_of(spread(2, 8203)),
    "loss": labelled(from_logits.crossentropy_from_logits, 10),
    "loss's gradient": labelled(from_logits.crossentropy_from_logits_gradient, 12),
    "loss and gradient": labelled(from_logits.crossentropy_and_gradient, 12),
    "loss of a streamed row": labelled(from_logits.crossentropy_from_logits, 8203),
    "gradient of a row": gradient_of(12),
    "gradient of a block's row": gradient_of(2044),
    "gradient of a streamed row": gradient_of(8203),
    "sum": lambda: close(sum_row(draw(5, 701)), draw(5, 701).sum(1, dtype=np.float64), 1e-6),
    "sum in parts": lambda: close(sum_row(draw(2, 33_000)), draw(2, 33_000).sum(1, dtype=np.float64), 1e-6),
    "sum of rows": lambda: close(sum_rows(draw(30, 36)), draw(30, 36).sum(0, dtype=np.float64), 1e-6),
    "sum of rows of 10": lambda: close(sum_rows(draw(9, 10)), draw(9, 10).sum(0, dtype=np.float64), 1e-6),
    "vectors": add_of((1003,), (1003,)),
    "many vectors": add_of((40_001,), (40_001,)),
    "a product": product_of(70, 37, 45),
    "a product added to a matrix": added_to((70, 37), (37, 45), (70, 45)),
    "added in a batch": added_to((3, 5, 6), (6, 4), (5, 4)),
    "a product on tensor cores": lambda: on_tensor_cores(70, 37, 45),
    "a dot product": dot_of(301),
    "a dot product in parts": dot_of(33_000),
    "a matrix times a vector": matvec_of(5, 300),
    "matrices times vectors": matvec_of(2, 3, 40),
    "a vector times a matrix": vecmat_of(30, 33),
}


def run(case: str) -> None:
    with nbops.use("cuda-emulator"):
        CASES[case]()


# ---- mutants --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """The first `old` in a function's source becomes `new`; `case` must fail."""

    function: FunctionType
    old: str
    new: str
    case: str

    def __str__(self) -> str:
        return f"{self.function.__name__}: {self.old.strip()} -> {self.new.strip() or 'nothing'}"


MUTANTS = [
    # a barrier removed
    Mutant(warps.of_every_warp, BARRIER, "", "a block a row"),
    Mutant(sum_kernels.sum_rows, BARRIER, "", "sum of rows"),
    # a shuffle cut
    Mutant(warps.sum_of_lanes, "EVERY_LANE", "0xFFFF", "lanes a row"),
    Mutant(warps.sum_of_lanes, "lanes // 2", "lanes // 4", "lanes a row"),
    Mutant(warps.largest_of_lanes, "other > value", "other < value", "a warp a row"),
    # a place that others write too
    Mutant(warps.of_every_warp, "scratch[cuda.threadIdx.x // WARP] =", "scratch[0] =", "a block a row"),
    # < to <=, and the other way
    Mutant(row_kernels.read_chunk, "at < n", "at <= n", "a block a row"),
    Mutant(row_kernels.write_chunk, "at < n", "at <= n", "a block a row"),
    Mutant(row_kernels.row_in_registers, "row < items", "row <= items", "lanes a row"),
    Mutant(row_kernels.finish_chunk, "labelled >= size", "labelled > size", "loss's gradient"),
    Mutant(row_kernels.row_in_registers, "labelled >= size", "labelled > size", "loss"),
    Mutant(sum_kernels.read_up_to, "k < count", "k <= count", "sum"),
    Mutant(sum_kernels.sum_rows, "row < stop", "row <= stop", "sum of rows"),
    Mutant(sum_kernels.sum_rows, "column < columns", "column <= columns", "sum of rows of 10"),
    Mutant(elementwise.run_vectors, "vector < vectors", "vector <= vectors", "vectors"),
    Mutant(elementwise.run_vectors, "item < items", "item <= items", "vectors"),
    # an index shifted
    Mutant(row_kernels.position, "+ lane)", "+ lane + index(1))", "lanes a row"),
    Mutant(row_kernels.this_row, "BLOCK // THREADS)", "BLOCK // THREADS + 1)", "blocks of short rows"),
    Mutant(row_kernels.finish_chunk, "word(at) + k ==", "word(at) + k + 1 ==", "loss's gradient"),
    Mutant(sum_kernels.part_of_row, "row * parts) * PART", "row * parts) * (PART - 1)", "sum in parts"),
    Mutant(sum_kernels.sum_rows, "row += WARPS", "row += 1", "sum of rows"),
    Mutant(elementwise.run_vectors, "vector + stride", "vector + stride + index(1)", "many vectors"),
    Mutant(row_kernels.chosen_of, "+ i % WIDTH", "+ i % WIDTH + 1", "loss and gradient"),
    Mutant(row_kernels.put_number, "first and outside", "outside", "loss and gradient"),
    Mutant(row_kernels.streamed_row, "else labelled) * ITEMSIZE", "else labelled)", "loss of a streamed row"),
    # a total that is not reset, or not all of it
    Mutant(row_kernels.row_in_registers, "total = ELEMENT(0)", "total = ELEMENT(1)", "loss"),
    Mutant(row_kernels.peak_of, "range(1, COUNT)", "range(1, COUNT // 2)", "a block a row"),
    Mutant(row_kernels.summarise, "rescaled(total, peak, higher)", "total", "a streamed row"),
    Mutant(row_kernels.streamed_row, "at < n", "at < n - index(1)", "a streamed row"),
    Mutant(
        row_gradient_kernels.rows_in_registers,
        "total = ELEMENT(0)",
        "total = ELEMENT(1)",
        "gradient of a row",
    ),
    Mutant(row_gradient_kernels.rows_in_registers, "< n else", "<= n else", "gradient of a row"),
    Mutant(row_gradient_kernels.rows_in_registers, "row < items", "row <= items", "gradient of a row"),
    Mutant(row_gradient_kernels.rows_in_registers, "dy + row", "y + row", "gradient of a block's row"),
    Mutant(
        row_gradient_kernels.streamed_rows,
        "total += term",
        "total = term",
        "gradient of a streamed row",
    ),
    Mutant(sum_kernels.sum_part, "TOTAL(0)", "TOTAL(1)", "sum"),
    Mutant(sum_kernels.sum_rows, "range(1, WARPS)", "range(2, WARPS)", "sum of rows"),
]
PRODUCT_MUTANTS = [
    Mutant(
        gemm_kernel.multiply_tiles,
        "        " + BARRIER.strip() + "\n        done",
        "        done",
        "a product",
    ),
    Mutant(gemm_kernel.multiply_tiles, "half ^ index(DEPTH)", "half", "a product"),
    Mutant(gemm_kernel.multiply_tiles, "sums[i] = ELEMENT(0)", "sums[i] = ELEMENT(1)", "a product"),
    Mutant(gemm_kernel.write_row, "at_row < m", "at_row <= m", "a product"),
    Mutant(gemm_parts.add_parts, "number >= index", "number > index", "a product added to a matrix"),
    Mutant(
        gemm_parts.add_parts,
        "row - item * m) * words[ADDEND_M]",
        "row) * words[ADDEND_M]",
        "added in a batch",
    ),
    Mutant(
        gemm_parts.add_parts, "part[lane] + factor * total", "part[0] + factor * total", "added in a batch"
    ),
]
VECTOR_MUTANTS = [
    Mutant(warps.sum_of_lanes, "EVERY_LANE", "0xFFFF", "a matrix times a vector"),
    Mutant(warps.sum_of_lanes, "lanes // 2", "lanes // 4", "a dot product"),
    Mutant(vector_kernels.read, "word(n) - word(at)", "word(n) - word(at) + 1", "a dot product"),
    Mutant(vector_kernels.dot, "totals[k] = TOTAL(0)", "totals[k] = TOTAL(1)", "a matrix times a vector"),
    Mutant(vector_kernels.dot, "THREADS * WIDTH", "THREADS", "a matrix times a vector"),
    Mutant(vector_kernels.dot, "range(1, WIDTH)", "range(2, WIDTH)", "a dot product"),
    Mutant(vector_kernels.put_total, "number * TOTAL_SIZE", "number", "a dot product in parts"),
    Mutant(vector_kernels.vector_times_vector, "start * y_step", "number * y_step", "a dot product in parts"),
    Mutant(
        vector_kernels.matrix_times_vector, "row < items * m", "row <= items * m", "a matrix times a vector"
    ),
    Mutant(vector_kernels.matrix_times_vector, "row -= item * m", "pass", "matrices times vectors"),
    Mutant(vector_kernels.vector_times_matrix, BARRIER, "", "a vector times a matrix"),
    Mutant(
        vector_kernels.vector_times_matrix,
        "totals[k] = TOTAL(0)",
        "totals[k] = TOTAL(1)",
        "a vector times a matrix",
    ),
    Mutant(vector_kernels.vector_times_matrix, "at < columns", "at <= columns", "a vector times a matrix"),
    Mutant(
        vector_kernels.vector_times_matrix, "range(1, WARPS)", "range(2, WARPS)", "a vector times a matrix"
    ),
]
TENSOR_MUTANTS = [
    Mutant(tensor_cores.prepare, "to_tf32(value)", "value", "a product on tensor cores"),
    Mutant(tensor_cores.add_step, "at + 4 * PITCH_N", "at + 3 * PITCH_N", "a product on tensor cores"),
    Mutant(tensor_cores.add_step, "i * MMA_M", "i * MMA_N", "a product on tensor cores"),
    Mutant(tensor_cores.add_up, "column + g - t - t", "column + g - t", "a product on tensor cores"),
    Mutant(tensor_cores.add_up, "column, MMA_K)", "column, 0)", "a product on tensor cores"),
]
MUTANTS += [*PRODUCT_MUTANTS, *VECTOR_MUTANTS, *TENSOR_MUTANTS]


@contextmanager
def in_place(mutant: Mutant) -> Iterator[None]:
    """The function with the mutant's code; kernels made of it are forgotten afterwards."""
    function = mutant.function
    source = textwrap.dedent(inspect.getsource(function))
    assert mutant.old in source, f"{function.__name__} has no {mutant.old!r} any more; change the mutant"
    names: dict[str, Any] = {}
    exec(
        "from __future__ import annotations\n" + source.replace(mutant.old, mutant.new, 1),
        dict(function.__globals__),
        names,
    )
    original = function.__code__
    changed = names[function.__name__].__code__
    assert changed.co_code != original.co_code or changed.co_consts != original.co_consts
    function.__code__ = changed
    forget()
    try:
        yield
    finally:
        function.__code__ = original
        forget()


def forget() -> None:
    for module in elementwise, gemm, helpers, row_gradients, rows, sums, vector_products:
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and getattr(value, "__module__", "") == module.__name__:
                value.cache_clear()


@pytest.mark.parametrize("case", CASES)
def test_the_kernels_pass(case: str) -> None:
    """Without a mutant, each case passes: what fails below fails because of the mutant."""
    run(case)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_noticed(mutant: Mutant) -> None:
    with in_place(mutant), pytest.raises((EmulatorError, AssertionError)) as caught:
        run(mutant.case)
    print(f"{mutant}: {caught.type.__name__}")
