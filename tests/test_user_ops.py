"""Ops that users write: a loop or a formula, with its gradient, in a few lines."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import lanes, matmul, op, prange
from nbops.op import registry

TARGETS = ["python", "serial", "parallel"]


# [pairwise]
@op("(m,k),(n,k)->(m,n)", name="user_squared_distance")
def squared_distance(x: Any, y: Any, out: Any) -> None:
    for i in prange(x.shape[0]):
        for j in lanes(y.shape[0]):
            out[i, j] = 0
            for p in range(x.shape[1]):
                out[i, j] += (x[i, p] - y[j, p]) ** 2


@squared_distance.gradient
def _(x: Any, y: Any, out: Any, dout: Any) -> Any:
    turned = nbops.matrix_transpose(dout)
    dx = 2 * (x * nbops.sum(dout, axis=-1)[..., None] - matmul(dout, y))
    return dx, 2 * (y * nbops.sum(turned, axis=-1)[..., None] - matmul(turned, x))


# [/pairwise]


@nbops.elementwise(name="user_huber", nanoseconds=0.5)
def huber(x: Any, width: Any) -> Any:
    """Quadratic near 0, linear beyond `width`."""
    return type(x)(0.5) * x * x if abs(x) <= width else width * (abs(x) - type(x)(0.5) * width)


@huber.gradient
def _(x: Any, width: Any, out: Any, dout: Any) -> Any:
    clipped = nbops.maximum(nbops.minimum(x, width), nbops.negative(width))
    return nbops.multiply(dout, clipped), None


def distances(x: Any, y: Any) -> Any:
    return ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1)


def test_the_op_is_at_most_12_lines() -> None:
    source = inspect.getsource(inspect.getmodule(distances))  # type: ignore[arg-type]
    lines = source.split("# [pairwise]")[1].split("# [/pairwise]")[0].strip().splitlines()
    code = [line for line in lines if line.strip()]
    assert len(code) <= 12


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pairwise_squared_distance(target: str, dtype: Any, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 5, 3)).astype(dtype), rng.normal(size=(4, 3)).astype(dtype)
    with nbops.use(target):
        result = squared_distance(x, y)
        np.testing.assert_allclose(result, distances(x, y), rtol=1e-5 if dtype == np.float32 else 1e-13)
        assert result.dtype == dtype
        np.testing.assert_array_equal(squared_distance(x[:, ::-1], y[::-1]), result[:, ::-1, ::-1])
    assert squared_distance(np.ones((0, 3)), y).shape == (0, 4)


def test_its_gradient(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(2, 4, 3))
    upstream = rng.normal(size=(2, 5, 4))
    _, pullback = squared_distance.vjp(x, y)
    dx, dy = pullback(upstream)
    difference = x[:, None] - y[:, None]
    np.testing.assert_allclose(dx, 2 * (upstream[..., None] * difference).sum((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(dy, -2 * (upstream[..., None] * difference).sum(1), rtol=1e-12)


def test_its_errors_name_its_own_arguments() -> None:
    with pytest.raises(
        ValueError, match=r"user_squared_distance: x is \(5, 3\) and y is \(4, 2\); x.shape\[-1\]"
    ):
        squared_distance(np.ones((5, 3)), np.ones((4, 2)))


@pytest.mark.parametrize("target", TARGETS)
def test_an_elementwise_op(target: str, rng: np.random.Generator) -> None:
    x = 3 * rng.normal(size=(4, 5)).astype(np.float32)
    with nbops.use(target):
        result = huber(x, 1.0)
        expected = np.where(np.abs(x) <= 1, 0.5 * x * x, np.abs(x) - 0.5)
        np.testing.assert_allclose(result, expected, rtol=1e-6)
        assert result.dtype == np.float32
    _, pullback = huber.vjp(x, np.float32(1))
    dx, dwidth = pullback(np.full_like(x, 2))
    np.testing.assert_allclose(dx, 2 * np.clip(x, -1, 1), rtol=1e-6)
    assert dwidth is None


def test_an_op_with_several_outputs_and_named_types() -> None:
    @op("(),(n)->(n),()", types="int64,T->T,int64", name="user_clip_and_count")
    def clip_and_count(limit: Any, x: Any, out: Any, count: Any) -> None:
        count[()] = 0
        for j in range(x.shape[0]):
            out[j] = min(x[j], x.dtype.type(limit[()]))
            count[()] += x[j] > limit[()]

    for target in TARGETS:
        out, count = clip_and_count(2, np.array([[1.0, 3.0], [4.0, 5.0]], np.float32), target=target)
        assert out.tolist() == [[1, 2], [2, 2]]
        assert out.dtype == np.float32
        assert count.tolist() == [1, 2]
        assert count.dtype == np.int64


def test_ops_are_registered_by_name() -> None:
    assert registry["user_squared_distance"] is squared_distance
    assert registry["user_huber"] is huber


@pytest.mark.parametrize(
    ("define", "kind", "message"),
    [
        (lambda: op("(n)->()")(lambda x: None), TypeError, "takes 1 arguments; the signature"),
        (lambda: op("(n)->(m)"), ValueError, "no input has the output's axis 'm'"),
        (
            lambda: op("(n)->()", types="T")(lambda x, out: None),
            ValueError,
            "expected 1 inputs and 1 outputs",
        ),
        (
            lambda: nbops.elementwise(lambda a, b, c, d, e, f: a),
            TypeError,
            "takes 6 arguments; expected 1 to 5",
        ),
    ],
)
def test_definitions_that_do_not_work_say_why(define: Any, kind: type[Exception], message: str) -> None:
    before = set(registry)
    with pytest.raises(kind, match=message):
        define()
    assert set(registry) == before


def test_a_loop_may_write_nbops_dot_prange() -> None:
    @op("(n)->(n)", name="user_shift")
    def shift(x: Any, out: Any) -> None:
        for i in nbops.prange(x.shape[0]):
            out[i] = x[i - 1]

    for target in TARGETS:
        assert shift(np.arange(4.0), target=target).tolist() == [3, 0, 1, 2]
