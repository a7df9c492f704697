"""Matrix products on the emulated GPU: values with all checkers on, and what is moved for them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.ops.dense import dense_weight_gradient
from nbops.tuned.cuda.catalog import Example, launches
from tests.targets.cuda import needs_compiler

pytestmark = needs_compiler

ARCHITECTURES = [(7, 5), (8, 0), (9, 0), (12, 0)]


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, transposed: bool = False) -> Any:
    if transposed:
        return draw(rng, (*shape[:-2], shape[-1], shape[-2]), dtype).swapaxes(-1, -2)
    return rng.normal(size=shape).astype(dtype)


def assert_product(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Every sum is as near as its order of summation allows: k roundings of its absolute terms."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    bound = (a.shape[-1] + 1) * np.finfo(a.dtype).eps * (np.abs(wide_a) @ np.abs(wide_b))
    error = np.abs(result - wide_a @ wide_b)
    assert result.dtype == a.dtype
    assert (error <= bound).all(), f"{(error / np.maximum(bound, 1e-300)).max():.2f} times the bound"


def run(a: Any, b: Any, cc: tuple[int, int] = (9, 0)) -> tuple[np.ndarray, Any]:
    """The product, and the counters of the kernel that made it."""
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        result = nbops.matmul(a, b)
    ((name, counters),) = gpu.counters.items()
    assert "multiply_tiles" in name
    return result, counters


@pytest.mark.parametrize(
    ("layout", "cc"),
    [("NN", cc) for cc in ARCHITECTURES] + [(layout, (9, 0)) for layout in ("NT", "TN", "TT")],
    ids=str,
)
def test_the_large_tile_moves_little_and_mostly_multiplies(
    layout: str, cc: Any, rng: np.random.Generator
) -> None:
    """What 8 more steps of the sum take is the inner loop, whatever stands around it."""
    mixes = []
    for k in (64, 128):
        a = draw(rng, (128, k), np.float32, layout[0] == "T")
        b = draw(rng, (k, 256), np.float32, layout[1] == "T")
        result, counters = run(a, b, cc)
        assert_product(result, a, b)
        assert counters.global_loads.ratio <= 1.05
        assert counters.global_loads.bytes == 4 * (2 * a.size + b.size)
        assert counters.global_stores.bytes == 32 * counters.global_stores.moved == result.nbytes
        assert counters.shared_loads.ratio <= 1.1
        assert counters.shared_stores.ratio <= 1.1
        mixes.append(counters.instructions)
    loop: Counter[str] = mixes[1] - mixes[0]
    assert loop["FFMA"] >= 0.8 * sum(loop.values()), loop
    assert {name for name in loop if name.startswith(("LDG", "LDS"))} == {"LDG.128", "LDS.128"}


SHAPES = [
    ((1, 1), (1, 1)),
    ((129, 9), (9, 131)),
    ((130, 12), (12, 132)),
    ((40, 0), (0, 3)),
    ((3, 100), (100, 1)),
    ((2, 1, 5, 6), (3, 6, 4)),
    ((70, 3, 5), (5, 2)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_ragged_sizes_and_batches(shapes: Any, dtype: Any, rng: np.random.Generator) -> None:
    a, b = (draw(rng, shape, dtype) for shape in shapes)
    assert_product(run(a, b)[0], a, b)


@pytest.mark.parametrize("cc", [(7, 5), (12, 0)], ids=str)
@pytest.mark.parametrize(("left", "right"), [(False, False), (True, False), (False, True)])
def test_layouts_of_ragged_sizes(left: bool, right: bool, cc: Any, rng: np.random.Generator) -> None:
    a, b = draw(rng, (33, 19), np.float32, left), draw(rng, (19, 35), np.float32, right)
    assert_product(run(a, b, cc)[0], a, b)


def test_any_strides(rng: np.random.Generator) -> None:
    a, b = (
        draw(rng, (37, 42), np.float32)[::-1, ::2],
        np.broadcast_to(draw(rng, (21, 1), np.float32), (21, 8)),
    )
    assert_product(run(a, b)[0], a, b)
    out = np.full((40, 20), 7, np.float32)
    with nbops.use("cuda-emulator"):
        nbops.matmul(a, b, out=out[1:38, 2:18:2])
    assert_product(out[1:38, 2:18:2], a, b)
    assert (out[1:38, 3:18:2] == 7).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_operands_repeated_along_the_inner_axis(dtype: Any, rng: np.random.Generator) -> None:
    """No vectors lie along a stride of 0; they lie along the other axis."""
    column, row = draw(rng, (36,), dtype), draw(rng, (40,), dtype)
    a, b = np.broadcast_to(column[:, None], (36, 20)), np.broadcast_to(row, (20, 40))
    assert_product(run(a, b)[0], a, b)


@pytest.mark.parametrize("place", [np.nan, np.inf, -np.inf])
def test_a_special_value_reaches_its_row_or_column_only(place: float, rng: np.random.Generator) -> None:
    a, b = draw(rng, (40, 20), np.float32), draw(rng, (20, 36), np.float32)
    a[39, 19] = b[19, 35] = place  # the last ones, which the threads beyond the edge read too
    result, _ = run(a, b)
    with np.errstate(invalid="ignore"):
        expected = a @ b
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(result), np.isinf(expected))
    assert_product(result[:39, :35], a[:39], b[:, :35])


def test_the_same_bits_every_time(rng: np.random.Generator) -> None:
    a, b = draw(rng, (50, 300), np.float32), draw(rng, (300, 20), np.float32)
    np.testing.assert_array_equal(run(a, b)[0], run(a, b)[0])


# ---- sums in parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "dtype"),
    [
        (((12, 900), (900, 8)), np.float32),
        (((5, 1000), (1000, 7)), np.float32),
        (((3, 10, 999), (999, 2)), np.float64),
    ],
    ids=str,
)
def test_a_long_sum_of_few_elements_is_cut_into_parts(
    shapes: Any, dtype: Any, rng: np.random.Generator
) -> None:
    a, b = (draw(rng, shape, dtype) for shape in shapes)
    results = []
    for _ in range(2):
        with nbops.use("cuda-emulator") as gpu:
            results.append(nbops.matmul(a, b))
        assert len(gpu.counters) == 2
        assert any("add_parts" in name for name in gpu.counters)
    assert_product(results[0], a, b)
    np.testing.assert_array_equal(*results)  # the same bits every time


# ---- a product that is scaled and added to something ------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("m", "k", "n"), [(70, 37, 45), (33, 20, 64), (1, 300, 12), (12, 900, 8), (5, 0, 4)], ids=str
)
def test_gemm_scales_and_adds(m: int, k: int, n: int, dtype: Any, rng: np.random.Generator) -> None:
    """As in a step of gradient descent: the left operand transposed, and the result in place."""
    a, b, c = draw(rng, (m, k), dtype, True), draw(rng, (k, n), dtype), draw(rng, (m, n), dtype)
    exact = c.astype(np.float64) - 0.5 * (a.astype(np.float64) @ b)
    bound = (k + 3) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + np.abs(c) + 1)
    with nbops.use("cuda-emulator") as gpu:
        assert nbops.gemm(a, b, c, dtype(-0.5), out=c) is c
    assert kernels_of(gpu) == ["multiply_tiles", "add_parts"]
    assert (np.abs(c - exact) <= bound).all()


def test_gemm_of_a_batch_reads_a_repeated_addend_and_factor(rng: np.random.Generator) -> None:
    a, b, c = (
        draw(rng, (2, 3, 5, 6), np.float32),
        draw(rng, (3, 6, 4), np.float32),
        draw(rng, (5, 1), np.float32),
    )
    c, alpha = np.broadcast_to(c, (5, 4)), draw(rng, (2, 1), np.float32)
    with nbops.use("cuda-emulator"):
        result = nbops.gemm(a, b, c, alpha)
    np.testing.assert_allclose(result, c + alpha[..., None, None] * (a @ b), rtol=1e-5, atol=1e-5)


def test_parts_of_a_weight_gradients_product_fill_the_gpu() -> None:
    """A layer of 512 x 10 weights, 5,000 images: 16 tiles of the smallest size, 132 multiprocessors."""
    (multiply, add) = launches(Example("matmul", ((512, 5000), (5000, 10)), transposed=(0,)), "float32")
    assert 0.9 * 132 <= multiply.grid[0] * multiply.grid[1] <= 2 * 132
    assert "parts" in add.kernel.name


# ---- dense -----------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("k", [20, 900], ids=["one launch", "in parts"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_and_activation_are_fused(activation: str, k: int, rng: np.random.Generator) -> None:
    x, w = draw(rng, (19, k), np.float32), draw(rng, (k, 6), np.float32) / np.float32(np.sqrt(k))
    b = draw(rng, (6,), np.float32)
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.dense(x, w, b, activation)
    assert len(gpu.counters) == (1 if k == 20 else 2)
    assert any("multiply_tiles" in name for name in gpu.counters)
    z = x.astype(np.float64) @ w.astype(np.float64) + b
    bound = (k + 4) * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(w) + np.abs(b) + 1)
    assert (np.abs(result - ACTIVATIONS[activation](z)) <= bound).all()  # no activation is steeper than 1


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_an_exponential_in_float64_is_fused_too(activation: str, rng: np.random.Generator) -> None:
    x, w, b = draw(rng, (9, 5), np.float64), draw(rng, (5, 6), np.float64), draw(rng, (6,), np.float64)
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.dense(x, w, b, activation)
    assert kernels_of(gpu) == ["multiply_tiles"]
    np.testing.assert_allclose(result, ACTIVATIONS[activation](x @ w + b), rtol=0, atol=1e-14)


def test_relu_of_nan_is_nan_and_of_minus_infinity_zero() -> None:
    x = np.array([[np.nan], [-np.inf], [np.inf], [1]], np.float32)
    with nbops.use("cuda-emulator"):
        result = nbops.dense(x, np.ones((1, 2), np.float32), np.zeros(2, np.float32), "relu")
    np.testing.assert_array_equal(result[:, 0], [np.nan, 0, np.inf, 1])


def kernels_of(gpu: Any) -> list[str]:
    """The names of the tuned kernels that ran, in order of appearance."""
    known = ("multiply_tiles", "add_parts", "sum_rows", "row_in_registers")
    return [next((own for own in known if own in name), name) for name in gpu.counters]


def test_the_softmax_layer_is_the_product_and_softmaxs_own_kernel(rng: np.random.Generator) -> None:
    x, w, b = (draw(rng, shape, np.float32) for shape in ((21, 30), (30, 10), (10,)))
    with nbops.use("cuda-emulator") as gpu:
        result = nbops.dense(x, w, b, "softmax")
    assert kernels_of(gpu) == ["multiply_tiles", "row_in_registers"]
    e = np.exp(x.astype(np.float64) @ w + b)
    np.testing.assert_allclose(result, e / e.sum(1, keepdims=True), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("m", "k", "n", "dtype"), [(40, 9, 5, np.float32), (1500, 12, 10, np.float32), (33, 6, 4, np.float64)]
)
def test_the_weight_gradient(m: int, k: int, n: int, dtype: Any, rng: np.random.Generator) -> None:
    """1500 rows are cut into parts, for the product and for the sum of the rows."""
    x, dz = draw(rng, (m, k), dtype), draw(rng, (m, n), dtype)
    with nbops.use("cuda-emulator") as gpu:
        dw, db = dense_weight_gradient(x, dz)
    assert kernels_of(gpu)[:1] == ["multiply_tiles"]
    assert set(kernels_of(gpu)) == {"multiply_tiles", "sum_rows"} | ({"add_parts"} if m > 1000 else set())
    assert_product(dw, x.T, dz)
    assert_product(db[None], np.ones((1, m), dtype), dz)


# ---- tensor cores ----------------------------------------------------------------------------------------


def to_tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to 10 bits behind the point, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize(
    ("m", "k", "n", "cc"),
    [(128, 32, 256, (8, 0)), (128, 32, 256, (12, 0)), (70, 19, 33, (9, 0)), (5, 700, 9, (9, 0))],
    ids=str,
)
def test_tensor_cores_multiply_what_was_rounded_to_tf32(
    m: int, k: int, n: int, cc: Any, rng: np.random.Generator
) -> None:
    a, b = draw(rng, (m, k), np.float32), draw(rng, (k, n), np.float32, transposed=True)
    with nbops.use("cuda-emulator", compute_capability=cc, tf32=True) as gpu:
        result = nbops.matmul(a, b)
    assert_product(result, to_tf32(a), to_tf32(np.ascontiguousarray(b)))
    counters = next(iter(gpu.counters.values()))
    assert counters.instructions["MMA"]
    assert counters.shared_loads.ratio == 1
    if m == 128:
        assert counters.global_loads.ratio <= 1.05
        assert not counters.instructions["FFMA"]


def test_tensor_cores_are_used_only_where_asked_for_and_known(rng: np.random.Generator) -> None:
    a, b = draw(rng, (20, 30), np.float32), draw(rng, (30, 8), np.float32)
    for cc, dtype, tf32 in (
        ((9, 0), np.float32, None),
        ((7, 5), np.float32, True),
        ((9, 0), np.float64, True),
    ):
        with nbops.use("cuda-emulator", compute_capability=cc, tf32=tf32) as gpu:
            result = nbops.matmul(a.astype(dtype), b.astype(dtype))
        assert_product(result, a.astype(dtype), b.astype(dtype))
        assert not any(counters.instructions["MMA"] for counters in gpu.counters.values())


def test_the_weight_gradient_without_features_is_that_of_the_bias_alone(rng: np.random.Generator) -> None:
    dz = draw(rng, (3, 5), np.float32)
    with nbops.use("cuda-emulator") as gpu:
        dw, db = dense_weight_gradient(np.empty((3, 0), np.float32), dz)
    assert kernels_of(gpu) == ["sum_rows"]
    assert dw.shape == (0, 5)
    np.testing.assert_allclose(db, dz.sum(0), rtol=1e-6)
