"""Elementwise ops on the emulated GPU: 128-bit accesses, every byte moved once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import registry
from nbops.targets.cuda import residence
from nbops.targets.emulator.tally import Counters
from tests.cases import CASES
from tests.targets.cuda import FakeArray, FakeLibrary, needs_compiler

pytestmark = needs_compiler

DTYPES = ["float32", "float64", "int8", "uint8", "int16", "int32", "int64"]


def draw(rng: np.random.Generator, shape: Any, dtype: str) -> np.ndarray:
    return (5 * rng.normal(size=shape)).astype(dtype)


def counters_of(gpu: Any) -> tuple[str, Counters]:
    """Of the only kernel that ran."""
    ((name, counters),) = gpu.counters.items()
    return name, counters


def accesses(counters: Counters) -> dict[str, int]:
    """Loads and stores by name and size."""
    return {
        name: n for name, n in counters.instructions.items() if name[:2] in ("LD", "ST") and name != "LDC"
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cc", [(9, 0), (12, 0)], ids=str)
def test_every_byte_is_moved_once_in_128_bits(dtype: str, cc: Any, rng: np.random.Generator) -> None:
    x, y = draw(rng, 4096, dtype), draw(rng, 4096, dtype)
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        result = nbops.add_relu(x, y)
    _, counters = counters_of(gpu)
    np.testing.assert_array_equal(result, nbops.add_relu(x, y, target="serial"))
    assert set(accesses(counters)) == {"LDG.128", "STG.128"}
    assert counters.global_loads.bytes == 2 * x.nbytes
    assert counters.global_stores.bytes == x.nbytes
    assert 32 * (counters.global_loads.moved + counters.global_stores.moved) == 3 * x.nbytes


ELEMENTWISE = [case.name for case in CASES if case.op is not None and case.op.signature.is_elementwise]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_op_moves_the_least_in_128_bits(name: str, rng: np.random.Generator) -> None:
    op = registry[name]
    operands = [rng.uniform(0.25, 2, 4096).astype(np.float32) for _ in op.arguments]
    with nbops.use("cuda-emulator") as gpu:
        op(*operands)
    _, counters = counters_of(gpu)
    assert set(accesses(counters)) == {"LDG.128", "STG.128"}
    assert counters.global_loads.bytes == 32 * counters.global_loads.moved == sum(x.nbytes for x in operands)
    assert counters.global_stores.bytes == 32 * counters.global_stores.moved == operands[0].nbytes


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8"])
@pytest.mark.parametrize("size", [1, 3, 16, 17, 31, 32, 1003])
def test_the_rest_of_a_row(dtype: str, size: int, rng: np.random.Generator) -> None:
    x, y = draw(rng, size, dtype), draw(rng, size, dtype)
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.multiply(x, y)
    _, counters = counters_of(gpu)
    np.testing.assert_array_equal(result, nbops.multiply(x, y, target="serial"))
    assert counters.global_loads.bytes == 2 * x.nbytes
    assert counters.global_stores.bytes == x.nbytes


def test_a_grid_that_is_smaller_than_the_work(rng: np.random.Generator) -> None:
    """The emulated GPU's strided grid has 4096 threads; this is more than two rounds of float32."""
    x = draw(rng, 40_001, "float32")
    with nbops.use("cuda-emulator"):
        np.testing.assert_array_equal(nbops.negative(x), -x)


def test_a_number_is_repeated(rng: np.random.Generator) -> None:
    x = draw(rng, 4096, "float32")
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.subtract(np.float32(3), x)
    _, counters = counters_of(gpu)
    np.testing.assert_array_equal(result, np.float32(3) - x)
    stored = accesses(counters)
    assert stored["STG.128"] == stored["LDG.128"] == 4096 // 4 // 32
    assert counters.global_stores.bytes == x.nbytes


def test_a_bias_along_rows_and_a_column(rng: np.random.Generator) -> None:
    x, bias, column = draw(rng, (6, 64), "float32"), draw(rng, 64, "float32"), draw(rng, (6, 1), "float32")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_array_equal(nbops.add(x, bias), x + bias)
        np.testing.assert_array_equal(nbops.add(x, column), x + column)
        np.testing.assert_array_equal(nbops.add(x[:, None], bias), x[:, None] + bias)
    assert all("run_vectors" in name for name in gpu.counters)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (lambda x: x.T, lambda x: x.T.copy()),
        (lambda x: x, lambda x: x[::-1, ::-1]),
        (lambda x: x, lambda x: x[0]),
    ],
    ids=["transposed", "reversed", "rows of 13"],
)
def test_other_layouts_run_the_loop(left: Any, right: Any, rng: np.random.Generator) -> None:
    x = draw(rng, (8, 13), "float32")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_array_equal(nbops.add(left(x), right(x)), left(x) + right(x))
    name, _ = counters_of(gpu)
    assert "run_elements" in name


def test_a_misaligned_address_runs_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(residence.LIBRARIES, "tests", FakeLibrary())
    x = np.arange(65, dtype=np.float32)
    with nbops.use("cuda-emulator") as gpu:
        whole = FakeArray(gpu, x.shape, x.dtype).fill(x)
        whole.address, whole.shape = whole.address + 4, (64,)
        np.testing.assert_array_equal(nbops.negative(whole).get(), -x[1:])
    name, _ = counters_of(gpu)
    assert "run_elements" in name


def test_in_place(rng: np.random.Generator) -> None:
    x = draw(rng, 1003, "float32")
    expected = np.maximum(x + x, 0)
    with nbops.use("cuda-emulator"):
        nbops.add_relu(x, x, out=x)
    np.testing.assert_array_equal(x, expected)


def test_an_op_of_ones_own_with_five_operands(rng: np.random.Generator) -> None:
    from nbops.op import Op, elementwise, registry

    def blend(a: Any, b: Any, c: Any, d: Any, e: Any) -> Any:
        return a * b + c * d - e

    op: Op = elementwise(blend)
    operands = [draw(rng, 70, "float32") for _ in range(5)]
    try:
        with nbops.use("cuda-emulator") as gpu:
            result = op(*operands)
    finally:
        del registry["blend"]
    name, counters = counters_of(gpu)
    assert "run_vectors" in name
    assert accesses(counters)["LDG.128"] == 5
    a, b, c, d, e = operands
    np.testing.assert_allclose(result, a * b + c * d - e, rtol=1e-5, atol=1e-5)


def test_as_written_is_the_loop(rng: np.random.Generator) -> None:
    x = draw(rng, 64, "float32")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_array_equal(nbops.relu.as_written()(x), np.maximum(x, 0))
    name, _ = counters_of(gpu)
    assert "run_elements" in name
