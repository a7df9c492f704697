"""The tuned matrix products against NumPy in float64: every layout, ragged size and special value."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import nbops
from nbops import frame as frames
from nbops.signature import Signature
from nbops.targets import cpu
from nbops.tuned import gemm_arguments as arguments
from nbops.tuned import gemm_cpu, gemm_tasks
from nbops.tuned.gemm_arguments import (
    FEW_ROWS,
    KC,
    LINE,
    MC,
    NC,
    PAGE,
    SUMS,
    VERY_FEW,
    inner_block,
    near_rows,
    piece_length,
    piece_start,
    rest_panel,
    row_block,
    scratch_bytes,
    strip_bytes,
    whole_panels,
)
from nbops.tuned.gemm_cpu import Tasks, dense_tasks, product_tasks, weight_gradient_tasks
from nbops.tuned.gemm_pieces import share_out
from nbops.tuned.vectors import host_tile, tile_shape
from nbops.turns import TakenError

PRODUCT = Signature.parse("(m,k),(k,n)->(m,n)")
DENSE = Signature.parse("(m,k),(k,n),(n)->(m,n)")
GRADIENT = Signature.parse("(m,k),(m,n)->(k,n),(n)")
TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
DTYPES = ["float32", "float64"]
MODES = ["serial", "parallel"]
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "padded": lambda a: np.pad(a, ((0, 0), (0, 5)))[:, : a.shape[1]],
    "spread": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": lambda a: unaligned(a),
}


def unaligned(a: np.ndarray) -> np.ndarray:
    """A copy whose strides and address are no multiples of the element's size."""
    records = np.zeros(a.shape, np.dtype([("pad", "i1"), ("x", a.dtype)]))
    records["x"] = a
    return records["x"]


@pytest.fixture(scope="module", autouse=True)
def threads() -> None:
    cpu.start_threads()


def run(address: int, signature: Signature, *arrays: np.ndarray) -> None:
    """Call a task on arrays whose batch axes already have the outputs' rank and broadcast."""
    geometry, frame = frames.new_geometry(len(arrays)), frames.new_frame(len(arrays))
    for row, array in zip(geometry, arrays, strict=True):
        frames.describe(row, array)
    frames.build(signature.table, geometry, frame)
    TASK(address)(frame.ctypes.data, 0, int(frame[0, frames.ITEMS]))


def poisoned(*shape: int, dtype: Any) -> np.ndarray:
    return np.full(shape, np.nan, dtype)


def product(
    tasks: Tasks, mode: str, a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    if out is None:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        out = poisoned(*batch, a.shape[-2], b.shape[-1], dtype=a.dtype)
    run(getattr(tasks, mode), PRODUCT, a, b, out)
    return out


def dense(tasks: Tasks, mode: str, x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = poisoned(x.shape[-2], w.shape[-1], dtype=x.dtype)
    run(getattr(tasks, mode), DENSE, x, w, b, out)
    return out


def gradient(tasks: Tasks, mode: str, x: np.ndarray, dz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    dw, db = poisoned(x.shape[1], dz.shape[1], dtype=x.dtype), poisoned(dz.shape[1], dtype=x.dtype)
    run(getattr(tasks, mode), GRADIENT, x, dz, dw, db)
    return dw, db


def assert_product(out: np.ndarray, a: np.ndarray, b: np.ndarray, bias: np.ndarray | float = 0.0) -> None:
    """Each element within the bound of a sum of k products: a few eps * k * sum |a| |b|."""
    a, b, bias = a.astype(np.float64), b.astype(np.float64), np.asarray(bias, np.float64)
    bound = np.abs(a) @ np.abs(b) + np.abs(bias)
    steps = np.sqrt(a.shape[-1]) + 4
    assert not np.isnan(out).any()
    assert (np.abs(out - (a @ b + bias)) <= 2 * steps * np.finfo(out.dtype).eps * bound + 1e-300).all()


def random(rng: np.random.Generator, dtype: Any, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_around_the_borders_of_tiles_and_blocks(dtype: str, mode: str) -> None:
    rng = np.random.default_rng(1)
    tasks, tile = product_tasks(dtype), host_tile()
    itemsize = np.dtype(dtype).itemsize
    mr, nr, wide = tile.mr, tile.nr(itemsize), NC // itemsize
    most = near_rows(inner_block(19), itemsize)
    rows = [1, 2, mr - 1, mr, mr + 1, 3 * mr + 1, most, most + 1]
    columns = [1, 2, nr // 2, nr - 1, nr, nr + 1, 2 * nr, 7 * nr + 3]
    inner = [1, 2, 15, 16, 17, KC - 1, KC, KC + 1, 2 * KC + 3]
    sizes = [(m, 19, n) for m, n in itertools.product(rows, columns)]
    sizes += [(m, k, n) for k in inner for m, n in ((1, 3 * nr + 1), (mr + 1, nr + 1), (2, 300))]
    for k in [KC - 1, KC, KC + 1, 2 * KC + 3]:
        most = near_rows(inner_block(k), itemsize)
        sizes += [
            (m, k, n) for m, n in ((most + 1, 1), (most, nr + 1), (most + 1, 9 * nr), (2 * most + 3, 2))
        ]
    sizes += [(1, 5, wide + 99), (3, 5, wide + 1), (9, 40, wide + nr + 1), (4, 500, 1100)]
    for m, k, n in sizes:
        a, b = random(rng, dtype, m, k), random(rng, dtype, k, n)
        assert_product(product(tasks, mode, a, b), a, b)


def test_callers_are_compiled_while_another_process_has_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    kernel, batch = gemm_cpu._kernel, gemm_cpu._batch

    def taken_at_first(dtype: np.dtype) -> Any:
        order.append("kernel")
        if order.count("kernel") == 1:
            raise TakenError
        return kernel(dtype)

    def noted() -> Any:
        order.append("callers")
        return batch()

    monkeypatch.setattr(gemm_cpu, "_kernel", taken_at_first)
    monkeypatch.setattr(gemm_cpu, "_batch", noted)
    tasks = gemm_cpu._compile_tasks.__wrapped__(np.dtype("f4"), "product", gemm_tasks.run_products)
    assert order == ["kernel", "callers", "kernel"]
    a, b = random(np.random.default_rng(3), "f4", 5, 6), random(np.random.default_rng(4), "f4", 6, 7)
    assert_product(product(tasks, "serial", a, b), a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_of_one_vector(dtype: str, mode: str) -> None:
    """Their tile is twice as tall; where A's columns are whole pages, strips are packed, and half counts."""
    rng = np.random.default_rng(11)
    tasks, tile = product_tasks(dtype), host_tile()
    itemsize = np.dtype(dtype).itemsize
    mr, nr, lanes = tile.mr, tile.nr(itemsize), tile.vector_bytes // itemsize
    rows = [mr, 2 * mr - 1, 2 * mr, 3 * mr, 4 * mr + 1, PAGE // itemsize]
    for m, n in itertools.product(rows, [lanes, 6 * nr + lanes]):
        a, b = random(rng, dtype, m, 21), random(rng, dtype, 21, n)
        for layout in LAYOUTS.values():
            assert_product(product(tasks, mode, layout(a), b), a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout_b", LAYOUTS)
@pytest.mark.parametrize("layout_a", LAYOUTS)
def test_layouts_of_inputs(layout_a: str, layout_b: str, dtype: str, mode: str) -> None:
    rng = np.random.default_rng(2)
    tasks = product_tasks(dtype)
    for m, k, n in ((1, 33, 50), (3, 450, 30), (37, 53, 151), (70, 20, 5), (50, 9, 1)):
        a, b = random(rng, dtype, m, k), random(rng, dtype, k, n)
        a_view, b_view = LAYOUTS[layout_a](a), LAYOUTS[layout_b](b)
        out = product(tasks, mode, a_view, b_view)
        assert_product(out, a, b)
        assert out.tobytes() == product(tasks, "serial", a, b).tobytes()  # strides don't change a bit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 3, 4, 7, 8, 9, 15, 16, 17, 20, 33])
def test_columns_of_b_shorter_than_a_vector(k: int, dtype: str) -> None:
    rng = np.random.default_rng(12)
    a, b = random(rng, dtype, 100, k), random(rng, dtype, k, 90)
    columns = np.pad(b.T, ((0, 0), (0, 9)), constant_values=np.nan)[:, :k].T  # each column, then NaN
    assert_product(product(product_tasks(dtype), "parallel", a, columns), a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_output(layout: str, dtype: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    for m, k, n in ((1, 33, 50), (37, 850, 51), (20, 9, 3), (50, 9, 1)):
        a, b = random(rng, dtype, m, k), random(rng, dtype, k, n)
        out = LAYOUTS[layout](poisoned(m, n, dtype=dtype))
        assert_product(product(product_tasks(dtype), mode, a, b, out), a, b)


def test_nothing_beyond_the_output_is_written() -> None:
    rng = np.random.default_rng(4)
    around = np.full((11, 40), 7.0, np.float32)
    a, b = random(rng, np.float32, 9, 5), random(rng, np.float32, 5, 31)
    product(product_tasks("float32"), "serial", a, b, around[1:10, 4:35])
    around[1:10, 4:35] = 7.0
    assert (around == 7.0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_strides(dtype: str) -> None:
    rng = np.random.default_rng(5)
    one, row, column = random(rng, dtype, 1, 1), random(rng, dtype, 1, 40), random(rng, dtype, 40, 1)
    for a, b in itertools.product((one, row, column), repeat=2):
        a, b = np.broadcast_to(a, (40, 40)), np.broadcast_to(b, (40, 40))
        assert_product(product(product_tasks(dtype), "serial", a, b), a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [s for s in itertools.product((0, 1, 30), repeat=3) if 0 in s])
def test_empty(size: tuple[int, int, int], mode: str) -> None:
    m, k, n = size
    x, w, b = np.ones((m, k), "f4"), np.ones((k, n), "f4"), np.arange(n, dtype="f4") - 3
    assert (product(product_tasks("f4"), mode, x, w) == np.zeros((m, n))).all()
    assert (dense(dense_tasks("f4", "relu"), mode, x, w, b) == np.maximum(b, 0)).all()
    dw, db = gradient(weight_gradient_tasks("f4"), mode, x.T, w)
    assert (dw == np.zeros((m, n))).all()
    assert (db == w.sum(0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 9, 60), (3, 600, 60), (30, 450, 70), (30, 9, 2), (8, 3, 4)])
def test_nan_and_infinity(size: tuple[int, int, int], dtype: str) -> None:
    m, k, n = size
    rng = np.random.default_rng(6)
    a, b = random(rng, dtype, m, k), random(rng, dtype, k, n)
    a[0, 1], a[m - 1, k - 1] = np.inf, -np.inf
    b[0, n - 1], b[1, 0] = np.nan, 0.0
    with np.errstate(invalid="ignore"):
        expected = a.astype("f8") @ b.astype("f8")
    zero = np.zeros(n, dtype)
    for out in (
        product(product_tasks(dtype), "serial", a, b),
        dense(dense_tasks(dtype, "linear"), "serial", a, b, zero),
    ):
        assert np.array_equal(np.isnan(out), np.isnan(expected))
        finite = np.isfinite(expected)
        assert np.array_equal(out[~finite], expected[~finite].astype(dtype), equal_nan=True)
        assert np.isfinite(out[finite]).all()
    rectified = dense(dense_tasks(dtype, "relu"), "serial", a, b, zero)
    assert np.array_equal(np.isnan(rectified), np.isnan(expected))
    assert (rectified[expected == -np.inf] == 0).all()
    assert (rectified[expected == np.inf] == np.inf).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [(1, 9, 60), (3, 600, 60), (33, 850, 70), (30, 9, 2), (64, 128, 10), (90, 7, 99)]
)
def test_dense(size: tuple[int, int, int], dtype: str, mode: str) -> None:
    m, k, n = size
    rng = np.random.default_rng(7)
    x, w = random(rng, dtype, m, k), random(rng, dtype, k, n)
    bias = random(rng, dtype, 2 * n)
    for b in (bias[:n], bias[::2], bias[n - 1 :: -1], np.broadcast_to(bias[:1], (n,))):
        linear = dense(dense_tasks(dtype, "linear"), mode, x, w, b)
        assert_product(linear, x, w, b)
        assert np.array_equal(
            dense(dense_tasks(dtype, "relu"), mode, x, w, b), np.where(linear < 0, 0, linear)
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "size", [(1, 9, 60), (33, 850, 70), (30, 2, 9), (10, 128, 64), (128, 1, 1), (70, 500, 1)]
)
def test_weight_gradient(size: tuple[int, int, int], dtype: str, mode: str) -> None:
    k, m, n = size
    rng = np.random.default_rng(8)
    x, dz = random(rng, dtype, m, k), random(rng, dtype, m, n)
    for dz_view in (dz, np.asfortranarray(dz), dz[::-1].copy()[::-1]):
        dw, db = gradient(weight_gradient_tasks(dtype), mode, x, dz_view)
        assert_product(dw, x.T, dz)
        assert_product(db, np.ones((1, m)), dz)


@pytest.mark.parametrize("mode", MODES)
def test_batches(mode: str) -> None:
    rng = np.random.default_rng(9)
    for batch_a, batch_b in (((5,), ()), ((), (5,)), ((2, 1, 3), (4, 1)), ((2, 3), (2, 3)), ((0,), ())):
        for m, k, n in ((7, 5, 30), (9, 4, 1)):
            a, b = random(rng, "f4", *batch_a, m, k), random(rng, "f4", *batch_b, k, n)
            assert_product(product(product_tasks("f4"), mode, a, b), a, b)


def test_part_of_a_batch() -> None:
    rng = np.random.default_rng(10)
    a, b = random(rng, "f4", 6, 3, 4), random(rng, "f4", 4, 5)
    out = poisoned(6, 3, 5, dtype="f4")
    geometry, frame = frames.new_geometry(3), frames.new_frame(3)
    for row, array in zip(geometry, (a, b, out), strict=True):
        frames.describe(row, array)
    frames.build(PRODUCT.table, geometry, frame)
    TASK(product_tasks("f4").serial)(frame.ctypes.data, 2, 4)
    assert_product(out[2:4], a[2:4], b)
    assert np.isnan(out[[0, 1, 4, 5]]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 16, 17, 399, 401, 1203])
def test_a_part_has_the_same_bits_as_in_the_whole(k: int, dtype: str) -> None:
    """Whichever of the kernel's ways a row or column goes through: alone, few, many, ragged, transposed."""
    rng = np.random.default_rng(11)
    tasks, activated = product_tasks(dtype), dense_tasks(dtype, "relu")
    a, b, bias = random(rng, dtype, 61, k), random(rng, dtype, k, 203), random(rng, dtype, 203)
    whole, whole_dense = product(tasks, "serial", a, b), dense(activated, "serial", a, b, bias)
    for rows in (slice(0, 1), slice(60, 61), slice(1, 4), slice(3, 9), slice(0, 60)):
        for columns in (slice(0, 203), slice(5, 6), slice(7, 12), slice(3, 28), slice(100, 203)):
            for mode in MODES:
                part = product(tasks, mode, a[rows], b[:, columns])
                assert part.tobytes() == whole[rows, columns].tobytes()
                part = dense(activated, mode, a[rows], b[:, columns], bias[columns])
                assert part.tobytes() == whole_dense[rows, columns].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [3, 702, KC + 6])
def test_few_rows_of_a_large_matrix(k: int, dtype: str) -> None:
    """Too large to be read in place. Fours of rows and single ones, with the bits of many rows."""
    rng = np.random.default_rng(12)
    n = max(1003, 2 * arguments.NEAR // (k * np.dtype(dtype).itemsize))
    a, b, bias = random(rng, dtype, FEW_ROWS + 1, k), random(rng, dtype, k, n), random(rng, dtype, n)
    tasks, activated = product_tasks(dtype), dense_tasks(dtype, "relu")
    whole, whole_dense = product(tasks, "serial", a, b), dense(activated, "serial", a, b, bias)
    assert_product(whole, a, b)
    for rows in range(1, FEW_ROWS + 1):
        for mode in MODES:
            part = LAYOUTS["columns" if rows % 2 else "rows"](a[-rows:])
            assert product(tasks, mode, part, b).tobytes() == whole[-rows:].tobytes()
            assert dense(activated, mode, part, b, bias).tobytes() == whole_dense[-rows:].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 15, 64, 65, 200, KC + 6])
def test_few_rows_and_a_transposed_matrix(k: int, dtype: str) -> None:
    """It is turned square by square; with the bits of many rows. Few columns are few rows, transposed."""
    rng = np.random.default_rng(14)
    many = VERY_FEW + 3
    for n in (1, 15, 16, 63, 64, 65, 300):
        a, b, bias = random(rng, dtype, many, k), random(rng, dtype, n, k + 7)[:, :k].T, random(rng, dtype, n)
        tasks, activated = product_tasks(dtype), dense_tasks(dtype, "relu")
        whole, whole_dense = product(tasks, "serial", a, b), dense(activated, "serial", a, b, bias)
        assert_product(whole, a, b)
        for rows in range(1, many):
            for mode in MODES:
                part = LAYOUTS["columns" if rows % 2 else "rows"](a[-rows:])
                assert product(tasks, mode, part, b).tobytes() == whole[-rows:].tobytes()
                assert product(tasks, mode, b.T, part.T).tobytes() == whole[-rows:].T.tobytes()
                assert dense(activated, mode, part, b[:, ::-1], bias).tobytes() == (
                    dense(activated, "serial", a, b[:, ::-1], bias)[-rows:].tobytes()
                )
                assert dense(activated, mode, part, b, bias).tobytes() == whole_dense[-rows:].tobytes()


@pytest.mark.parametrize("size", [(1600, 256, 256), (1600, 200, 256), (130, 256, 600)])
def test_each_product_of_a_batch_has_its_own_panels(size: tuple[int, int, int]) -> None:
    """A thread keeps panels for the next piece of a product, not for the next product."""
    rng = np.random.default_rng(16)
    m, k, n = size
    a, b = random(rng, "float64", 2, m, k), random(rng, "float64", 2, k, n)
    expected = product(product_tasks("float64"), "serial", a, b)
    for _ in range(3):
        with nbops.use("parallel", threads=3):
            assert nbops.matmul(a, b).tobytes() == expected.tobytes()


def block_for(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """An argument block for ``out = a @ b``, as one piece, without memory."""
    words = np.zeros(arguments.ARGUMENTS, np.int64)
    words[[arguments.M, arguments.K, arguments.N]] = *a.shape, b.shape[1]
    for place, array in ((arguments.A, a), (arguments.B, b), (arguments.C, out)):
        words[place : place + 3] = array.ctypes.data, *array.strides
    words[[arguments.ROW_PIECES, arguments.COLUMN_PIECES, arguments.SLOTS]] = 1
    return words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut_by", ["rows", "columns", "both"])
def test_pieces_in_any_order_on_any_thread(cut_by: str, dtype: str) -> None:
    """A core that is through takes pieces of others: in its memory may be panels of other columns."""
    rng = np.random.default_rng(15)
    task = TASK(gemm_cpu._kernel(np.dtype(dtype)).address)
    a, b = random(rng, dtype, 301, 70), random(rng, dtype, 70, 500)
    expected = product(product_tasks(dtype), "serial", a, b)
    out = poisoned(301, 500, dtype=dtype)
    words = block_for(a, b, out)
    unit = host_tile().nr(np.dtype(dtype).itemsize)
    by_rows, by_columns = {"rows": (7, 1), "columns": (1, 4), "both": (5, 3)}[cut_by]
    slots, size = 2, 1 << 20
    memory = np.full(slots * size + 64, 0x7F, np.uint8)
    start = -(-memory.ctypes.data // 64) * 64
    words[[arguments.ROW_PIECES, arguments.COLUMN_PIECES, arguments.COLUMN_UNIT]] = by_rows, by_columns, unit
    words[[arguments.SLOTS, arguments.SCRATCH, arguments.SCRATCH_SIZE]] = slots, start, size
    words[[arguments.ROWS, arguments.KEPT]] = 301, cut_by != "columns"
    for _ in range(20):
        for slot in range(slots):
            header = (ctypes.c_int64 * 2).from_address(start + slot * size)
            header[:] = 0, 0
        out[:] = np.nan
        pieces = rng.permutation(by_rows * by_columns).tolist()
        with ThreadPoolExecutor(slots) as pool:
            list(pool.map(lambda piece: task(words.ctypes.data, piece, piece + 1), pieces))
        assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [0, 1, 37, KC + 5])
def test_without_memory_to_work_in_the_bits_are_the_same(k: int, dtype: str) -> None:
    rng = np.random.default_rng(13)
    a, b, bias = random(rng, dtype, 20, k), random(rng, dtype, k, 50), random(rng, dtype, 50)
    expected = dense(dense_tasks(dtype, "relu"), "serial", a, b, bias)
    columns, out = np.asfortranarray(b), poisoned(20, 50, dtype=dtype)
    words = block_for(a, columns, out)  # SCRATCH is 0
    words[arguments.BIAS], words[arguments.BIAS_COLUMN] = bias.ctypes.data, bias.itemsize
    words[arguments.RECTIFY] = 1
    TASK(gemm_cpu._kernel(np.dtype(dtype)).address)(words.ctypes.data, 0, 1)
    assert out.tobytes() == expected.tobytes()


def fingerprint() -> str:
    """A digest of results that many threads share."""
    rng = np.random.default_rng(12)
    digest = hashlib.sha256()
    for m, k, n in ((61, 500, 203), (300, 70, 10), (1, 300, 900), (5, 900, 90)):
        x, w, b = random(rng, "f4", m, k), random(rng, "f4", k, n), random(rng, "f4", n)
        digest.update(product(product_tasks("f4"), "parallel", x, w))
        digest.update(dense(dense_tasks("f4", "relu"), "parallel", x, w, b))
        dz = product(product_tasks("f4"), "serial", x, w)
        for part in gradient(weight_gradient_tasks("f4"), "parallel", x, dz):
            digest.update(part)
    return digest.hexdigest()


def python(code: str, *arguments: str, **environment: str) -> str:
    folders = [os.path.dirname(os.path.dirname(os.path.abspath(p))) for p in (frames.__file__, __file__)]
    tests = os.path.dirname(os.path.abspath(__file__))
    paths = os.pathsep.join([*folders, tests, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=600,  # a hang, not a bound: compiling takes long beside other work
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_same_bits_for_every_number_of_threads_and_a_warm_cache() -> None:
    expected = set()
    for count in range(1, numba.get_num_threads() + 1):
        numba.set_num_threads(count)
        expected.add(fingerprint())
    assert len(expected) == 1
    code = """
import time
from nbops.targets import cpu
cpu.start_threads()
from nbops.tuned import gemm_cpu
start = time.perf_counter()
owners = gemm_cpu.product_tasks("f4").owners
print(time.perf_counter() - start)
print(all(task.cache_hits for task in owners))
import test_gemm_cpu
print(test_gemm_cpu.fingerprint())
"""
    seconds, hits, found = python(code, NUMBA_NUM_THREADS="7").split()
    assert {found} == expected
    assert hits == "True"
    assert float(seconds) < 1


def test_importing_compiles_nothing() -> None:
    code = """
from numba.core import event
import nbops.frame, nbops.targets.cpu
with event.install_recorder("numba:compile") as recorder:
    import nbops.tuned.gemm_cpu
print(len(recorder.buffer))
"""
    assert python(code) == "0"


def test_there_is_a_block_for_each_worker_at_most() -> None:
    mr, nr = 4, 24
    sizes = itertools.product((1, 4, 30, 200, 1600), (1, 24, 100, 312, 400), (1, 2, 3, 6, 16), (False, True))
    for m, n, workers, rows_alone in sizes:
        rows, columns = share_out(m, n, mr, nr, workers, rows_alone)
        assert 1 <= rows * columns <= workers, (m, n, workers, rows, columns)


def test_pieces_cover_every_element_once_and_are_nearly_equal() -> None:
    for length, unit, pieces in itertools.product((0, 1, 5, 24, 100, 783), (1, 6, 64), (1, 2, 3, 8, 50)):
        starts = [piece_start(length, unit, piece, pieces) for piece in range(pieces + 1)]
        assert (starts[0], starts[-1]) == (0, length)
        lengths = np.diff(starts)
        assert lengths.min() >= 0
        assert lengths.max() <= piece_length(length, unit, pieces)
        assert lengths[:-1].max(initial=0) - lengths[:-1].min(initial=length) <= unit


@pytest.mark.parametrize("vectors", [2, 3])
def test_columns_are_cut_into_panels_of_whole_vectors(vectors: int) -> None:
    lanes = 4
    nr = vectors * lanes
    for columns in range(1, 100):
        widths = [nr] * whole_panels(columns, nr, lanes)
        while sum(widths) < columns:
            widths.append(rest_panel(columns - sum(widths), nr, lanes))
        assert sum(widths) == -(-columns // lanes) * lanes
        assert max(widths) <= nr
        if vectors == 3 and columns > lanes:
            assert lanes not in widths  # no vector by itself


def test_blocks_of_the_inner_axis_are_at_most_kc() -> None:
    for k in range(2000):
        assert 0 < inner_block(k) <= KC
        assert inner_block(k) % 16 == 0


def test_block_sizes_are_multiples_of_every_tile() -> None:
    processors = ["", "+sse2", "+avx", "+avx,+fma", "+avx,+fma,+avx512f"]
    tiles = [tile_shape("x86_64", p) for p in processors] + [tile_shape("aarch64", "")]
    for tile, itemsize in itertools.product(tiles, (4, 8)):
        assert NC // itemsize % tile.nr(itemsize) == 0


@pytest.mark.parametrize("mr", [4, 6, 8])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_blocks_of_rows_stay_in_the_cache_and_are_nearly_equal(itemsize: int, mr: int) -> None:
    for kc, rows in itertools.product([16, 128, 400, KC], [1, 16, 17, 128, 130, 1000, 5000]):
        block = row_block(rows, kc, mr, itemsize)
        assert block % (2 * mr) == 0
        most = near_rows(kc, itemsize)
        assert most * kc * itemsize <= MC * KC
        assert block < most + 2 * mr
        blocks = -(-rows // block)
        assert blocks == 1 or blocks * block - rows < blocks * 2 * mr
        assert blocks <= -(-rows // most)


@pytest.mark.parametrize("mr", [4, 6, 8])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_scratch_memory_is_enough_for_a_worker_with_fewer_rows(itemsize: int, mr: int) -> None:
    """Which may have one block of rows, and so more strips, where the others have two."""
    nr = 96 // itemsize
    for k, columns in itertools.product([16, 128, KC, 3000], [1, nr, 5 * nr + 1]):
        kc = inner_block(k)
        most = near_rows(kc, itemsize)
        for rows in (1, mr, most - 1, most, most + 1, most + 2 * mr, 2 * most + 1):
            size, with_panels = (scratch_bytes(rows, k, columns, mr, nr, itemsize, kept) for kept in (0, 1))
            for fewer in (rows, rows - 1, rows - mr, rows - 3 * mr, most, most - mr):
                if not 0 < fewer <= rows:
                    continue
                block = row_block(fewer, kc, mr, itemsize)
                strips = -(-min(fewer, block) // mr) * strip_bytes(mr, kc, itemsize)
                all_panels = -(-columns // nr) * nr * kc * itemsize
                panels = all_panels if fewer > block else nr * kc * itemsize
                needed = LINE + mr * nr * itemsize + strips
                assert needed + panels <= size, (k, columns, rows, fewer)
                assert needed + all_panels <= with_panels, (k, columns, rows, fewer)
            # `multiply_rows` rounds a row of sums up to whole vectors.
            row = -(-columns * itemsize // LINE) * LINE
            assert LINE + min(min(rows, FEW_ROWS) * row, SUMS) <= size


def test_unsupported() -> None:
    with pytest.raises(TypeError, match="only float32 and float64"):
        product_tasks("int32")
    with pytest.raises(ValueError, match="only 'linear' and 'relu'"):
        dense_tasks("float32", "tanh")


on_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names x86 processors")


@on_x86
def test_a_processor_without_avx(tmp_path: Any) -> None:
    """The narrowest vectors and no fused multiply-add: the same code, compiled for another tile, and run."""
    code = """
import numpy, test_gemm_cpu as t
assert t.host_tile() == (16, 4, 2, False), t.host_tile()
t.cpu.start_threads()
rng = numpy.random.default_rng(0)
for m, k, n in (1, 9, 60), (33, 850, 70), (30, 9, 2):
    a, b = t.random(rng, "f4", m, k), t.random(rng, "f4", k, n)
    t.assert_product(t.product(t.product_tasks("f4"), "parallel", a, b), a, b)
"""
    python(code, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="+sse2", NUMBA_CACHE_DIR=str(tmp_path))


@on_x86
def test_a_processor_with_avx512(tmp_path: Any) -> None:
    """Only compiled, and its inner loop inspected: 24 accumulators, none of which goes to memory."""
    code = """
import re, numpy
from nbops.tuned import gemm_cpu
assembly = gemm_cpu._kernel(numpy.dtype("f4"))._library.get_asm_str()
blocks = re.split(r"^\\.?L\\w+:", assembly, flags=re.M)
loops = [b for b in blocks if b.count("vfmadd") >= 24 and "zmm" in b]
spills = [b for b in loops if re.search(r"vmov\\w+\\s+%zmm\\d+, .*%rsp", b)]
print(max(b.count("vfmadd") for b in loops), len(spills))
"""
    features = "+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512dq,+avx512bw"
    answer = python(
        code, NUMBA_CPU_NAME="skylake-avx512", NUMBA_CPU_FEATURES=features, NUMBA_CACHE_DIR=str(tmp_path)
    )
    multiply_adds, spills = map(int, answer.split())
    assert multiply_adds % 24 == 0
    assert spills == 0


NEON = """
import re, sys, numpy
from nbops.tuned import vectors
shape = vectors.tile_shape("aarch64-unknown-linux-gnu", "")
vectors.tile_shape = lambda triple, features: shape
import test_gemm_cpu as t
"""


def test_the_tile_of_neon_is_right_on_this_processor(tmp_path: Any) -> None:
    """Six rows, not a power of two, and vectors of 16 bytes: the numbers, computed here."""
    code = (
        NEON
        + """
t.cpu.start_threads()
rng = numpy.random.default_rng(0)
for dtype in "f4", "f8":
    for m, k, n in (1, 9, 60), (33, 850, 70), (64, 64, 64), (30, 9, 2), (97, 3, 13):
        a, b = t.random(rng, dtype, m, k), t.random(rng, dtype, k, n)
        for kind in "serial", "parallel":
            t.assert_product(t.product(t.product_tasks(dtype), kind, a, b), a, b)
print(t.host_tile())
"""
    )
    assert "vector_bytes=16, mr=6, vectors=3, fused=True" in python(code, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize(("dtype", "lanes"), [("f4", "4s"), ("f8", "2d")])
def test_what_llvm_makes_of_the_kernel_for_neon(tmp_path: Any, dtype: str, lanes: str) -> None:
    """Only compiled, and its inner loops inspected: whole vectors, and no register goes to memory."""
    code = (
        NEON
        + """
import llvmlite.binding as llvm
from nbops.tuned import gemm_cpu
dtype, lanes = sys.argv[1:]
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
triple = "aarch64-unknown-linux-gnu"
machine = llvm.Target.from_triple(triple).create_target_machine(opt=3)
text = gemm_cpu._kernel(numpy.dtype(dtype))._library.get_llvm_str()
module = llvm.parse_assembly(re.sub(r"^target (datalayout|triple) = .*$", "", text, flags=re.M))
module.triple, module.data_layout = triple, str(machine.target_data)
blocks = re.split(r"^\\.?L\\w+:", machine.emit_assembly(module), flags=re.M)
multiply_add = re.compile(rf"\\bfmla\\s+v\\d+\\.{lanes}")
loops = [block for block in blocks if len(multiply_add.findall(block)) >= 24]
spills = [block for block in loops if re.search(r"\\b(st|ld)[rpu]+\\s+q\\d+.*\\bsp\\b", block)]
print(max(len(multiply_add.findall(block)) for block in loops), len(spills))
"""
    )
    multiply_adds, spills = map(int, python(code, dtype, lanes, NUMBA_CACHE_DIR=str(tmp_path)).split())
    assert multiply_adds == 4 * 18  # four steps along k are unrolled
    assert spills == 0
