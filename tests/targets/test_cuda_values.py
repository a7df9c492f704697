"""Every op through its public function on the emulated GPU: values, gradients, layouts, training.

The emulator's four checkers are on: an access out of bounds, a read of what nobody wrote, a race, or a
barrier that some thread misses fails the test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.ops.softmax import softmax_last
from nbops.testing import LAYOUTS
from tests.cases import CASES, CASES_AND_SHAPES, Case, as_list, assert_close, describe
from tests.targets.cuda import needs_compiler
from tests.test_gradients import WITH_RULE, check, upstreams_of

pytestmark = needs_compiler

LOOPS = [case for case in CASES if not case.view and case.name != "sum(axis=())"]
#: Compute capability 9.0 gets every op in every shape. The compiler takes most of the time, and the others
#: share its front half, so they get what differs: 12.0 has a compiler back end of its own, and every op once;
#: 7.5 and 8.0 have the product.
POINTS = [
    (case, shapes, cc)
    for case, shapes in CASES_AND_SHAPES
    for cc in [(7, 5), (8, 0), (9, 0), (12, 0)]
    if not case.view
    and (cc == (9, 0) or case.name == "matmul" or (cc == (12, 0) and shapes == case.shapes[0]))
]


@pytest.mark.parametrize(("case", "shapes", "cc"), POINTS, ids=describe)
def test_values(case: Case, shapes: Any, cc: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, np.float32)
    expected = case.expected(operands)
    with nbops.use("cuda-emulator", compute_capability=cc):
        assert_close(case.function(*operands), expected, case, shapes)


@pytest.mark.parametrize("case", LOOPS, ids=describe)
def test_the_emulator_ran(case: Case, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], np.float32)
    with nbops.use("cuda-emulator") as gpu:
        case.function(*operands)
    decision = nbops.last_decision()
    assert decision is not None
    assert decision.target == "cuda-emulator"
    assert gpu.counters
    assert gpu.report()


def test_the_report_names_the_lines_of_an_ops_own_loop() -> None:
    with nbops.use("cuda-emulator") as gpu:
        softmax_last.as_written()(np.ones((2, 5), np.float32))
    assert "softmax.py:" in gpu.report()


@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_gradients(case: Case, rng: np.random.Generator) -> None:
    """In float32, against the CPU's in float64, which tests/test_gradients.py compares to differences."""
    assert case.op is not None
    operands = case.draw(rng, case.shapes[0], np.float32)
    wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in operands]
    upstreams = [u.astype(np.float32) for u in upstreams_of(case, wide, rng)]
    exact = case.op.vjp(*wide)[1](*[u.astype(np.float64) for u in upstreams])
    with nbops.use("cuda-emulator"):
        gradients = case.op.vjp(*operands)[1](*upstreams)
    for gradient, expected in zip(gradients, exact, strict=True):
        assert (gradient is None) == (expected is None)
        if expected is not None:
            assert np.asarray(gradient).dtype == np.float32
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize(
    "case",
    [case for case in WITH_RULE if case.name in ("matmul", "tanh", "divide", "softmax", "dense_softmax")],
    ids=describe,
)
def test_gradients_in_float64_against_differences(case: Case, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0])
    with nbops.use("cuda-emulator", compute_capability=(12, 0)):
        check(case, operands, upstreams_of(case, operands, rng), rng)


@pytest.mark.parametrize("cc", [(7, 5), (9, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "sigmoid"])
def test_the_device_library_in_float64(name: str, cc: Any, rng: np.random.Generator) -> None:
    case = next(case for case in CASES if case.name == name)
    operands = case.draw(rng, ((7,),))
    with nbops.use("cuda-emulator", compute_capability=cc):
        assert_close(case.function(*operands), case.expected(operands), case, ((7,),))


@pytest.mark.parametrize(
    "layout", ["transposed", "sliced", "reversed", "repeated", "repeated_first", "misaligned"]
)
@pytest.mark.parametrize("name", ["add", "relu", "matmul", "matvec", "sum_rows", "softmax", "dense_relu"])
def test_inputs_of_every_layout(name: str, layout: str, rng: np.random.Generator) -> None:
    case = next(case for case in CASES if case.name == name)
    operands = [LAYOUTS[layout](x) for x in case.draw(rng, case.shapes[0], np.float32)]
    with nbops.use("cuda-emulator"):
        assert_close(case.function(*operands), case.expected(operands), case, case.shapes[0])


def test_a_sliced_output_leaves_its_neighbours_alone() -> None:
    large = np.full((7, 9), 7, np.float32)
    with nbops.use("cuda-emulator"):
        nbops.relu(np.full((3, 4), -1, np.float32), out=large[1::2, 1::2])
    assert large[1::2, 1::2].max() == 0
    assert large.sum() == 7 * (63 - 12)


@pytest.mark.parametrize(
    "name", ["relu", "maximum", "exp", "log", "sqrt", "tanh", "sigmoid", "softmax", "log_softmax"]
)
def test_nan_and_infinities_as_on_the_cpu(name: str) -> None:
    special = np.array([[np.nan, 1, -2], [np.inf, 0.5, 3], [-np.inf, 0, -0.0], [2, -1e30, 80]], np.float32)
    function = getattr(nbops, name)
    operands = [special, special[::-1].copy()][: 2 if name == "maximum" else 1]
    wanted = function(*operands, target="serial")
    with nbops.use("cuda-emulator"):
        np.testing.assert_allclose(function(*operands), wanted, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.int64, np.uint8, np.float64])
def test_other_dtypes(dtype: Any, rng: np.random.Generator) -> None:
    x, y = rng.integers(1, 9, (3, 5)).astype(dtype), rng.integers(1, 9, (5, 4)).astype(dtype)
    wanted = nbops.matmul(x, y)
    with nbops.use("cuda-emulator"):
        result = nbops.matmul(x, y)
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


def test_training_steps_give_the_cpus_losses(rng: np.random.Generator) -> None:
    """Three steps of a 64-32-10 network on digits-like data."""

    def losses() -> list[float]:
        source = np.random.default_rng(5)
        w1, w2 = (source.normal(0, 0.05, s).astype("float32") for s in ((64, 32), (32, 10)))
        b1, b2 = np.zeros(32, "float32"), np.zeros(10, "float32")
        x, y = source.random((16, 64), "float32"), source.integers(0, 10, 16)
        found = []
        for _ in range(3):
            hidden, into_first = _layer("relu").vjp(x, w1, b1)
            logits, into_second = _layer("linear").vjp(hidden, w2, b2)
            loss, into_logits = _loss().vjp(y, logits)
            found.append(float(nbops.mean(loss)))
            dlogits = into_logits(np.full(16, 1 / 16, "float32"))[1]
            dhidden, dw2, db2 = into_second(dlogits)
            _, dw1, db1 = into_first(dhidden)
            for weight, gradient in ((w1, dw1), (b1, db1), (w2, dw2), (b2, db2)):
                weight -= nbops.multiply(np.float32(0.1), gradient)
        return found

    wanted = losses()
    with nbops.use("cuda-emulator"):
        np.testing.assert_allclose(losses(), wanted, rtol=0, atol=1e-4)
    assert wanted[2] < wanted[0]


def _layer(activation: str) -> Any:
    from nbops.ops.dense import _by_activation

    return _by_activation[activation]


def _loss() -> Any:
    from nbops.ops.losses import crossentropy_from_logits

    return crossentropy_from_logits


def test_a_result_without_elements_launches_nothing() -> None:
    with nbops.use("cuda-emulator") as gpu:
        assert nbops.relu(np.empty((0, 3))).shape == (0, 3)
        assert not gpu.counters
        np.testing.assert_array_equal(nbops.matmul(np.empty((2, 0)), np.empty((0, 3))), np.zeros((2, 3)))
        assert gpu.counters


def test_results_are_tuples_where_an_op_has_several() -> None:
    with nbops.use("cuda-emulator"):
        assert len(as_list(_layer("linear").vjp(np.ones((2, 3)), np.ones((3, 4)), np.ones(4))[0])) == 1
