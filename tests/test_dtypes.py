"""Which dtypes ops take, compute in and return: NumPy 2's rules, and half precision rounded once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import nbops
from tests.cases import BFLOAT16, BY_NAME, CASES, Case, as_list, assert_close, describe, is_label

FULL = [np.float32, np.float64, np.int32, np.int64]
HALF = [np.dtype(np.float16), BFLOAT16]
LOOPS = [case for case in CASES if not case.view]


@pytest.mark.parametrize("dtype", FULL, ids=describe)
@pytest.mark.parametrize("case", CASES, ids=describe)
def test_values_and_result_dtype(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], dtype)
    results = case.function(*operands)
    assert_close(results, case.expected(operands), case, case.shapes[0])
    for result in as_list(results):
        if case.numpy is not None:
            assert result.dtype == case.numpy(*operands).dtype
        elif not case.name.startswith("sum_row"):
            assert result.dtype == case.result_dtype(dtype)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint64], ids=describe)
@pytest.mark.parametrize(
    "name", ["add", "multiply", "negative", "relu", "maximum", "divide", "exp", "matmul", "sum()"]
)
def test_other_integers(name: str, dtype: Any, rng: np.random.Generator) -> None:
    case = BY_NAME[name]
    operands = case.draw(rng, case.shapes[0], dtype)
    result = case.function(*operands)
    reference = case.numpy(*operands) if case.numpy else np.maximum(operands[0], dtype(0))
    assert result.dtype == reference.dtype
    if result.dtype == np.float16:  # NumPy's own exp of int8 has float16's rounding too
        np.testing.assert_allclose(result, reference, rtol=2e-3)
    else:
        np.testing.assert_allclose(result, reference, rtol=1e-6 if result.dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", HALF, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("case", CASES, ids=describe)
def test_half_precision_is_the_float32_result_rounded_once(
    case: Case, dtype: Any, rng: np.random.Generator
) -> None:
    operands = case.draw(rng, case.shapes[0], dtype)
    wide = [x if is_label(case, index) else x.astype(np.float32) for index, x in enumerate(operands)]
    for result, in_float32 in zip(
        as_list(case.function(*operands)), as_list(case.function(*wide)), strict=True
    ):
        assert result.dtype == dtype
        assert in_float32.dtype == np.float32
        np.testing.assert_array_equal(result.astype(np.float32), in_float32.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", HALF, ids=lambda dtype: dtype.name)
def test_half_precision_accumulates_in_float32(dtype: Any) -> None:
    """4096 ones and a small one: float16 and bfloat16 sums would stop growing long before."""
    x = np.ones(4096, dtype)
    assert float(nbops.vecdot(x, x)) == 4096
    assert float(nbops.sum(x)) == 4096
    assert float(nbops.mean(np.full(4096, 60000 if dtype == np.float16 else 1e38).astype(dtype))) > 5e4
    assert float(nbops.matmul(x[None], x[:, None])[0, 0]) == 4096


def test_overflow_in_half_precision_is_infinite_and_silent() -> None:
    x = np.array([60000.0], np.float16)
    with np.errstate(all="raise"):
        assert nbops.add(x, x)[0] == np.inf


PAIRS = [
    (np.float32, np.float64),
    (np.int32, np.float32),
    (np.int8, np.float16),
    (np.uint8, np.int8),
    (np.int64, np.uint64),
    (np.float16, np.float32),
    (np.int32, np.int64),
    (ml_dtypes.bfloat16, np.float32),
]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=describe)
def test_promotion_is_numpys(one: Any, other: Any) -> None:
    x, y = np.array([1, 2, 3]).astype(one), np.array([[3], [2]]).astype(other)
    for a, b in ((x, y), (y, x)):
        result, expected = nbops.add(a, b), np.add(a, b)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("number", [2, -3, 1.5, np.float64(1.5), np.int8(2), np.float32(2)])
@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, BFLOAT16, np.int32, np.int8, np.uint8], ids=str
)
def test_python_numbers_are_weak(dtype: Any, number: Any) -> None:
    """NEP 50: a Python number takes the array's dtype; a NumPy scalar has its own."""
    x = np.array([1, 2, 3]).astype(dtype)
    try:
        expected = np.add(x, number)
    except OverflowError:
        with pytest.raises(OverflowError):
            nbops.add(x, number)
        return
    if dtype is BFLOAT16 and type(number) in (int, float):
        expected = expected.astype(BFLOAT16)  # ml_dtypes promotes to float32, which is not what NEP 50 wants
    for result in (nbops.add(x, number), nbops.add(number, x)):
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize("values", [(2, 3), (2, 3.5), (2.5, 3.5)])
def test_python_numbers_alone(values: Any) -> None:
    result = nbops.add(*values)
    assert result == np.add(*values)
    assert result.dtype == np.add(*values).dtype


def test_lists_are_arrays() -> None:
    result = nbops.matmul([[1, 2]], [[3], [4]])
    assert result.dtype == np.int64
    assert result.tolist() == [[11]]


def test_a_number_too_large_for_the_dtype_raises_as_in_numpy() -> None:
    with pytest.raises(OverflowError):
        nbops.add(np.ones(2, np.int8), 300)


BAD = {
    "bool": np.array([True]),
    "Python bool": True,
    "complex": np.array([1j]),
    "Python complex": 1j,
    "object": np.array([1, None]),
    "Python integer beyond 64 bits": 2**70,
    "str": np.array(["a"]),
    "Python str": "a",
    "None": None,
    "datetime": np.array(["2024-01-01"], "M8[D]"),
    "structured": np.zeros(2, [("a", "f4")]),
    "longdouble": np.ones(2, np.longdouble),
    "float8": np.ones(2, ml_dtypes.float8_e4m3fn),
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "ragged": [[1.0], [1.0, 2.0]],
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("relu", "add", "matvec", "softmax", "sum()", "mean()")
        for kind in BAD
        # a float array makes a float of any integer; see test_promotion.py
        if (name, kind) != ("add", "Python integer beyond 64 bits")
    ],
)
def test_what_is_no_real_number_raises_type_error(name: str, kind: str) -> None:
    value = BAD[kind]
    function = BY_NAME[name].function
    operands = {"add": (np.ones(2), value), "matvec": (np.ones((1, 2)), value)}.get(name, (value,))
    if name in ("softmax", "matvec") and np.ndim(value) == 0 if not isinstance(value, list) else False:
        operands = (*operands[:-1], np.array([value] * 2))
    with pytest.raises(TypeError, match=name.removesuffix("()")):
        function(*operands)


def test_a_matrix_raises_type_error() -> None:
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1.0, 2.0]])
    with pytest.raises(TypeError, match="matmul: b is a matrix"):
        nbops.matmul(np.ones((2, 1)), matrix)


def test_masked_predictions_are_refused() -> None:
    with pytest.raises(TypeError, match="mask"):
        nbops.sparse_categorical_crossentropy([0], np.ma.masked_array([[0.5, 0.5]], [[True, False]]))


# ---- integers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8], ids=describe)
def test_integers_wrap_around(dtype: Any, target: str) -> None:
    limits = np.iinfo(dtype)
    x = np.array([limits.max, limits.min, limits.max, 0], dtype)
    y = np.array([1, limits.max, limits.max, limits.min], dtype)
    with np.errstate(all="ignore"), nbops.use(target):
        np.testing.assert_array_equal(nbops.add(x, y), x + y)
        np.testing.assert_array_equal(nbops.subtract(x, y), x - y)
        np.testing.assert_array_equal(nbops.multiply(x, y), x * y)
        np.testing.assert_array_equal(nbops.negative(x), -x)
        np.testing.assert_array_equal(nbops.vecdot(x, y), np.vecdot(x, y))
        np.testing.assert_array_equal(nbops.matmul(x[None], y[:, None]), x[None] @ y[:, None])
        expected = y[:1, None] + x[:1, None] * (x[None] @ y[:, None])
        np.testing.assert_array_equal(nbops.gemm(x[None], y[:, None], y[:1, None], x[0]), expected)


@pytest.mark.parametrize("target", ["python", "serial"])
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64], ids=describe)
def test_add_relu_wraps_before_it_cuts(dtype: Any, target: str) -> None:
    """relu(x + y) in the dtype: a sum that wraps to a negative number gives 0."""
    x = np.array([np.iinfo(dtype).max, 1], dtype)
    with nbops.use(target):
        np.testing.assert_array_equal(nbops.add_relu(x, x), nbops.relu(nbops.add(x, x)))


def test_integer_sums_are_64_bits_wide() -> None:
    x = np.full(4, np.iinfo(np.int32).max, np.int32)
    assert nbops.sum(x) == 4 * int(np.iinfo(np.int32).max)
    assert nbops.sum(np.full(4, 255, np.uint8)).dtype == np.uint64
    assert nbops.mean(x) == np.iinfo(np.int32).max


def test_integers_too_large_for_float64_stay_exact() -> None:
    x = np.array([2**62 + 1, -(2**62) - 1])
    np.testing.assert_array_equal(nbops.maximum(x, 0), [2**62 + 1, 0])
    np.testing.assert_array_equal(nbops.add(x, 1), x + 1)


def test_labels_of_every_integer_dtype() -> None:
    p = np.array([[0.2, 0.8], [0.6, 0.4]])
    expected = -np.log([0.8, 0.6])
    for dtype in (np.int8, np.uint8, np.int32, np.int64, np.uint64, np.float32):
        loss = nbops.sparse_categorical_crossentropy(np.array([1, 0], dtype), p)
        np.testing.assert_allclose(loss, expected, rtol=1e-15)
        assert loss.dtype == np.float64
    with pytest.raises(TypeError, match="expected integers"):
        nbops.sparse_categorical_crossentropy(np.array([0.5, 0.0]), p)


def test_out_of_another_dtype_of_the_same_kind() -> None:
    out = np.full(3, np.nan, np.float32)
    assert nbops.divide(np.array([1.0, 2.0, 3.0]), 3.0, out=out) is out
    np.testing.assert_array_equal(out, (np.array([1.0, 2.0, 3.0]) / 3).astype(np.float32))
    wide = np.full((1, 1), np.nan)
    nbops.matmul(np.ones((1, 2), np.float32), np.ones((2, 1), np.float32), out=wide)
    assert wide[0, 0] == 2
    integers = np.full(3, -1, np.int8)
    nbops.add(np.array([1, 2, 3]), 1, out=integers)
    assert integers.tolist() == [2, 3, 4]
