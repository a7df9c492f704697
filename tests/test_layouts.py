"""Every op on operands, and into outputs, of every memory layout; properties over shapes and strides.

Serial and float64 unless said otherwise: a layout costs a compile per op, dtype and target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, mutually_broadcastable_shapes

import nbops
from nbops.testing import LAYOUTS
from tests.cases import BY_NAME, CASES, Case, as_list, assert_close, describe, is_label, matvec, vecmat

LOOPS = [case for case in CASES if not case.view]
WITH_OUT = [case for case in CASES if case.out]


def laid_out(case: Case, operands: list[Any], layout: Any, which: int | None = None) -> list[Any]:
    """The operands (or one of them) in a layout; labels keep their values."""
    return [
        layout(x)
        if which in (None, index) and not (is_label(case, index) and "repeated" in layout.__name__)
        else x
        for index, x in enumerate(operands)
    ]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
@pytest.mark.parametrize("case", CASES, ids=describe)
def test_inputs_of_every_layout(case: Case, layout: Any, rng: np.random.Generator) -> None:
    for shapes in case.shapes[:4]:
        drawn = case.draw(rng, shapes)
        for which in (None, *range(case.n_inputs)):
            operands = laid_out(case, drawn, layout, which)
            with nbops.use("serial"):
                assert_close(case.function(*operands), case.expected(operands), case, shapes)


@pytest.mark.parametrize("target", ["python", "parallel"])
@pytest.mark.parametrize("case", LOOPS, ids=describe)
def test_strided_inputs_on_the_other_targets(case: Case, target: str, rng: np.random.Generator) -> None:
    shapes = case.shapes[0]
    drawn = case.draw(rng, shapes, np.float32)
    layouts = (
        ("sliced", "repeated") if target == "parallel" else ("sliced", "reversed", "repeated", "swapped")
    )
    for layout in layouts:
        operands = laid_out(case, drawn, LAYOUTS[layout])
        with nbops.use(target):
            assert_close(case.function(*operands), case.expected(operands), case, shapes)


@pytest.mark.parametrize("layout", ["fortran", "transposed", "sliced", "reversed", "misaligned", "swapped"])
@pytest.mark.parametrize("case", WITH_OUT, ids=describe)
def test_outputs_of_every_layout(case: Case, layout: str, rng: np.random.Generator) -> None:
    for shapes in case.shapes[:2]:
        operands = case.draw(rng, shapes)
        expected = case.expected(operands)
        for target in ("serial", "python"):
            out = tuple(LAYOUTS[layout](np.full(x.shape, np.nan)) for x in expected)
            with nbops.use(target):
                case.function(*operands, out=out if len(out) > 1 else out[0])
            assert_close(out, expected, case, shapes)


def test_a_sliced_output_leaves_its_neighbours_alone() -> None:
    whole = np.full((4, 9), 7.0)
    nbops.add(np.ones((4, 4)), 1.0, out=whole[:, 1::2])
    assert (whole[:, 0::2] == 7).all()
    assert (whole[:, 1::2] == 2).all()
    whole = np.full((7, 8), 7.0)
    nbops.matmul(np.ones((3, 5)), np.ones((5, 4)), out=whole[1:6:2, 2:6])
    assert (whole[1:6:2, 2:6] == 5).all()
    assert whole.sum() == 12 * 5 + (56 - 12) * 7


def test_layouts_are_what_they_say() -> None:
    """Otherwise the tests above would test C order over and over."""
    x = np.arange(12.0).reshape(3, 4)
    made = {name: layout(x) for name, layout in LAYOUTS.items()}
    assert made["fortran"].flags.f_contiguous
    assert made["transposed"].strides == (8, 24)
    assert made["sliced"].strides == (2 * 9 * 8, 16)
    assert made["reversed"].strides == (-32, -8)
    assert made["repeated"].strides[1] == made["repeated_first"].strides[0] == 0
    assert not made["read_only"].flags.writeable
    assert not made["misaligned"].flags.aligned
    assert not made["swapped"].dtype.isnative
    for name in set(made) - {"repeated", "repeated_first"}:
        np.testing.assert_array_equal(made[name], x)


def test_elementwise_results_keep_fortran_order() -> None:
    x = np.asfortranarray(np.ones((3, 4)))
    assert nbops.add(x, x).flags.f_contiguous
    assert nbops.add(x, 1.0).flags.f_contiguous
    assert nbops.add(x, np.ones((3, 4))).flags.c_contiguous


# ---- properties -----------------------------------------------------------------------------------------

BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)


@st.composite
def array_of(draw: Any, shape: tuple[int, ...]) -> Any:
    """Small whole numbers in float64, so that every sum is exact, with strides of any kind."""
    seed = draw(st.integers(0, 2**16))
    x = np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float64)
    if draw(st.booleans()):
        order = draw(st.permutations(range(len(shape))))
        x = x.transpose(order).copy().transpose(np.argsort(order))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape]
    large = np.full([abs(step) * n + 1 for n, step in zip(shape, steps, strict=True)], 99.0)
    view = large[
        (*(slice(None, abs(step) * n, abs(step)) for n, step in zip(shape, steps, strict=True)), ...)
    ]
    view = view[(*(slice(None, None, -1 if step < 0 else 1) for step in steps), ...)]
    view[...] = x
    for axis in range(len(shape)):
        if shape[axis] > 1 and draw(st.integers(0, 5)) == 0:
            view = np.broadcast_to(view.take([0], axis), view.shape)
    return view


@given(st.data())
@BOUNDED
def test_add_is_numpys(data: Any) -> None:
    shapes = data.draw(mutually_broadcastable_shapes(num_shapes=2, max_dims=5, max_side=4, min_side=0))
    x, y = (data.draw(array_of(shape)) for shape in shapes.input_shapes)
    result = nbops.add(x, y)
    assert result.shape == shapes.result_shape
    np.testing.assert_array_equal(result, x + y)


@given(st.data())
@BOUNDED
def test_a_ternary_op_is_numpys_where(data: Any) -> None:
    shapes = data.draw(mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=3, min_side=0))
    x, y, value = (data.draw(array_of(shape)) for shape in shapes.input_shapes)
    result = BY_NAME["keep_where_taken"].function(x, y, value)
    np.testing.assert_array_equal(result, np.where(x == y, value, 0.0))


@given(
    st.data(),
    st.sampled_from(["matmul", "vecdot", "matvec", "vecmat"]),
    st.sampled_from(["serial", "parallel"]),
)
@BOUNDED
def test_products_are_numpys(data: Any, name: str, target: str) -> None:
    signature = {
        "matmul": "(m,k),(k,n)->(m,n)",
        "vecdot": "(n),(n)->()",
        "matvec": "(m,n),(n)->(m)",
        "vecmat": "(m),(m,n)->(n)",
    }[name]
    shapes = data.draw(mutually_broadcastable_shapes(signature=signature, max_dims=3, max_side=5, min_side=0))
    a, b = (data.draw(array_of(shape)) for shape in shapes.input_shapes)
    with nbops.use(target):
        result = getattr(nbops, name)(a, b)
    assert np.shape(result) == shapes.result_shape
    oracle = {"matvec": matvec, "vecmat": vecmat}.get(name) or getattr(np, name)
    np.testing.assert_array_equal(result, oracle(a, b))


@given(st.data(), st.booleans())
@BOUNDED
def test_sums_are_numpys(data: Any, keepdims: bool) -> None:
    shape = data.draw(array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    axes = data.draw(st.none() | st.sets(st.integers(-len(shape), len(shape) - 1)) if shape else st.none())
    unique = None if axes is None else tuple({axis % len(shape): axis for axis in axes}.values())
    x = data.draw(array_of(shape))
    expected = np.sum(x, unique, keepdims=keepdims)
    result = nbops.sum(x, unique, keepdims=keepdims)
    assert np.shape(result) == expected.shape
    np.testing.assert_array_equal(result, expected)


@given(st.data())
@BOUNDED
def test_softmax_is_the_oracles(data: Any) -> None:
    shape = data.draw(array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = data.draw(array_of(shape))
    result = nbops.softmax(x, axis)
    power = np.exp(x - x.max(axis, keepdims=True))
    np.testing.assert_allclose(result, power / power.sum(axis, keepdims=True), rtol=1e-13, atol=1e-300)


@given(st.data())
@BOUNDED
def test_any_sequence_of_calls_gives_each_call_its_own_result(data: Any) -> None:
    """An op remembers its last call; nothing of that may leak into the next, however alike."""
    memory = np.arange(64.0)
    for _ in range(data.draw(st.integers(2, 6))):
        rows, columns = data.draw(st.sampled_from([(3, 4), (4, 3), (1, 4), (3, 1), (2, 2)]))
        dtype = data.draw(st.sampled_from([np.float64, np.float32, np.int32, np.float16]))
        views = [
            memory[start : start + rows * columns].reshape(rows, columns)
            for start in data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=2))
        ]
        x = views[0] if dtype is np.float64 else views[0].astype(dtype)
        y = data.draw(
            st.sampled_from(
                [views[1], views[1][:, ::-1], views[1][:1], 2.0, np.float32(3), views[1].T[:1, :1]]
            )
        )
        out: Any = data.draw(st.sampled_from([None, None, "new", "over x", "shifted", "narrow"]))
        wanted = np.add(x, y)
        if out == "new":
            out = np.full(wanted.shape, np.nan, wanted.dtype)
        elif out == "over x" and dtype is np.float64:
            out = x
        elif out == "shifted":
            out = memory[2 : 2 + rows * columns].reshape(rows, columns)
        elif out == "narrow" and wanted.dtype.kind == "f":
            out = np.full(wanted.shape, np.nan, np.float32)
        else:
            out = None
        result = nbops.add(x, y, out=out)
        assert out is None or result is out
        np.testing.assert_array_equal(result, wanted if out is None else wanted.astype(out.dtype))
        assert result.dtype == (wanted.dtype if out is None else out.dtype)
        memory[:] = np.arange(64.0)


def test_results_do_not_depend_on_the_layout(rng: np.random.Generator) -> None:
    """Bit by bit, for elementwise ops and products."""
    for name in ("add", "exp", "matmul", "softmax"):
        case = BY_NAME[name]
        drawn = case.draw(rng, case.shapes[0], np.float32)
        straight = as_list(case.function(*drawn))
        for layout in ("fortran", "sliced", "reversed", "misaligned", "swapped"):
            moved = as_list(case.function(*laid_out(case, drawn, LAYOUTS[layout])))
            np.testing.assert_array_equal(moved[0], straight[0])
