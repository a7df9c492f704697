"""Every op's values against NumPy in float64, on every CPU target, with poisoned outputs.

Also that the table of cases is complete, and that results never alias nor inputs ever change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import registry
from tests.cases import CASES, CASES_AND_SHAPES, Case, as_list, assert_close, describe

TARGETS = {"python": np.float64, "serial": np.float64, "parallel": np.float32}


def is_worth_it(case: Case, shapes: Any, target: str) -> bool:
    """The interpreter is slow, and so is compiling loops in parallel for empty operands."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    if target == "python":
        return max(sizes) <= 150
    return target == "serial" or min(sizes) > 0 or case.name == "matmul"


POINTS = [
    (case, shapes, target)
    for case, shapes in CASES_AND_SHAPES
    for target in TARGETS
    if is_worth_it(case, shapes, target)
]


@pytest.mark.parametrize(("case", "shapes", "target"), POINTS, ids=describe)
def test_values(case: Case, shapes: Any, target: str, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, TARGETS[target])
    before = [x.copy() for x in operands]
    expected = case.expected(operands)
    with nbops.use(target):
        results = case.function(*operands)
        assert_close(results, expected, case, shapes)
        if case.out:
            poisoned = tuple(np.full(x.shape, np.nan, TARGETS[target]) for x in expected)
            returned = case.function(*operands, out=poisoned if len(poisoned) > 1 else poisoned[0])
            returned = returned if isinstance(returned, tuple) else (returned,)
            assert all(r is p for r, p in zip(returned, poisoned, strict=True))
            assert_close(poisoned, expected, case, shapes)
    for x, copy in zip(operands, before, strict=True):
        np.testing.assert_array_equal(x, copy, err_msg="an input was modified")


@pytest.mark.parametrize(("case", "shapes"), CASES_AND_SHAPES, ids=describe)
def test_values_of_a_call_like_the_last_one(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    """The short way for repeated calls (`nbops.repeat`), which is taken where no target is asked for."""
    case.function(*case.draw(rng, shapes))
    for _ in range(2):
        operands = case.draw(rng, shapes)
        expected = case.expected(operands)
        assert_close(case.function(*operands), expected, case, shapes)
        if case.out and len(expected) == 1:
            poisoned = np.full(expected[0].shape, np.nan)
            assert case.function(*operands, out=poisoned) is poisoned
            assert_close(poisoned, expected, case, shapes)


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_the_target_that_was_asked_for_ran(case: Case, rng: np.random.Generator) -> None:
    """Without this, `test_values` could compare one target three times."""
    if case.view:
        pytest.skip("a view: no loop runs")
    if case.name == "sum(axis=())":
        pytest.skip("a sum over no axes: no loop runs")
    operands = case.draw(rng, case.shapes[0], np.float32)
    for target in TARGETS:
        with nbops.use(target):
            case.function(*operands)
        decision = nbops.last_decision()
        assert decision is not None
        assert decision.target == target
        assert (decision.workers > 1) == (target == "parallel")


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_results_share_memory_only_if_they_are_views(case: Case, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0])
    for result in as_list(case.function(*operands)):
        shared = any(np.may_share_memory(result, x) for x in operands)
        assert shared == case.view


@pytest.mark.parametrize("case", [case for case in CASES if not case.view], ids=describe)
def test_the_result_of_a_scalar_shape_is_a_scalar(case: Case, rng: np.random.Generator) -> None:
    """As in NumPy, a 0-d result is a NumPy scalar, and any other an ndarray."""
    for shapes in case.shapes:
        results = case.function(*case.draw(rng, shapes))
        for result in results if isinstance(results, tuple) else (results,):
            assert isinstance(result, np.generic if np.ndim(result) == 0 else np.ndarray), shapes


@pytest.mark.parametrize("target", ["serial", "parallel"])
@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("add", ((1000, 70), (70,))),
        ("relu", ((100_003,),)),
        ("exp", ((3, 20_001),)),
        ("sum", ((301, 257),)),
        ("softmax", ((203, 1001),)),
        ("matmul", ((129, 257), (257, 65))),
        ("matmul", ((7, 40, 33), (7, 33, 29))),
        ("matvec", ((513, 400), (400,))),
        ("vecmat", ((400,), (400, 513))),
        ("dense", ((130, 784), (784, 10))),
    ],
    ids=describe,
)
def test_larger_operands(name: str, shapes: Any, target: str, rng: np.random.Generator) -> None:
    """Sizes beyond blocks, vector lengths and equal shares."""
    case = next(case for case in CASES if case.name.split("(")[0] == name)
    operands = case.draw(rng, shapes, np.float32)
    with nbops.use(target):
        assert_close(case.function(*operands), case.expected(operands), case, shapes)


# ---- the table is complete -----------------------------------------------------------------------------


def test_every_op_of_the_package_has_a_row() -> None:
    ours = {name for name, op in registry.items() if op.__module__.split(".")[0] == "nbops"}
    assert ours == {case.op.name for case in CASES if case.op is not None}


def test_every_public_function_has_a_row() -> None:
    not_ops = {
        "Decision",
        "Op",
        "calibrate",
        "elementwise",
        "explain",
        "ladder",
        "lanes",
        "last_decision",
        "op",
        "prange",
        "use",
        "warmup",
    }
    covered = {case.name.split("(")[0] for case in CASES}
    assert set(nbops.__all__) - not_ops <= covered
    assert all(hasattr(nbops, name) for name in nbops.__all__)


def test_every_op_with_a_gradient_has_its_gradient_tested() -> None:
    for case in CASES:
        if case.op is not None:
            assert bool(case.gradients) == (case.op.rule is not None), case.name
