"""Sums on the emulated GPU: of rows and of columns, whole and in parts, each element read once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.ops.reductions import sum_row, sum_rows
from tests.targets.cuda import needs_compiler

pytestmark = needs_compiler

#: Lanes, a warp, a block, and two launches; aligned or not.
ROWS = [(5, 1), (5, 10), (3, 32), (5, 701), (5, 704), (3, 5000), (2, 32769), (1, 50_003), (3, 65_536)]
COLUMNS = [(1, 7), (9, 10), (33, 132), (600, 64), (1024, 5), (1025, 8), (1500, 33)]


def draw(rng: np.random.Generator, shape: Any, dtype: str) -> np.ndarray:
    return (100 * rng.normal(size=shape)).astype(dtype)


def run(op: Any, x: np.ndarray, cc: Any = (9, 0)) -> tuple[np.ndarray, list[Any]]:
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        result = op(x)
    assert all("sum_kernels" in name for name in gpu.counters)
    return result, list(gpu.counters.values())


def assert_sum(result: np.ndarray, x: np.ndarray, axis: int) -> None:
    if x.dtype.kind == "f":
        # float32 is summed in float64 and rounded once; a tree of additions in float64 loses log2 roundings
        bound = (8 + np.log2(x.shape[axis])) * np.finfo(np.float64).eps * np.abs(x).sum(axis).max()
        bound += np.finfo(x.dtype).eps * np.abs(x.sum(axis, dtype=np.float64)).max()
        np.testing.assert_allclose(result, x.astype(np.longdouble).sum(axis), rtol=0, atol=bound)
    else:
        np.testing.assert_array_equal(result, x.sum(axis, dtype=x.dtype))
    assert result.dtype == x.dtype


@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_rows(shape: Any, rng: np.random.Generator) -> None:
    x = draw(rng, shape, "float32")
    result, counters = run(sum_row, x)
    assert_sum(result, x, -1)
    loaded = sum(c.global_loads.bytes for c in counters)
    parts = -(-shape[1] // 16384) if shape[1] > 32768 else 0
    assert loaded == x.nbytes + 8 * shape[0] * parts


@pytest.mark.parametrize("shape", COLUMNS, ids=str)
def test_columns(shape: Any, rng: np.random.Generator) -> None:
    x = draw(rng, shape, "float32")
    result, counters = run(sum_rows, x)
    assert_sum(result, x, -2)
    parts = -(-shape[0] // 512) if shape[0] > 1024 else 0
    assert sum(c.global_loads.bytes for c in counters) == x.nbytes + 8 * shape[1] * parts


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64", "uint64"])
@pytest.mark.parametrize(("op", "shape", "axis"), [(sum_row, (2, 33_000), -1), (sum_rows, (1030, 36), -2)])
def test_other_dtypes(op: Any, shape: Any, axis: int, dtype: str, rng: np.random.Generator) -> None:
    x = np.abs(draw(rng, shape, "float64")).astype(dtype)
    result, _ = run(op, x, (12, 0))
    assert_sum(result, x, axis)


@pytest.mark.parametrize(("op", "shape"), [(sum_row, (2, 65_536)), (sum_rows, (1030, 36))])
def test_main_loops_load_128_bits(op: Any, shape: Any, rng: np.random.Generator) -> None:
    _, counters = run(op, draw(rng, shape, "float32"))
    assert counters[0].global_loads.ratio == 1
    for c in counters:
        loads = {name: n for name, n in c.instructions.items() if name.startswith("LDG")}
        assert loads["LDG.128"] == max(loads.values())
        # shared memory: no bank is asked for two words at once
        assert c.shared_loads.ratio == c.shared_stores.ratio == 1


def test_a_batch_of_matrices(rng: np.random.Generator) -> None:
    x = draw(rng, (3, 20, 12), "float32")
    result, _ = run(sum_rows, x)
    assert_sum(result, x, -2)


def test_the_order_of_additions_depends_on_the_length_alone(rng: np.random.Generator) -> None:
    """A row alone, and a row that begins at an odd place, give the bits that it gives among others."""
    x = draw(rng, (3, 1001), "float64")
    together, _ = run(sum_row, x)
    for i in range(3):
        alone, _ = run(sum_row, x[i].copy())
        np.testing.assert_array_equal(alone, together[i])


def test_nan_and_infinities() -> None:
    x = np.ones((4, 40), np.float32)
    x[0, 39], x[1, 3], x[2, 5], x[3, 0], x[3, 1] = np.nan, np.inf, -np.inf, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = x.sum(1)
    np.testing.assert_array_equal(run(sum_row, x)[0], expected)
    np.testing.assert_array_equal(run(sum_rows, x.T.copy())[0], expected)


def test_other_layouts_run_the_loop(rng: np.random.Generator) -> None:
    x = draw(rng, (12, 8), "float32")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_allclose(sum_rows(x[::-1]), x.sum(0), rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(sum_row(x.T), x.sum(0), rtol=1e-5, atol=1e-3)
    assert not any("sum_kernels" in name for name in gpu.counters)
