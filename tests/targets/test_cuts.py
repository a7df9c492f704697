"""Items that cores share in pieces of a core axis: the same bits as whole, in every layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.pieces import leading_axis
from nbops.signature import Signature

SIZES = [(0, 5), (1, 300), (7, 0), (7, 3000), (100, 50), (1003, 77)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("size", SIZES)
def test_the_rows_of_a_matvec(size: tuple[int, int], dtype: str, rng: np.random.Generator) -> None:
    a, x = rng.uniform(-9, 9, size).astype(dtype), rng.uniform(-9, 9, size[1]).astype(dtype)
    for matrix in (a, np.asfortranarray(a), a[::-1], a[::2], a[:, ::-1]):
        with nbops.use("serial"):
            expected = nbops.matvec(matrix, x)
        if dtype == "int32":
            assert np.array_equal(expected, matrix @ x)
        for threads in (1, 2, 3):
            out = np.full_like(expected, 77)
            with nbops.use("parallel", threads=threads, strict=False):
                nbops.matvec(matrix, x, out=out)
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("batch", [(2,), (2, 1), (1, 2)])
def test_fewer_batch_items_than_workers(batch: tuple[int, ...], rng: np.random.Generator) -> None:
    """Each item has its own place, and broadcast operands have one for all."""
    a, x = rng.standard_normal((*batch, 90, 40)), rng.standard_normal((2, 40))
    out = np.full((*np.broadcast_shapes(batch, (2,)), 90), np.nan)
    with nbops.use("parallel", threads=3):
        nbops.matvec(a, x, out=out)
    np.testing.assert_allclose(out, np.einsum("...ij,...j->...i", a, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_a_loop_without_prange_is_shared_by_what_its_split_says(dtype: Any, rng: np.random.Generator) -> None:
    """Two outputs, and an operand that every piece needs whole."""

    @nbops.op("(m,n),(n),()->(m),(m,n)", name=f"cut_largest_{np.dtype(dtype)}", nanoseconds=1.0)
    def largest_of_sums(x: Any, y: Any, low: Any, peak: Any, sums: Any) -> None:
        for i in range(x.shape[0]):
            peak[i] = low[()]
            for j in range(x.shape[1]):
                sums[i, j] = x[i, j] + y[j]
                peak[i] = max(peak[i], sums[i, j])

    assert not largest_of_sums.kernel.divisible
    largest_of_sums.split("m")
    assert largest_of_sums.kernel.divisible
    x, y = rng.integers(-99, 99, (501, 40)).astype(dtype), rng.integers(-99, 99, 40).astype(dtype)
    for matrix in (x, np.asfortranarray(x)):
        with nbops.use("parallel", threads=3):
            peak, sums = largest_of_sums(matrix, y, dtype(20))
        assert nbops.last_decision().workers == 3
        assert np.array_equal(sums, x + y)
        assert np.array_equal(peak, np.maximum(20, (x + y).max(axis=1)))


def test_one_task_for_all_dtypes_of_a_signature() -> None:
    tasks = {
        nbops.matvec.kernel.task((np.dtype(dtype),) * 3, layout, parallel=True)
        for dtype in (np.float32, np.int64)
        for layout in (0, -1)
    }
    assert len(tasks) == 1


@pytest.mark.parametrize(
    ("signature", "independent", "axis"),
    [
        ("(m,n),(n)->(m)", ("m",), 0),
        ("(m,k),(k,n)->(m,n)", ("m", "n"), 0),
        ("(n),(m,n)->(m)", ("m",), 1),
        ("(m,k),(m,n)->(k,n),(n)", ("n",), None),  # the second axis of an operand
        ("(n,m)->(n,m)", ("m",), None),
        ("(n)->()", (), None),
    ],
)
def test_the_axis_that_is_cut(signature: str, independent: tuple[str, ...], axis: int | None) -> None:
    assert leading_axis(Signature.parse(signature), independent) == axis


def test_an_axis_that_is_not_the_first_in_the_frame(rng: np.random.Generator) -> None:
    @nbops.op("(n),(m,n)->(m)", name="cut_from_the_right", nanoseconds=1.0)
    def products(x: Any, a: Any, out: Any) -> None:
        for i in range(a.shape[0]):
            out[i] = 0
            for j in range(a.shape[1]):
                out[i] += a[i, j] * x[j]

    products.split("m", reduced="n")
    x, a = rng.standard_normal(30), rng.standard_normal((200, 30))
    with nbops.use("parallel", threads=3):
        np.testing.assert_allclose(products(x, a), a @ x, rtol=1e-12, atol=1e-12)


def test_signatures_whose_letters_are_the_same(rng: np.random.Generator) -> None:
    """One has an axis mn, the other m and n."""

    @nbops.op("(m),(mn)->(m)", name="cut_letters_together", nanoseconds=1.0)
    def together(x: Any, y: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = x[i]
            for j in range(y.shape[0]):
                out[i] += y[j]

    @nbops.op("(m),(m,n)->(m)", name="cut_letters_apart", nanoseconds=1.0)
    def apart(x: Any, y: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = x[i]
            for j in range(y.shape[1]):
                out[i] += y[i, j]

    together.split("m")
    apart.split("m")
    x, y, z = np.arange(200.0), np.arange(600.0).reshape(200, 3), np.arange(5.0)
    with nbops.use("parallel", threads=3):
        for _ in range(2):
            assert np.array_equal(together(x, z), x + z.sum())
            assert np.array_equal(apart(x, y), x + y.sum(axis=1))


def test_what_can_be_cut_is_known_after_a_call_and_in_another_process() -> None:
    @nbops.op("(m,n)->(m)", name="cut_later", nanoseconds=1000.0)
    def first(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = x[i, 0]

    kernel, dtypes = first.kernel, (np.dtype(np.float64),) * 2
    assert kernel.task(dtypes, 0, parallel=True) == 0
    first.split("m")
    assert kernel.task(dtypes, 0, parallel=True) != 0
    assert first.as_written().kernel.cut_axis == 0
    x = np.ones((1, 500))
    assert first(x) == 1
    assert nbops.last_decision().workers == 1  # one row can't be shared
    assert (first(np.ones((500, 1))) == 1).all()
    assert nbops.last_decision().workers > 1
