"""What only the interpreter runs of the loops: blocks, empty rows and labels out of range, all without Numba.

``make coverage`` fails unless interpreted loops, their gradients and errors cover every line of nbops/ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import registry
from nbops.tuned.sums_cpu import BLOCK


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with nbops.use("python"):
        yield


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 3])
def test_long_rows_are_summed_in_blocks(length: int, rng: np.random.Generator) -> None:
    """Whole numbers, so that any order gives the same sum, and a block left out or taken twice does not."""
    x, y = (rng.integers(-8, 9, length).astype(np.float64) for _ in range(2))
    assert nbops.sum(x) == x.sum()
    assert nbops.vecdot(x, y) == (x * y).sum()
    assert nbops.matvec(x[None], y).tolist() == [(x * y).sum()]


def test_float32_sums_are_exact_to_the_last_rounding() -> None:
    """A block is summed in float64: 2²⁴ and many ones, which float32 would lose one by one."""
    x = np.ones(1000, np.float32)
    x[0] = 2.0**24
    assert nbops.sum(x) == np.float32(2.0**24 + 999)
    assert nbops.vecdot(x, np.ones_like(x)) == np.float32(2.0**24 + 999)


def test_axes_side_by_side_are_summed_as_one() -> None:
    """Rounded once: the sum of the first row alone would lose its 1, and then the other's."""
    x = np.zeros((2, 2, 2, 3), np.float32)
    x[:, :, 0], x[:, :, 1] = (2.0**24, 1, 0), (1, 0, 0)
    for axis in ((2, 3), (1, 2, 3), (0, 1, 2, 3), None):
        wanted = x.sum(axis, dtype=np.float64)
        assert (wanted.astype(np.float32) == wanted).all()
        np.testing.assert_array_equal(nbops.sum(x, axis), wanted)


def test_half_precision_is_averaged_in_single() -> None:
    """The sum, 120,000, is more than a float16 holds."""
    x = np.full((3, 1200), 100, np.float16)
    mean = nbops.mean(x, axis=1)
    assert mean.dtype == np.float16
    assert mean.tolist() == [100, 100, 100]
    assert nbops.mean(np.full(4, 2**62)) == 2.0**62


def test_gradients_next_to_nothing_are_zero() -> None:
    """Below 2³⁰ times the smallest normal number, on either side of 0; the bound itself stays."""
    gradient = registry["crossentropy_from_logits_gradient"]
    for dtype in (np.float32, np.float64):
        bound = np.finfo(dtype).tiny * dtype(2) ** 30
        for sign in (1, -1):
            for dout, wanted in ((bound, bound), (np.nextafter(bound, dtype(0)), 0)):
                result = gradient(np.array(0), np.zeros(2, dtype), dtype(2 * sign) * dout)
                assert result[1] == sign * wanted


#: Outside of where cross-entropy clips, on the bounds, and between them.
CLIPPED = np.array([0.0, 1e-7, np.nextafter(1e-7, 0), 0.3, 1 - 1e-7, np.nextafter(1 - 1e-7, 1), 1.5, -0.2])


def clipped_crossentropy(label: Any, p: Any, dout: Any, upstream: Any) -> tuple[Any, Any, Any]:
    """Its loss, gradient and the gradient's gradient, by their formulas."""
    rows, inside = np.arange(len(p)), (p >= 1e-7) & (p <= 1 - 1e-7)
    q, one_hot = np.clip(p, 1e-7, 1 - 1e-7), np.eye(p.shape[1])[label]
    total = q.sum(1, keepdims=True)
    loss = np.log(total[:, 0]) - np.log(q[rows, label])
    gradient = inside * dout[:, None] * (1 / total - one_hot / q)
    among = (inside * upstream).sum(1, keepdims=True)
    return loss, gradient, inside * dout[:, None] * (one_hot * upstream / q**2 - among / total**2)


def test_clipped_probabilities(rng: np.random.Generator) -> None:
    """Whole rows, and rows in pieces as Dask has them."""
    da = pytest.importorskip("dask.array", reason="Dask is not installed")
    p = np.stack([np.roll(CLIPPED, n) for n in range(8)])
    label, dout, upstream = rng.integers(0, 8, 8), rng.normal(size=8), rng.normal(size=(8, 8))
    label[:2] = 3, 1  # the label's own share is clipped in one row and not in the other
    operands = [label, p, dout, upstream]
    for take, name, wanted in zip(
        (2, 3, 4), ("", "_gradient", "_curvature"), clipped_crossentropy(*operands), strict=True
    ):
        function = registry[f"crossentropy_from_probabilities{name}"]
        np.testing.assert_allclose(function(*operands[:take]), wanted, rtol=1e-12, atol=1e-12)
        pieces = [da.from_array(x, chunks=3) for x in operands[:take]]
        np.testing.assert_allclose(function(*pieces).compute(), wanted, rtol=1e-12, atol=1e-12)


def test_rows_without_elements() -> None:
    nothing = np.ones((2, 0))
    assert nbops.softmax(nothing).shape == nbops.log_softmax(nothing).shape == (2, 0)
    no_class = registry["crossentropy_from_logits_gradient"](np.array([0, 0]), nothing, np.ones(2))
    assert no_class.shape == (2, 0)
    assert np.isnan(registry["crossentropy_from_logits"](np.array([0, 0]), nothing)).all()
    assert np.isnan(registry["crossentropy_from_probabilities"](np.array([0, 0]), nothing)).all()
    losses, gradients = registry["crossentropy_and_gradient"](np.array([0, 0]), nothing, np.ones(2))
    assert np.isnan(losses).all()
    assert gradients.shape == (2, 0)


def test_labels_out_of_range_give_nan() -> None:
    p = np.full((3, 2), 0.5)
    label, ones = np.array([-1, 0, 2]), np.ones(3)
    curvature = registry["crossentropy_from_probabilities_curvature"](label, p, ones, p)
    assert np.isnan(curvature).all(1).tolist() == [True, False, True]
    assert not np.isnan(curvature[1]).any()
    losses, gradients = registry["crossentropy_and_gradient"](label, p, ones)
    assert np.isnan(losses).tolist() == np.isnan(gradients).all(1).tolist() == [True, False, True]
    assert gradients[1].tolist() == [-0.5, 0.5]


def test_a_label_out_of_range_is_named_with_the_range() -> None:
    with pytest.raises(ValueError, match=r"has the label 2, but y_pred has 2 classes; labels .* 0 to 1$"):
        nbops.sparse_categorical_crossentropy([1, 2, -7], np.full((3, 2), 0.5))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("from_logits", [False, True])
def test_the_axis_of_the_classes(axis: int, from_logits: bool, rng: np.random.Generator) -> None:
    """All lengths equal, so that no shape tells one axis from another; labels with or without one."""
    p, label = rng.uniform(0.1, 0.9, (3, 3, 3)), rng.integers(0, 3, (3, 3))
    wanted = nbops.sparse_categorical_crossentropy(label, np.moveaxis(p, axis, -1), from_logits)
    np.testing.assert_array_equal(nbops.sparse_categorical_crossentropy(label, p, from_logits, axis), wanted)
    again = nbops.sparse_categorical_crossentropy(label[..., None], p, from_logits, axis)
    np.testing.assert_array_equal(again, wanted)


def test_the_gradient_of_gemm_s_factor(rng: np.random.Generator) -> None:
    """A factor for each product of a batch whose axes are as long as the matrices'."""
    a, b, c, alpha = (rng.normal(size=shape) for shape in ((3, 3, 3), (3, 3, 3), (3, 3, 3), (3,)))
    dout = rng.normal(size=(3, 3, 3))
    by_a, by_b, by_c, by_alpha = nbops.gemm.vjp(a, b, c, alpha)[1](dout)
    scaled = alpha[:, None, None] * dout
    np.testing.assert_allclose(by_a, scaled @ b.swapaxes(1, 2), rtol=1e-12)
    np.testing.assert_allclose(by_b, a.swapaxes(1, 2) @ scaled, rtol=1e-12)
    np.testing.assert_array_equal(by_c, dout)
    np.testing.assert_allclose(by_alpha, (dout * (a @ b)).sum((1, 2)), rtol=1e-12)


def test_axes_that_are_no_integers() -> None:
    for call in (
        lambda: nbops.softmax(np.ones((2, 2)), axis=0.5),
        lambda: nbops.log_softmax(np.ones((2, 2)), axis="x"),
        lambda: nbops.sum(np.ones((2, 2)), axis=0.5),
        lambda: nbops.mean(np.ones((2, 2)), axis=(0, None)),
    ):
        with pytest.raises(TypeError, match="axis is"):
            call()


def test_an_axis_of_the_loss_out_of_range() -> None:
    for axis in (2, -3):
        with pytest.raises(ValueError, match=f"axis is {axis}, but y_pred is"):
            nbops.sparse_categorical_crossentropy([0], np.ones((1, 2)), axis=axis)


def test_without_a_compiler_all_else_works(run_python: Any) -> None:
    """``NUMBA_DISABLE_JIT=1``: asking for threads, as Dask's chunks do, must not compile the pool."""
    run_python(
        """
        import numpy as np, nbops
        from nbops import dispatch
        from nbops.targets import cpu

        assert dispatch.available_threads() == 1
        assert cpu.launcher() is None
        assert nbops.add(np.ones(2), 1).tolist() == [2, 2]
        assert nbops.last_decision().rule == "no compiler"
        """,
        NUMBA_DISABLE_JIT="1",
    )


def test_labels_with_an_axis_of_their_own_or_fractions() -> None:
    loss, p = nbops.sparse_categorical_crossentropy, np.array([[0.25, 0.75], [0.5, 0.5]])
    assert loss([[1], [0]], p).tolist() == loss([1.0, 0.0], p).tolist() == loss([1, 0], p).tolist()
    pytest.importorskip("dask.array", reason="Dask is not installed")
    import dask.array

    lazy = loss(dask.array.from_array(np.array([0.5, 0.0])), p)
    with pytest.raises(TypeError, match="y_true has dtype float64 and fractions; expected integers"):
        lazy.compute()


def test_dot_contracts_nothing() -> None:
    a, b = np.ones((3, 0)), np.ones((1, 0, 4))
    np.testing.assert_array_equal(nbops.dot(a, b), np.zeros((3, 1, 4)))


def test_dot_moves_no_chunks() -> None:
    """One Dask array is enough: a matrix of b's columns would need its chunks side by side."""
    pytest.importorskip("dask.array", reason="Dask is not installed")
    import dask.array

    a, b = np.arange(6.0).reshape(2, 3), np.arange(48.0).reshape(4, 3, 4)
    for x, y in (
        (a, dask.array.from_array(b, (2, 3, 2))),
        (dask.array.from_array(a, (1, 3)), b),
    ):
        product = nbops.dot(x, y)
        assert not any("rechunk" in name or "reshape" in name for name in product.dask.layers)
        np.testing.assert_allclose(product, np.dot(a, b), rtol=1e-14)


def test_formulas_of_four_and_five_operands() -> None:
    @nbops.elementwise(name="interpreted_test_sum_of_four")
    def sum_of_four(x, y, z, u):
        return x + y + z + u

    @nbops.elementwise(name="interpreted_test_sum_of_five")
    def sum_of_five(x, y, z, u, v):
        return x + y + z + u - v

    operands = np.ones(3), np.arange(3.0), 2.0, np.array([[10.0], [20.0]])
    np.testing.assert_array_equal(sum_of_four(*operands), sum(operands))
    np.testing.assert_array_equal(sum_of_five(*operands, 7.0), sum(operands) - 7)


def test_new_axes_of_lengths_that_dask_does_not_know() -> None:
    da = pytest.importorskip("dask.array", reason="Dask is not installed")
    x = np.arange(6.0).reshape(2, 3)
    for array in (da.from_array(x, chunks=1), da.from_array(x, chunks=(1, 3))[da.ones(2, chunks=1) > 0]):
        for axis in range(-3, 3):
            result = nbops.expand_dims(array, axis)
            assert result.ndim == 3
            np.testing.assert_array_equal(result.compute(), np.expand_dims(x, axis))
        for axis in (-4, 3):
            with pytest.raises(ValueError, match=r"[Aa]xis"):
                nbops.expand_dims(array, axis)
