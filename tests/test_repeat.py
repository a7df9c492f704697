"""The short way for calls that come again (`nbops.repeat`): which calls are remembered, and for whom."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import nbops
from nbops import calibration, dispatch, large_arrays, remember
from nbops.dispatch import use
from nbops.ops.logits import crossentropy_and_gradient
from nbops.repeat import BUSY, COUNT
from nbops.targets import cpu
from nbops.targets.tasks import PIECE

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT or numba.config.BOUNDSCHECK), reason="every call goes the long way"
)


def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the decisions that are made anew from here on."""
    made: list[str] = []
    decide = dispatch.decide

    def told(work: dispatch.Work, target: str | None = None) -> dispatch.Decision:
        decision = decide(work, target)
        made.append(decision.target)
        return decision

    monkeypatch.setattr(dispatch, "decide", told)
    return made


def test_calibrate_times_calls_that_go_the_short_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The long way takes longer than the loops that decide, and varies by more."""
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    counts = []

    def times(calls: Any) -> list[float]:
        made = ways(monkeypatch)
        for call in calls:
            call()
            call()
        counts.append(len(made))
        return [1.0, 1.0]

    monkeypatch.setattr(calibration, "_times_ns", times)
    monkeypatch.setattr(calibration, "break_even", lambda *_: int(cpu.STATE[cpu.BREAK_EVEN]))
    nbops.calibrate()
    with use(strict=True):
        nbops.calibrate()
    assert counts
    assert set(counts) == {0}


def test_calibrate_reaches_the_calls_that_are_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if cpu.start_threads() < 2:
        pytest.skip("one core: everything is serial")
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    before = int(cpu.STATE[cpu.BREAK_EVEN])
    x = np.ones(4096, np.float32)
    try:
        for figures, target in ((1e6, 2e6), "serial"), ((3.0, 2.0), "parallel"), ((1e6, 2e6), "serial"):
            later = iter([(1.0, 2.0), figures])
            monkeypatch.setattr(calibration, "_times_ns", lambda calls, later=later: next(later, (9e9, 1.0)))
            nbops.calibrate(save=False)
            for _ in range(3):
                nbops.relu(x)  # not `add`, whose remembered calls calibrate pushes out
                assert nbops.last_decision().target == target
    finally:
        cpu.STATE[cpu.BREAK_EVEN] = before
        remember.forget_all()


def test_a_record_that_a_thread_is_in_outlives_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones(100, np.float32)
    nbops.relu(x)
    short_way = nbops.relu.short_way
    kept = short_way._records[0]
    kept[0][BUSY] = 1
    try:
        remember.forget_all()
        assert short_way._left_in_use == [kept]
        assert short_way._words[COUNT] == 0
        remember.forget_all()
        assert short_way._left_in_use == [kept], "forgotten the second time"
    finally:
        kept[0][BUSY] = 0
    made = ways(monkeypatch)
    nbops.relu(x)
    nbops.relu(x)
    assert len(made) == 1


def test_a_call_inside_a_block_is_remembered_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """By equal settings, not by the block; and each call gets the decision that its own settings make."""
    op = nbops.elementwise(name="remembered_with_settings")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    with use("serial"):
        op(x, out=out)
        op(x, out=out)
    assert made == ["serial"]
    with use("parallel", threads=1), use("serial", threads=None):
        op(x, out=out)  # other settings: one thread
    assert made == ["serial", "serial"]
    with use("parallel"):
        op(x, out=out)
        assert nbops.last_decision().rule == "asked for"
    assert made[2:] == ["parallel"]
    with use("serial"):
        op(x, out=out)
        assert nbops.last_decision().target == "serial"
    op(x, out=out)
    assert nbops.last_decision().rule == "small"
    op(x, out=out)
    with use("python"):
        op(x, out=out)
        op(x, out=out)
    assert made[3:] == ["serial", "python", "python"]
    np.testing.assert_array_equal(out, x)


def test_another_threads_block_changes_nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    op = nbops.elementwise(name="remembered_beside_a_block")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    inside, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with use("python"):
            inside.set()
            done.wait()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    inside.wait()
    op(x, out=out)
    op(x, out=out)
    done.set()
    thread.join()
    op(x, out=out)
    assert made == ["serial"]


def test_what_explain_follows_takes_no_short_way() -> None:
    """Not even inside a block whose settings it knows, nor in one that the function opens."""
    x, out = np.arange(6.0), np.empty(6)

    def calls() -> None:
        nbops.relu(x, out=out)
        with use("serial"):
            nbops.relu(x, out=out)

    with use("serial"):
        calls()
        calls()
        assert [call.op for call in nbops.explain(calls).calls] == ["relu", "relu"]
    calls()
    assert [call.op for call in nbops.explain(calls).calls] == ["relu", "relu"]


def test_a_call_under_strict_is_decided_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    op = nbops.elementwise(name="remembered_never_under_strict")(lambda x: x)
    x, out = np.arange(6.0), np.empty(6)
    made = ways(monkeypatch)
    with use("serial", strict=True):
        op(x, out=out)
        op(x, out=out)
    assert made == ["serial", "serial"]


NUMBERS = [2.5, 2, np.float64(2.5), np.float32(2.5), np.int8(2)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_a_call_with_a_number_is_remembered_by_its_type(
    monkeypatch: pytest.MonkeyPatch, number: float, dtype: str
) -> None:
    """Wherever the array is computed as it is; the value is new each time."""
    op = nbops.elementwise(name="remembered_with_numbers")(lambda x, y: x * y)
    x = np.arange(6).astype(dtype)
    as_it_is = np.result_type(x, number) == x.dtype
    made = ways(monkeypatch)
    for value in (number, number + type(number)(1), type(number)(-3), type(number)(0)):
        for result, expected in ((op(x, value), x * value), (op(value, x), value * x)):
            np.testing.assert_array_equal(result, expected)
            assert result.dtype == expected.dtype
    assert len(made) == (2 if as_it_is else 8)


def test_a_number_that_does_not_fit_is_told_each_time() -> None:
    """As NumPy tells it; and the next one that fits is right again."""
    op = nbops.elementwise(name="remembered_with_limits")(lambda x, y: x + y)
    x = np.arange(6, dtype=np.int8)
    for _ in range(3):
        np.testing.assert_array_equal(op(x, 100), x + 100)
        with pytest.raises(OverflowError, match="300 out of bounds for int8"):
            op(x, 300)
    with pytest.raises(TypeError, match="bool"):
        op(x, True)


@pytest.mark.filterwarnings("always")
def test_a_number_beyond_float32_warns_as_numpy_does() -> None:
    op = nbops.elementwise(name="remembered_with_warnings")(lambda x, y: x + y)
    x = np.zeros(3, np.float32)
    assert np.array_equal(op(x, 1.0), x + 1)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="overflow"):
            assert np.all(op(x, 1e300) == np.inf)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError, match="overflow"):
        op(x, 1e300)
    assert np.array_equal(op(x, 2.0), x + 2)


def test_a_lone_integers_dtype_follows_from_its_value() -> None:
    op = nbops.elementwise(name="remembered_never_alone")(lambda x: x)
    for number in (3, 2**63, 3, -5, 2**63 + 1):
        result = op(number)
        assert result == number
        assert result.dtype == np.asarray(number).dtype


def test_the_last_axis_is_the_last_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(12.0).reshape(3, 4)
    expected = nbops.softmax(x)
    made = ways(monkeypatch)
    np.testing.assert_array_equal(nbops.softmax(x, axis=1), expected)
    assert made == []


def length_of_piece(x: Any, out: Any) -> None:
    for j in range(x.shape[0]):
        out[j] = x.shape[0]


def test_a_repeated_elementwise_op_turns_round() -> None:
    """Forwards it takes a row in one piece; backwards in pieces of PIECE bytes, and what is left."""
    op = nbops.op("()->()", name="length_of_piece")(length_of_piece)
    piece = PIECE // 8
    x = np.zeros(2 * piece + 3)
    forwards, backwards = np.full(len(x), len(x)), np.repeat([piece, 3], [2 * piece, 3])
    for expected in forwards, backwards, forwards, backwards:
        np.testing.assert_array_equal(op(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_an_op_that_turns_round_computes_every_element(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each repeated call begins at the other end, in pieces; whatever the length, all is computed once."""
    op = nbops.elementwise(name="turned_round")(lambda x, y: x + y)
    rng = np.random.default_rng(5)
    piece = PIECE // np.dtype(dtype).itemsize
    for n in (1, 2, piece - 1, piece, piece + 1, 3 * piece, 3 * piece + 5):
        for start in (0, 1):  # not at the border of a cache line
            x, y = rng.integers(-50, 50, (2, n + start)).astype(dtype)[:, start:]
            kept = x.copy()
            grid = np.zeros((5, n + 3), dtype)[:, :n]  # rows apart: several, none of which is turned round
            op(x, y)
            made = ways(monkeypatch)
            for _ in range(4):
                out = np.full(n, 77, dtype)
                op(x, y, out=out)
                np.testing.assert_array_equal(out, x + y)
                np.testing.assert_array_equal(op(x, y), x + y)
                np.testing.assert_array_equal(op(x, dtype(3)), x + 3)
                np.testing.assert_array_equal(op(grid + x, grid), grid + x)
                op(x, y, out=x)  # in place
                np.testing.assert_array_equal(x, kept + y)
                x[...] = kept
            assert len(made) <= 6  # one of each kind
            monkeypatch.undo()


def test_what_can_not_be_remembered_pushes_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    op = nbops.elementwise(name="remembered_beside_lists")(lambda x, y: x + y)
    x, half = np.arange(6.0), np.arange(6, dtype=np.float16)
    op(x, x)
    for _ in range(10):
        op(x, [1.0] * 6)
        op(half, half)
        op(x, np.arange(6, dtype=np.float32))
    made = ways(monkeypatch)
    np.testing.assert_array_equal(op(x, x), x + x)
    assert made == []


def test_threads_with_their_own_numbers_get_their_own_results() -> None:
    """One remembered call that runs without the GIL; whoever comes meanwhile goes the long way."""
    op = nbops.elementwise(name="remembered_by_threads")(lambda x, y: x + y)
    x = np.zeros(300_000)
    wrong: list[float] = []

    def add(number: float) -> None:
        for _ in range(200):
            result = op(x, number)
            if not (result[0] == result[-1] == number):
                wrong.append(number)

    threads = [threading.Thread(target=add, args=(float(number),)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_results_are_new_arrays_the_short_way(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones((2 * large_arrays.LARGE // 4096, 512), np.float32, order=order)
    first = nbops.add(x, 1)
    made = ways(monkeypatch)
    second, third = nbops.add(x, 2), nbops.add(x[::2], 2)
    with use("serial"):
        fourth = nbops.add(x, 4)
    assert len(made) == 2  # for the third and the fourth
    for result, value in ((first, 2), (second, 3), (third, 3), (fourth, 5)):
        assert (result == value).all()
        assert result.flags.writeable
    assert second.strides == x.strides
    assert not np.may_share_memory(first, second)


def test_large_and_small_results_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = large_arrays.LARGE // 4000 + 1
    labels, x, share = np.zeros(rows, int), np.zeros((rows, 1000), np.float32), np.ones(rows, np.float32)
    wanted_losses, wanted = crossentropy_and_gradient(labels, x, share)
    made = ways(monkeypatch)
    losses, gradient = crossentropy_and_gradient(labels, x, share)
    assert made == []
    np.testing.assert_array_equal(losses, wanted_losses)
    np.testing.assert_array_equal(gradient, wanted)


def test_a_large_result_is_forgotten_with_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.ones(large_arrays.LARGE // 4, np.float32)
    nbops.negative(x)
    remember.forget_all()
    made = ways(monkeypatch)
    assert (nbops.negative(x) == -1).all()
    assert len(made) == 1
