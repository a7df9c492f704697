"""Every gradient rule against finite differences of the oracle, in float64.

`Op.vjp` serves first order here; second order runs through TensorFlow's tape in tests/tensorflow/test_ops.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.testing import LAYOUTS
from tests.cases import CASES, Case, as_list, assert_gradients_close, describe

WITH_RULE = [case for case in CASES if case.op is not None and case.op.rule is not None]
POINTS = [(case, shapes) for case in WITH_RULE for shapes in case.shapes]

STEP = 1e-6


def directional(case: Case, operands: list[Any], index: int, direction: Any, upstreams: list[Any]) -> float:
    """The derivative of Σ upstream · result along a direction of one operand, by central differences."""

    def value(step: float) -> float:
        moved = [x + step * direction if i == index else x for i, x in enumerate(operands)]
        return float(sum((u * y).sum() for u, y in zip(upstreams, case.expected(moved), strict=True)))

    return (value(STEP) - value(-STEP)) / (2 * STEP)


def check(case: Case, operands: list[Any], upstreams: list[Any], rng: np.random.Generator) -> None:
    """Compare the pulled-back gradient of every operand along two random directions."""
    assert case.op is not None
    _, pullback = case.op.vjp(*operands)
    gradients = pullback(*upstreams)
    assert len(gradients) == case.n_inputs
    for index, gradient in enumerate(gradients):
        if index not in case.gradients:
            assert gradient is None
            continue
        assert np.shape(gradient) == operands[index].shape
        assert np.asarray(gradient).dtype == operands[index].dtype
        for _ in range(2):
            direction = rng.normal(size=operands[index].shape)
            expected = directional(case, operands, index, direction, upstreams)
            scale = max(1.0, float(np.abs(gradient).sum()))
            assert abs(float((gradient * direction).sum()) - expected) <= 1e-7 * scale, f"operand {index}"


def upstreams_of(case: Case, operands: list[Any], rng: np.random.Generator) -> list[Any]:
    return [rng.normal(size=y.shape) for y in case.expected(operands)]


@pytest.mark.parametrize(("case", "shapes"), POINTS, ids=describe)
def test_first_order(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes)
    check(case, operands, upstreams_of(case, operands, rng), rng)


@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_strided_operands_and_a_constant_upstream(case: Case, rng: np.random.Generator) -> None:
    """The gradient of a sum arrives with zero strides."""
    for layout in ("sliced", "transposed", "reversed"):
        operands = [LAYOUTS[layout](x) for x in case.draw(rng, case.shapes[0])]
        upstreams = [np.broadcast_to(0.7, y.shape) for y in case.expected(operands)]
        check(case, operands, upstreams, rng)


@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_nan_upstream_goes_where_a_number_would_go(case: Case, rng: np.random.Generator) -> None:
    """With one NaN upstream, exactly those gradients are NaN to which that result's gradient contributes."""
    assert case.op is not None
    operands = case.draw(rng, case.shapes[0])
    results, pullback = case.op.vjp(*operands)
    for output, result in enumerate(as_list(results)):
        alone = [np.zeros_like(y) for y in as_list(results)]
        poisoned = [rng.normal(size=y.shape) for y in as_list(results)]
        place = tuple(n // 2 for n in result.shape)
        alone[output][place] = 1.0
        poisoned[output][place] = np.nan
        for reached, gradient in zip(pullback(*alone), pullback(*poisoned), strict=True):
            if reached is not None:
                np.testing.assert_array_equal(np.isnan(gradient), reached != 0)


@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_float32_gradients_are_float32_and_close(case: Case, rng: np.random.Generator) -> None:
    assert case.op is not None
    operands = case.draw(rng, case.shapes[0], np.float32)
    wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in operands]
    upstreams = [u.astype(np.float32) for u in upstreams_of(case, wide, rng)]
    narrow = case.op.vjp(*operands)[1](*upstreams)
    exact = case.op.vjp(*wide)[1](*[u.astype(np.float64) for u in upstreams])
    assert_gradients_close(narrow, exact, case, operands)


# ---- rules at kinks and ties, as the docstrings state them ----------------------------------------------


def pull(op: Any, *operands: Any) -> Any:
    out, pullback = op.vjp(*(np.array(x) for x in operands))
    return pullback(np.ones_like(out))


def test_relu_has_gradient_0_at_0() -> None:
    assert pull(nbops.relu, [-1.0, 0.0, -0.0, 2.0])[0].tolist() == [0, 0, 0, 1]
    assert [g.tolist() for g in pull(nbops.add_relu, [1.0, 1.0], [-1.0, 2.0])] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_ties_give_to_the_first(name: str) -> None:
    dx, dy = pull(getattr(nbops, name), [1.0, 0.0, -0.0], [1.0, -0.0, 0.0])
    assert dx.tolist() == [1, 1, 1]
    assert dy.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_the_gradient_goes_to_the_nan_that_was_taken(name: str) -> None:
    """The docstring: the gradient goes to the element that was taken; a NaN in x is taken."""
    dx, dy = pull(getattr(nbops, name), [np.nan, 1.0, np.nan], [1.0, np.nan, np.nan])
    assert dx.tolist() == [1, 0, 1]
    assert dy.tolist() == [0, 1, 0]


def test_clipped_probabilities_have_gradient_0() -> None:
    p = np.array([[0.0, 1.0, 0.5]])
    _, pullback = CASES_BY_OP["crossentropy_from_probabilities"].vjp(np.array([0]), p)
    _, gradient = pullback(np.ones(1))
    assert gradient[0, 0] == gradient[0, 1] == 0
    assert gradient[0, 2] > 0


CASES_BY_OP = {case.op.name: case.op for case in CASES if case.op is not None}


# ---- errors -------------------------------------------------------------------------------------------


def test_an_op_without_gradient_says_so() -> None:
    _, pullback = CASES_BY_OP["take_label"].vjp(np.array([0]), np.ones((1, 2)))
    with pytest.raises(TypeError, match="take_label has no gradient"):
        pullback(np.ones(1))


def test_a_rule_with_too_few_gradients_says_so() -> None:
    @nbops.elementwise(name="gradient_test_half_done")
    def half_done(x: Any, y: Any) -> Any:
        return x + y

    half_done.gradient(lambda x, y, out, dout: dout)
    _, pullback = half_done.vjp(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"returned 1 values; expected 2, one per input"):
        pullback(np.ones(2))
