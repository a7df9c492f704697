"""Operands of other libraries: read as plain arrays where nothing is lost by it, and else refused."""

from __future__ import annotations

import enum
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import nbops

# ---- pandas --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pd() -> Any:
    return pytest.importorskip("pandas", reason="pandas is not installed")


def test_pandas_objects_are_read_by_position(pd: Any) -> None:
    series = pd.Series([1.0, -2.0], index=["a", "b"])
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    for result, wanted in (
        (nbops.add(series, 1), [2, -1]),
        (nbops.add(series, series), [2, -4]),
        (nbops.add(frame, series), [[2, 1], [3, 2]]),  # pandas aligns a Series with the columns
        (nbops.add(frame, frame), [[2, 6], [4, 8]]),
        (nbops.matmul(frame, frame), [[7, 15], [10, 22]]),
        (nbops.sum(frame, axis=0), [3, 7]),
        (nbops.relu(pd.Index([1, -2])), [1, 0]),
        (nbops.add(pd.Series([1, 2], dtype="Int64"), 1), [2, 3]),
    ):
        assert type(result) is np.ndarray
        assert result.tolist() == wanted
    assert np.isnan(nbops.add(pd.Series([1.0, None], dtype="Float64"), 1)).tolist() == [False, True]


def test_pandas_objects_with_other_labels_are_refused(pd: Any) -> None:
    """pandas and NumPy would align them; by position the result would silently be another."""
    x, y = pd.Series([1.0, 2.0], index=["a", "b"]), pd.Series([1.0, 2.0], index=["b", "a"])
    frame = pd.DataFrame({"a": [1.0], "c": [2.0]})
    for operands in ((x, y), (frame, x), (x, frame), (frame, frame.rename(columns={"c": "d"}))):
        with pytest.raises(TypeError, match="labels differ, and nbops goes by position; align them"):
            nbops.add(*operands)
    assert nbops.add(x, y.to_numpy()).tolist() == [2, 4]
    assert nbops.add(*x.align(y)).tolist() == np.add(x, y).tolist()


def test_pandas_objects_without_numbers_are_refused(pd: Any) -> None:
    for values in (
        pd.Series(["a", "b"]),
        pd.Series([1.0, "x"]),
        pd.Series([True, False]),
        pd.Series(pd.to_datetime(["2020-01-01"])),
        pd.Series([1, 2], dtype="category"),
        pd.Categorical([1, 2]),
        pd.NA,
    ):
        with pytest.raises(TypeError, match="add: x is"):
            nbops.add(values, 1)


# ---- NumPy's own kinds, and classes with an arithmetic of their own ---------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nbops.add(x, 1),
        nbops.sum,
        nbops.mean,
        nbops.softmax,
        lambda x: nbops.reshape(x, (2, 1)),
        nbops.transpose,
        lambda x: nbops.broadcast_to(x, (2, 2)),
        lambda x: nbops.expand_dims(x, 0),
        lambda x: nbops.matrix_transpose(nbops.expand_dims(x, 0)),
        lambda x: nbops.dot(x, x),
    ],
)
def test_a_mask_is_never_dropped(function: Any) -> None:
    with pytest.raises(TypeError, match=r"masked array, and its mask would be ignored; pass x.filled"):
        function(np.ma.masked_array([1.0, 2.0], [True, False]))


class Metres:
    """Leaves its arithmetic to nobody, like the quantities of units libraries."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([1.0, 2.0])

    def __array_ufunc__(self, *arguments: Any, **keywords: Any) -> Any:
        return "handled"


class Refusing(Metres):
    __array_ufunc__ = None  # type: ignore[assignment]


class Celsius(np.ndarray):
    def __array_ufunc__(self, *arguments: Any, **keywords: Any) -> Any:
        return "handled"


@pytest.mark.parametrize(
    "value", [Metres(), Refusing(), np.ones(2).view(Celsius)], ids=lambda x: type(x).__name__
)
def test_classes_that_override_ufuncs_are_refused(value: Any) -> None:
    """NumPy would ask them; without their arithmetic a result would be wrong, and nobody would know."""
    for operands in ((value, 1.0), (1.0, value), (np.ones(2), value)):
        with pytest.raises(TypeError, match=r"whose own arithmetic would be ignored; pass np.asarray"):
            nbops.add(*operands)
    assert nbops.add(np.array(value), 1.0).tolist() == (np.asarray(value).view(np.ndarray) + 1).tolist()


@pytest.mark.parametrize("out", [np.ma.zeros(2), np.zeros(2).view(Celsius)], ids=lambda x: type(x).__name__)
def test_results_go_into_no_such_arrays(out: Any) -> None:
    for function in (lambda: nbops.add(np.ones(2), 1.0, out=out), lambda: nbops.sum(np.eye(2), 0, out=out)):
        with pytest.raises(TypeError, match=r"out is a \w+, whose own arithmetic or mask would be ignored"):
            function()
    assert np.asarray(out).tolist() == [0, 0]


class Meters(enum.IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value", [[1, -2], (1, -2), range(-1, 2), [[1.5, 2], [3, 4]], [np.float32(1), 2], [], Meters.ONE]
)
def test_sequences_and_numbers_are_what_numpy_makes_of_them(value: Any) -> None:
    result, wanted = nbops.negative(value), np.negative(value)
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize(
    "value",
    [
        *(b"ab", {1, 2}, {1: 2}, iter([1]), Decimal(1), Fraction(1, 2), [Decimal(1)], [1, None], [2**64]),
        *(np.array(1.0, object), np.zeros(2, "V4"), np.array(["1"]), np.timedelta64(1), np.array([b"1"])),
    ],
)
def test_what_holds_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="negative: x "):
        nbops.negative(value)
