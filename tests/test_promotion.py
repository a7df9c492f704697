"""Result dtypes: NumPy 2's promotion (NEP 50) for any operands, and the array API standard for its functions.

https://numpy.org/neps/nep-0050-scalar-promotion.html, https://data-apis.org/array-api/latest/
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbops

FLOATS = ("float16", "float32", "float64")
INTEGERS = tuple(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))
#: nbops's function and NumPy's; what integers become is part of the comparison.
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "matmul", "vecdot")
UNARY = ("negative", "exp", "log", "sqrt", "tanh", "sum", "mean")

dtypes = st.sampled_from(FLOATS + INTEGERS)
arrays = st.builds(
    lambda dtype, shape: np.ones(shape, dtype),
    dtypes,
    st.sampled_from([(), (2, 2), (1, 2, 2)]),
)
numpy_scalars = dtypes.map(lambda name: np.dtype(name).type(1))
python_numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-300, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e300, 1e39, 65520.0, 0.1]),
)
operands = st.one_of(arrays, numpy_scalars, python_numbers)


def outcome(function: Any, *given: Any) -> Any:
    """The dtype and values, or the error's class."""
    try:
        with np.errstate(all="ignore"):
            result = function(*given)
    except (OverflowError, TypeError) as error:
        return type(error)
    return result.dtype, np.asarray(result).astype(np.float64)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(name=st.sampled_from(BINARY[:6]), x=operands, y=operands)
def test_two_operands_promote_as_in_numpy(name: str, x: Any, y: Any) -> None:
    with nbops.use("python"):
        own = outcome(getattr(nbops, name), x, y)
    wanted = outcome(getattr(np, name), x, y)
    if isinstance(wanted, type):
        assert own is wanted
        return
    assert own[0] == wanted[0]
    assert own[0] == "float16" or np.array_equal(own[1], wanted[1], equal_nan=True)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    name=st.sampled_from(BINARY), x=st.sampled_from(FLOATS + INTEGERS), y=st.sampled_from(FLOATS + INTEGERS)
)
def test_arrays_promote_as_in_numpy(name: str, x: str, y: str) -> None:
    operands = np.ones((2, 2), x), np.ones((2, 2), y)
    with nbops.use("python"):
        result = getattr(nbops, name)(*operands)
    assert result.dtype == getattr(np, name)(*operands).dtype


@pytest.mark.parametrize("number", [2**64, 2**70, -(2**63) - 1, 2**2000])
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_numbers_beyond_every_integer_dtype(dtype: str, number: int) -> None:
    """A float array makes a float of them, where one holds them; an integer array can't."""
    x = np.full((2, 2), 2, dtype)
    with nbops.use("python"):
        own = outcome(nbops.add, x, number)
    wanted = outcome(np.add, x, number)
    if isinstance(wanted, type):
        assert own is wanted is OverflowError
    else:
        assert own[0] == wanted[0]
        np.testing.assert_array_equal(own[1], wanted[1])
    with pytest.raises(TypeError, match="negative: x has dtype object; expected a real number"):
        nbops.negative(number)


def test_dtypes_without_a_common_one_are_told() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed").bfloat16
    with pytest.raises(TypeError, match="add: float16, bfloat16 have no common dtype; convert one"):
        nbops.add(np.ones(2, np.float16), np.ones(2, bfloat16))


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("name", UNARY)
def test_one_operand_promotes_as_in_numpy(name: str, dtype: str) -> None:
    for x in (np.ones((2, 3), dtype), np.ones((), dtype), np.dtype(dtype).type(1)):
        with nbops.use("python"):
            result = getattr(nbops, name)(x)
        assert result.dtype == getattr(np, name)(x).dtype


# ---- the array API standard --------------------------------------------------------------------------------

#: Every function of the standard that nbops names, and how it may be called by position and keyword.
STANDARD = {
    **dict.fromkeys(("add", "subtract", "multiply", "divide", "maximum", "minimum"), "x, y"),
    **dict.fromkeys(("negative", "exp", "log", "sqrt", "tanh"), "x"),
    "matmul": "a, b",
    "vecdot": "x, y, *, axis",
    "sum": "x, *, axis, dtype, keepdims",
    "mean": "x, *, axis, keepdims",
    "reshape": "x, shape, *, copy",
    "broadcast_to": "x, shape",
    "expand_dims": "x, axis",
    "matrix_transpose": "x",
}


@pytest.mark.parametrize("name", STANDARD)
def test_functions_of_the_standard_take_its_arguments(name: str) -> None:
    positional, _, keywords = STANDARD[name].partition(", *, ")
    signature = inspect.signature(getattr(nbops, name))
    named = {keyword: None for keyword in keywords.split(", ") if keyword}
    signature.bind(*positional.split(", "), **named)
    assert hasattr(np, name)


def test_no_function_of_the_standard_is_missing_here() -> None:
    """The names that nbops shares with NumPy are in the table, or NumPy's alone."""
    numpys_own = {"dot", "matvec", "vecmat", "transpose"}
    shared = {name for name in nbops.__all__ if callable(getattr(np, name, None))}
    assert shared - numpys_own == set(STANDARD)


def test_sums_and_means_of_the_standard() -> None:
    for dtype in INTEGERS:
        assert nbops.sum(np.ones(3, dtype)).dtype == ("uint64" if dtype.startswith("u") else "int64")
    for dtype in FLOATS:
        assert nbops.sum(np.ones(3, dtype)).dtype == nbops.mean(np.ones(3, dtype)).dtype == dtype
    empty = np.ones((0, 3))
    assert nbops.sum(empty) == 0
    assert np.isnan(nbops.mean(empty))
    assert nbops.sum(np.ones((2, 3, 4)), axis=(0, -1)).tolist() == [8, 8, 8]
    assert nbops.sum(np.ones((2, 3)), axis=1, keepdims=True).shape == (2, 1)
    assert nbops.sum(np.float64(2)) == 2
    for axis in (2, -3, (0, 0)):
        with pytest.raises(ValueError, match="axis"):
            nbops.sum(np.ones((2, 2)), axis=axis)


def test_a_sum_in_another_dtype() -> None:
    for x in (np.array([100, 100], "int8"), np.array([1.5, 2.5], "float32")):
        for dtype in ("int8", np.uint8, "float16", float):
            result = nbops.sum(x, dtype=dtype)
            assert (result.dtype, result) == (np.dtype(dtype), np.sum(x.astype(dtype), dtype=dtype))
    for dtype in (bool, complex, object):
        with pytest.raises(TypeError, match="sum: the result has dtype"):
            nbops.sum(np.ones(2), dtype=dtype)


def test_reshape_copies_when_it_is_asked_to() -> None:
    x = np.arange(6)
    for copy, shared in ((None, True), (False, True), (True, False)):
        result = nbops.reshape(x, (2, 3), copy=copy)
        assert result.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert np.may_share_memory(result, x) == shared
    turned = nbops.reshape(x, (2, 3)).T
    for copy in (None, True):
        assert nbops.reshape(turned, 6, copy=copy).tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(ValueError, match=r"no view of x has the shape \(6,\)"):
        nbops.reshape(turned, 6, copy=False)
    for copy in (True, False):
        assert nbops.reshape(np.ones((0, 2)), (2, 0), copy=copy).shape == (2, 0)


@pytest.mark.parametrize("target", ["python", "serial"])
@pytest.mark.parametrize(
    "shapes", [((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((3,), (4, 3, 2)), ((4, 2, 3), (3,))], ids=str
)
def test_matmul_takes_vectors(shapes: Any, target: str, rng: np.random.Generator) -> None:
    a, b = (rng.normal(size=shape) for shape in shapes)
    wanted = np.matmul(a, b)
    with nbops.use(target):
        for result in (
            nbops.matmul(a, b),
            nbops.matmul(a.tolist(), b),
            nbops.matmul(a, b, out=np.empty(wanted.shape)),
        ):
            np.testing.assert_allclose(result, wanted, rtol=1e-14)
            assert np.shape(result) == wanted.shape
        _, pullback = nbops.matmul.vjp(a, b)
        da, db = pullback(np.ones_like(wanted))
    assert nbops.explain(nbops.matmul, a, b).shapes == (*shapes, wanted.shape)
    # of the sum of all results, which is linear in each operand
    np.testing.assert_allclose((da * a).sum(), wanted.sum(), rtol=1e-13)
    np.testing.assert_allclose((db * b).sum(), wanted.sum(), rtol=1e-13)
    assert (da.shape, db.shape) == shapes


def test_axis_of_ops_on_vectors() -> None:
    x = np.arange(6.0).reshape(2, 3)
    assert nbops.vecdot(x, x, axis=0).tolist() == [9, 17, 29]
    assert nbops.vecdot(x, x, axis=-1).tolist() == nbops.vecdot(x, x, axis=None).tolist() == [5, 50]
    with pytest.raises(TypeError, match=r"matmul: axis= is for operands with one axis each.*use axes="):
        nbops.matmul(x, x, axis=0)
    with pytest.raises(TypeError, match="add: axis= is for"):
        nbops.add(x, x, axis=0)
    with pytest.raises(TypeError, match="vecdot: axis= and axes= came"):
        nbops.vecdot(x, x, axis=0, axes=[0, 0])
    with pytest.raises(ValueError, match="vecdot: axis 2 is out of range"):
        nbops.vecdot(x, x, axis=2)


@pytest.mark.parametrize("target", ["python", "serial"])
def test_special_cases_of_the_standard(target: str) -> None:
    inf, nan = np.inf, np.nan
    table = [
        ("exp", [nan, 0.0, -0.0, inf, -inf], [nan, 1, 1, inf, 0]),
        ("log", [nan, -1.0, 0.0, -0.0, 1.0, inf], [nan, nan, -inf, -inf, 0, inf]),
        ("sqrt", [nan, -1.0, 0.0, -0.0, inf], [nan, nan, 0, -0.0, inf]),
        ("tanh", [nan, 0.0, -0.0, inf, -inf], [nan, 0, -0.0, 1, -1]),
        ("negative", [nan, 0.0, -0.0, inf], [nan, -0.0, 0, -inf]),
    ]
    with nbops.use(target):
        for name, x, wanted in table:
            result = getattr(nbops, name)(np.array(x))
            np.testing.assert_array_equal(result, wanted)
            defined = ~np.isnan(wanted)
            np.testing.assert_array_equal(np.signbit(result[defined]), np.signbit(np.array(wanted)[defined]))
        zero_by = nbops.divide(np.array([1.0, -1.0, 0.0, inf]), np.array([0.0, 0.0, 0.0, -0.0]))
        np.testing.assert_array_equal(zero_by, [inf, -inf, nan, -inf])
        for function in (nbops.maximum, nbops.minimum):
            assert np.isnan(function(np.array([nan, 1.0]), np.array([1.0, nan]))).all()


@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_numbers_stay(dtype: Any, target: str) -> None:
    """No thread flushes them to zero."""
    tiny = np.finfo(dtype).smallest_subnormal
    x = tiny * np.arange(1, 5000).astype(dtype)
    with nbops.use(target):
        np.testing.assert_array_equal(nbops.multiply(x, dtype(0.5)), x * dtype(0.5))
        np.testing.assert_array_equal(nbops.add(x, x), x + x)
        assert nbops.sum(x) == x.sum(dtype=np.float64).astype(dtype)
