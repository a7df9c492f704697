"""vecdot, matvec and vecmat on the emulated GPU: values with all checkers on, and bytes moved once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from tests.targets.cuda import needs_compiler
from tests.tuned.cuda.test_products import draw

pytestmark = needs_compiler

ORACLES = {
    "vecdot": lambda x, y: np.einsum("...i,...i->...", x, y),
    "matvec": lambda a, x: np.einsum("...ij,...j->...i", a, x),
    "vecmat": lambda x, a: np.einsum("...i,...ij->...j", x, a),
}


def run(name: str, left: np.ndarray, right: np.ndarray, cc: tuple[int, int] = (9, 0)) -> Any:
    """The counters, after the result is compared."""
    oracle = ORACLES[name]
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        result = getattr(nbops, name)(left, right)
    wide, other = left.astype(np.float64), right.astype(np.float64)
    # rounded once from float64, or for float64 after some thousand additions
    roundings = 1 if left.dtype == np.float32 else left.shape[-1] + 1
    bound = roundings * np.finfo(left.dtype).eps * oracle(np.abs(wide), np.abs(other))
    assert np.asarray(result).dtype == left.dtype
    assert (np.abs(result - oracle(wide, other)) <= bound).all()
    assert any("times_" in kernel for kernel in gpu.counters)
    return gpu.counters


@pytest.mark.parametrize("cc", [(7, 5), (8, 0), (9, 0), (12, 0)], ids=str)
def test_every_architecture(cc: Any, rng: np.random.Generator) -> None:
    a, x = draw(rng, (33, 70), np.float32), draw(rng, (70,), np.float32)
    run("matvec", a, x, cc)
    run("vecmat", a[:, 0].copy(), a, cc)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("vecdot", ((1,), (1,))),
        ("vecdot", ((5, 37), (37,))),
        ("vecdot", ((40_001,), (40_001,))),
        ("matvec", ((1, 1), (1,))),
        ("matvec", ((2, 3, 40), (2, 40))),
        ("matvec", ((2, 33_000), (33_000,))),
        ("vecmat", ((9,), (9, 131))),
        ("vecmat", ((2, 7), (2, 7, 4))),
        ("vecmat", ((1100,), (1100, 8))),
    ],
    ids=str,
)
def test_sizes(name: str, shapes: Any, dtype: Any, rng: np.random.Generator) -> None:
    run(name, *(draw(rng, shape, dtype) for shape in shapes))


def test_a_transposed_matrix_is_read_in_its_own_order(rng: np.random.Generator) -> None:
    a = draw(rng, (64, 96), np.float32)
    x, y = draw(rng, (96,), np.float32), draw(rng, (64,), np.float32)
    (by_rows,) = run("matvec", a, x)
    (by_columns,) = run("matvec", a.T, y)
    assert "matrix_times_vector" in by_rows
    assert "vector_times_matrix" in by_columns
    (by_columns,) = run("vecmat", y, a)
    (by_rows,) = run("vecmat", x, a.T)
    assert "matrix_times_vector" in by_rows
    assert "vector_times_matrix" in by_columns


def test_the_matrix_is_read_once_in_128_bits(rng: np.random.Generator) -> None:
    """Beside it each row reads the vector; each row of a warp's columns, in every lane, one number of it."""
    a, x, y = (draw(rng, shape, np.float32) for shape in ((48, 256), (256,), (48,)))
    for name, operands, beside in (("matvec", (a, x), a.nbytes), ("vecmat", (y, a), 48 * 2 * 32 * 4)):
        (counters,) = run(name, *operands).values()
        assert counters.global_loads.bytes == a.nbytes + beside
        assert counters.global_loads.ratio == 1
        assert counters.instructions["LDG.128"] * 16 * 32 >= a.nbytes


def test_any_strides_and_special_values(rng: np.random.Generator) -> None:
    a, x = draw(rng, (20, 30), np.float32)[::2, ::-3], draw(rng, (20,), np.float32)[::2]
    run("matvec", a, x)
    run("vecmat", x, a)
    run("vecdot", x[::-1], np.broadcast_to(x[:1], (10,)))
    a = a.copy()
    a[3, 5] = np.nan
    with nbops.use("cuda-emulator"):
        result = nbops.matvec(a, x)
        assert nbops.vecdot(np.array([np.inf, 1], np.float32), np.ones(2, np.float32)) == np.inf
    np.testing.assert_array_equal(np.isnan(result), np.arange(10) == 3)
