"""Every op through its public function on the emulated GPU: values, gradients, layouts, training.

The emulator's four checkers are on: an access out of bounds, a read of what nobody wrote, a race, or a
barrier that some thread misses fails the test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import registry
from nbops.ops.softmax import softmax_last
from nbops.targets.cuda.architectures import ARCHITECTURES
from nbops.testing import LAYOUTS
from tests.cases import (
    CASES,
    CASES_AND_SHAPES,
    Case,
    as_list,
    assert_close,
    assert_gradients_close,
    describe,
    tolerance,
)
from tests.targets.cuda import needs_compiler
from tests.targets.gradients import check_gradients
from tests.test_gradients import WITH_RULE, check, upstreams_of
from tests.test_layouts import laid_out

pytestmark = needs_compiler

LOOPS = [case for case in CASES if not case.view and case.name != "sum(axis=())"]
BOTH = [(9, 0), (12, 0)]


def is_quick(case: Case, shapes: Any, cc: Any) -> bool:
    """What every run tests: every op in every shape on 9.0, and what differs elsewhere.

    The compiler takes most of the time, and the others share its front half: 12.0 has a back end of its own,
    and gets every op once; 7.5 and 8.0 get the product.
    """
    return cc == (9, 0) or case.name == "matmul" or shapes == case.shapes[0]


@pytest.fixture(params=["tuned", pytest.param("as_written", marks=pytest.mark.slow)])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What runs: the tuned kernel where there is one, or each op's loop as written, which is a kernel too."""
    if request.param == "as_written":
        without_tuned_kernels(monkeypatch)
    return request.param


def without_tuned_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for op in registry.values():
        monkeypatch.setattr(op.kernel, "cuda_planner", None)


def assert_ran(kernels: str, gpu: Any) -> None:
    """That with loops as written nothing else has run."""
    if kernels == "as_written":
        assert all("run_elements" in name or "run_items" in name for name in gpu.counters), gpu.counters


def points(found: Any, quick: Any) -> list[Any]:
    """Parameters of a test; those that are not quick are `slow`."""
    return [pytest.param(*p, marks=() if quick(*p) else pytest.mark.slow) for p in found]


POINTS = [
    (case, shapes, cc)
    for case, shapes in CASES_AND_SHAPES
    for cc in ARCHITECTURES
    if not case.view and (cc in BOTH or (case.name == "matmul" and cc != (10, 0)))
]


@pytest.mark.parametrize(("case", "shapes", "cc"), points(POINTS, is_quick), ids=describe)
def test_values(case: Case, shapes: Any, cc: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, np.float32)
    expected = case.expected(operands)
    with nbops.use("cuda-emulator", compute_capability=cc):
        assert_close(case.function(*operands), expected, case, shapes)


OPS_IN_EACH_RUN = ["add", "relu", "matmul", "matvec", "sum_rows", "softmax", "dense_relu"]


@pytest.mark.parametrize(
    ("case", "shapes", "cc"),
    points(
        [(case, shapes, cc) for case in LOOPS for shapes in case.shapes for cc in BOTH],
        lambda case, shapes, cc: cc == (9, 0) and shapes == case.shapes[0] and case.name in OPS_IN_EACH_RUN,
    ),
    ids=describe,
)
def test_values_of_the_loop_as_written(
    case: Case, shapes: Any, cc: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is a kernel too, also where a tuned one takes its place."""
    without_tuned_kernels(monkeypatch)
    operands = case.draw(rng, shapes, np.float32)
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        assert_close(case.function(*operands), case.expected(operands), case, shapes)
    assert_ran("as_written", gpu)


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


IN_FLOAT64 = [
    (case, cc)
    for case in LOOPS
    for cc in ARCHITECTURES
    if cc in BOTH or (case.name == "matmul" and cc != (10, 0))
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "cc"), IN_FLOAT64, ids=describe)
def test_values_in_float64(case: Case, cc: Any, kernels: str, rng: np.random.Generator) -> None:
    for shapes in case.shapes[:3]:
        operands = case.draw(rng, shapes)
        with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
            assert_close(case.function(*operands), case.expected(operands), case, shapes)
        assert_ran(kernels, gpu)


GRADIENT_POINTS = [
    (case, shapes, cc)
    for case in WITH_RULE
    for shapes in case.shapes
    for cc in ARCHITECTURES
    if cc in BOTH or (case.name == "matmul" and cc != (10, 0))
]


@pytest.mark.parametrize(
    ("case", "shapes", "cc"),
    points(
        GRADIENT_POINTS,
        lambda case, shapes, cc: (
            shapes == case.shapes[0] and (cc == (9, 0) or (case.name == "matmul" and cc != (12, 0)))
        ),
    ),
    ids=describe,
)
def test_gradients(case: Case, shapes: Any, cc: Any, kernels: str, rng: np.random.Generator) -> None:
    gpu = check_gradients(case, shapes, np.float32, rng, "cuda-emulator", compute_capability=cc)
    assert_ran(kernels, gpu)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "cc"), [p for p in IN_FLOAT64 if p[0] in WITH_RULE], ids=describe)
def test_gradients_in_float64(case: Case, cc: Any, kernels: str, rng: np.random.Generator) -> None:
    for shapes in case.shapes[:3]:
        gpu = check_gradients(case, shapes, np.float64, rng, "cuda-emulator", compute_capability=cc)
        assert_ran(kernels, gpu)


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


LAYOUTS_IN_EACH_RUN = ["transposed", "sliced", "reversed", "repeated", "repeated_first", "misaligned"]
LAYOUT_POINTS = [
    (case, layout, cc)
    for case in LOOPS
    for layout in LAYOUTS
    for cc in BOTH
    if cc == (9, 0) or layout in ("transposed", "repeated")
]


@pytest.mark.parametrize(
    ("case", "layout", "cc"),
    points(
        LAYOUT_POINTS,
        lambda case, layout, cc: (
            cc == (9, 0) and layout in LAYOUTS_IN_EACH_RUN and case.name in OPS_IN_EACH_RUN
        ),
    ),
)
def test_inputs_of_every_layout(case: Case, layout: str, cc: Any, rng: np.random.Generator) -> None:
    operands = laid_out(case, case.draw(rng, case.shapes[0], np.float32), LAYOUTS[layout])
    with nbops.use("cuda-emulator", compute_capability=cc):
        assert_close(case.function(*operands), case.expected(operands), case, case.shapes[0])


@pytest.mark.slow
@pytest.mark.parametrize("cc", BOTH, ids=str)
@pytest.mark.parametrize("case", WITH_RULE, ids=describe)
def test_gradients_of_every_layout(case: Case, cc: Any, rng: np.random.Generator) -> None:
    """The gradient of a sum arrives with zero strides."""
    assert case.op is not None
    for layout in ("sliced", "transposed", "reversed"):
        operands = [LAYOUTS[layout](x) for x in case.draw(rng, case.shapes[0], np.float32)]
        upstreams = [np.broadcast_to(np.float32(0.7), y.shape) for y in case.expected(operands)]
        wanted = case.op.vjp(*operands)[1](*upstreams)
        with nbops.use("cuda-emulator", compute_capability=cc):
            found = case.op.vjp(*operands)[1](*upstreams)
        assert_gradients_close(found, wanted, case, operands)


def test_a_sliced_output_leaves_its_neighbours_alone() -> None:
    large = np.full((7, 9), 7, np.float32)
    with nbops.use("cuda-emulator"):
        nbops.relu(np.full((3, 4), -1, np.float32), out=large[1::2, 1::2])
    assert large[1::2, 1::2].max() == 0
    assert large.sum() == 7 * (63 - 12)


@pytest.mark.parametrize(
    "name", ["relu", "maximum", "exp", "log", "sqrt", "tanh", "sigmoid", "softmax", "log_softmax"]
)
def test_nan_and_infinities_as_on_the_cpu(name: str, kernels: str) -> None:
    special = np.array([[np.nan, 1, -2], [np.inf, 0.5, 3], [-np.inf, 0, -0.0], [2, -1e30, 80]], np.float32)
    function = getattr(nbops, name)
    operands = [special, special[::-1].copy()][: 2 if name == "maximum" else 1]
    wanted = function(*operands, target="serial")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_allclose(function(*operands), wanted, rtol=1e-6, atol=1e-30)
    assert_ran(kernels, gpu)


SPECIAL_IN_EACH_RUN = ["add_relu", "matmul", "matvec", "sum_rows", "dense_relu", "divide"]


@pytest.mark.parametrize(
    ("case", "cc"),
    points(
        [(case, cc) for case in LOOPS for cc in BOTH],
        lambda case, cc: cc == (9, 0) and case.name in SPECIAL_IN_EACH_RUN,
    ),
    ids=describe,
)
def test_nan_and_infinities_anywhere(case: Case, cc: Any, kernels: str, rng: np.random.Generator) -> None:
    """Wherever they come in, they come out where the CPU's loop has them: values, and gradients."""
    operands = [
        sprinkled(x, rng, LIMITED.get((case.name, number), SPECIAL))
        for number, x in enumerate(case.draw(rng, case.shapes[0], np.float32))
    ]
    with nbops.use("serial"):
        wanted, pulled = value_and_gradients(case, operands)
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        found, gradients = value_and_gradients(case, operands)
    assert_ran(kernels, gpu)
    for x, y in zip(found, wanted, strict=True):
        atol = 2 * tolerance(y.dtype, case.steps(*case.shapes[0]), y)  # both are rounded
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)
    assert_gradients_close(gradients, pulled, case, operands)


SPECIAL = [np.nan, np.inf, -np.inf]
#: An operand, by its op and number, that takes not all of them: here no element is above the peak.
LIMITED = {("exp_below_over", 0): [np.nan, -np.inf], ("exp_below_over", 1): [np.nan, np.inf]}


def sprinkled(x: Any, rng: np.random.Generator, values: list[float]) -> Any:
    """Operands with special values in some places; labels stay labels."""
    if x.dtype.kind != "f" or not x.size:
        return x
    flat = x.copy().reshape(-1)
    places = rng.permutation(flat.size)[: max(1, flat.size // 5)]
    flat[places] = rng.choice(values, places.size)
    return flat.reshape(x.shape)


def value_and_gradients(case: Case, operands: Any) -> tuple[list[Any], Any]:
    if case not in WITH_RULE:
        return as_list(case.function(*operands)), ()
    assert case.op is not None
    results, pullback = case.op.vjp(*operands)
    # Not of ones: a row of softmax passes on nothing of them, so rounding would decide between 0 and not 0,
    # and where that is multiplied by an infinity, between NaN and infinity.
    gradients = pullback(
        *[np.linspace(0.5, 1.5, y.size, dtype=y.dtype).reshape(y.shape) for y in as_list(results)]
    )
    return as_list(results), gradients


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.int64, np.uint8, np.float64])
def test_other_dtypes(dtype: Any, rng: np.random.Generator) -> None:
    x, y = rng.integers(1, 9, (3, 5)).astype(dtype), rng.integers(1, 9, (5, 4)).astype(dtype)
    wanted = nbops.matmul(x, y)
    with nbops.use("cuda-emulator"):
        result = nbops.matmul(x, y)
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


def _layer(activation: str) -> Any:
    from nbops.ops.dense import _by_activation

    return _by_activation[activation]


def test_a_result_without_elements_launches_nothing() -> None:
    with nbops.use("cuda-emulator") as gpu:
        assert nbops.relu(np.empty((0, 3))).shape == (0, 3)
        assert not gpu.counters
        np.testing.assert_array_equal(nbops.matmul(np.empty((2, 0)), np.empty((0, 3))), np.zeros((2, 3)))
        assert gpu.counters


def test_results_are_tuples_where_an_op_has_several() -> None:
    with nbops.use("cuda-emulator"):
        assert len(as_list(_layer("linear").vjp(np.ones((2, 3)), np.ones((3, 4)), np.ones(4))[0])) == 1
