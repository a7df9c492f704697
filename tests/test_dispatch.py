"""The dispatcher: what is asked for, what is measured, what it explains, and what it keeps."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import calibration, dispatch
from nbops.targets import cpu

SMALL, LARGE = np.ones(10, np.float32), np.ones(2_000_000, np.float32)


@pytest.fixture(autouse=True)
def shipped_break_even() -> Any:
    """Tests don't depend on a calibration that the machine's user has kept."""
    dispatch.start()
    before = int(cpu.STATE[cpu.BREAK_EVEN])
    cpu.STATE[cpu.BREAK_EVEN] = 10_000
    yield
    cpu.STATE[cpu.BREAK_EVEN] = before


def decision() -> nbops.Decision:
    last = nbops.last_decision()
    assert last is not None
    return last


# ---- the rules -----------------------------------------------------------------------------------------


def test_small_is_serial_and_large_is_parallel() -> None:
    nbops.relu(SMALL)
    assert (decision().target, decision().rule, decision().workers) == ("serial", "small", 1)
    assert "under the break-even" in decision().reason
    nbops.relu(LARGE)
    assert (decision().target, decision().rule) == ("parallel", "large")
    assert decision().workers == cpu.STATE[cpu.WORKERS] > 1
    assert "over the break-even" in decision().reason


@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
def test_what_is_asked_for_runs(target: str) -> None:
    with nbops.use(target):
        nbops.relu(SMALL)
    assert (decision().target, decision().rule) == (target, "asked for")
    nbops.relu(SMALL, target=target)
    assert (decision().target, decision().rule) == (target, "asked for")


@pytest.mark.parametrize("target", ["auto", "cpu"])
def test_auto_and_cpu_leave_the_choice(target: str) -> None:
    with nbops.use("python"), nbops.use(target):
        nbops.relu(SMALL)
        assert decision().target == "serial"
        nbops.relu(LARGE)
        assert decision().target == "parallel"


def test_a_keyword_goes_before_use() -> None:
    with nbops.use("python"):
        nbops.relu(SMALL, target="serial")
        assert decision().target == "serial"
        nbops.relu(SMALL)
        assert decision().target == "python"


def test_use_nests_and_ends_with_its_block() -> None:
    nbops.relu(SMALL)
    with nbops.use("python"):
        with nbops.use("serial"):
            nbops.relu(SMALL)
            assert decision().target == "serial"
            assert decision().rule == "asked for"
        nbops.relu(SMALL)
        assert decision().target == "python"
    nbops.relu(SMALL)
    assert decision().rule == "small"
    with pytest.raises(KeyError), nbops.use("python"):
        raise KeyError
    nbops.relu(SMALL)
    assert decision().rule == "small"


def test_use_is_per_thread() -> None:
    seen = []

    def work() -> None:
        nbops.relu(SMALL)
        seen.append(decision().rule)

    with nbops.use("python"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == ["small"]


def test_threads_limit_the_workers() -> None:
    with nbops.use(threads=2):
        nbops.relu(LARGE)
        assert decision().workers == 2
    with nbops.use(threads=1):
        nbops.relu(LARGE)
        assert (decision().target, decision().workers) == ("serial", 1)
    with nbops.use(threads=1000):
        nbops.relu(LARGE)
        assert decision().workers == cpu.STATE[cpu.WORKERS]


def test_one_thread_in_a_block_is_forgotten_after_it() -> None:
    x = np.ones((1000, 1001), np.float32)
    with nbops.use(threads=1):
        nbops.sqrt(x)
        assert decision().target == "serial"
    nbops.sqrt(x)
    assert decision().target == "parallel"


def test_strict_refuses_a_fallback() -> None:
    with nbops.use("parallel", strict=True, threads=1), pytest.raises(RuntimeError, match="strict"):
        nbops.relu(SMALL)
    with nbops.use("parallel", threads=1):
        assert nbops.relu(SMALL)[0] == 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: nbops.use("gpu").__enter__(), ValueError, "use: unknown target 'gpu'; expected one of auto"),
        (lambda: nbops.relu(SMALL, target="fast"), ValueError, "target: unknown target 'fast'"),
        (lambda: nbops.use(threads=0).__enter__(), ValueError, "threads is 0; expected at least 1"),
    ],
)
def test_settings_that_do_not_exist(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "ask", [lambda: nbops.use("cuda").__enter__(), lambda: nbops.relu(SMALL, target="cuda")]
)
def test_cuda_that_is_not_there_raises(ask: Any) -> None:
    from nbops.targets import cuda

    if cuda.available():
        pytest.skip("this machine has a GPU that nbops can use")
    with pytest.raises(RuntimeError, match="cuda"):
        ask()


def test_last_decision_is_none_before_the_first_call_of_a_thread() -> None:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(nbops.last_decision()))
    thread.start()
    thread.join()
    assert seen == [None]


# ---- the environment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
def test_nbops_target(run_python: Any, target: str) -> None:
    run_python(
        """
        import sys, numpy as np, nbops
        for _ in range(3):
            assert nbops.add(np.ones(3), 1.0).tolist() == [2, 2, 2]
            assert nbops.last_decision().target == sys.argv[1], nbops.last_decision()
            assert nbops.last_decision().rule == "asked for"
        with nbops.use("auto"):
            nbops.add(np.ones(3), 1.0)
            assert nbops.last_decision().rule == "small"
        """,
        target,
        NBOPS_TARGET=target,
    )


def test_an_unknown_nbops_target_raises(run_python: Any) -> None:
    run_python(
        """
        import numpy as np, nbops
        try:
            nbops.add(np.ones(3), 1.0)
        except ValueError as error:
            assert "NBOPS_TARGET: unknown target 'quick'" in str(error), error
        else:
            raise SystemExit("nothing was raised")
        """,
        NBOPS_TARGET="quick",
    )


def test_one_thread_machine(run_python: Any) -> None:
    run_python(
        """
        import numpy as np, nbops
        x = np.ones(2_000_000, np.float32)
        assert (nbops.add(x, x) == 2).all()
        assert nbops.last_decision().target == "serial" and "one thread" in nbops.last_decision().reason
        with nbops.use("parallel"):
            assert (nbops.add(x, x) == 2).all()
        """,
        NUMBA_NUM_THREADS="1",
    )


# ---- explain ---------------------------------------------------------------------------------------------


def test_explain_says_what_the_call_would_do() -> None:
    a, b = np.ones((4, 300, 200), np.float32), np.ones((200, 100), np.float32)
    told = nbops.explain(nbops.matmul, a, b)
    nbops.matmul(a, b)
    assert told.decision == decision()
    assert told.shapes == ((4, 300, 200), (200, 100), (4, 300, 100))
    assert told.dtypes == ("float32", "float32", "float32")
    assert told.bytes_moved == 4 * (a.size + b.size + 4 * 300 * 100)
    assert told.steps == 4 * 300 * 200 * 100
    assert set(told.microseconds) == {"serial", "parallel"}
    text = str(told)
    for part in ("matmul", "4x300x200", "float32", "target      parallel", "bytes", "predicted", "µs"):
        assert part in text


def test_explain_shows_what_its_times_are_made_of() -> None:
    @nbops.op("(n)->(n)", name="explain_test_halve")
    def halve(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = x[i] * 0.5

    told = nbops.explain(halve, np.ones(1234))
    assert "1,234 of about 1 ns, and 30 ns an item" in str(told)
    assert told.microseconds["serial"] == (told.steps * told.step_nanoseconds + told.item_nanoseconds) / 1e3
    assert "an item" not in str(nbops.explain(nbops.relu, np.ones(1234)))
    assert (
        nbops.explain(nbops.matmul, np.ones((2, 3)), np.ones((3, 4))).step_nanoseconds
        == nbops.matmul.nanoseconds
    )


def test_explain_agrees_with_the_break_even() -> None:
    limit = nbops.explain(nbops.relu, SMALL).break_even_steps
    for size, target in ((limit - 2, "serial"), (limit + 2, "parallel")):
        x = np.ones(size, np.float32)
        told = nbops.explain(nbops.relu, x)
        assert told.decision.target == target
        faster = min(told.microseconds, key=lambda name: told.microseconds[name])
        assert faster == target


def test_each_row_counts() -> None:
    """A thousand short rows take long enough, though they have few elements."""
    rows = np.ones((1000, 3), np.float32)
    nbops.sum(rows, axis=-1)
    assert decision().target == "parallel"
    told = nbops.explain(nbops.vecdot, rows, rows)
    assert "in items of this size" in str(told)
    limit = told.break_even_steps // 3
    for count, target in ((limit - 1, "serial"), (limit, "parallel")):
        assert nbops.explain(nbops.vecdot, rows[:count], rows[:count]).decision.target == target
    assert nbops.explain(nbops.vecdot, rows[:0], rows[:0]).decision.target == "serial"


@pytest.mark.parametrize("start", [0, 10, 1000, 100_000])
def test_explain_tells_one_limit_for_items_of_all_sizes(start: int) -> None:
    told = nbops.explain(nbops.vecdot, np.ones(start), np.ones(start))
    limit = told.break_even_steps
    assert "in items" not in str(told)
    for size, target in ((limit - 1, "serial"), (limit, "parallel")):
        assert nbops.explain(nbops.vecdot, np.ones(size), np.ones(size)).decision.target == target


def test_explain_computes_nothing() -> None:
    """Nor does it count as a call."""
    nbops.relu(SMALL)
    before = nbops.last_decision()
    huge = np.broadcast_to(np.float32(1), (10**6, 10**6))
    assert nbops.explain(nbops.add, huge, 1.0).decision.target == "parallel"
    assert nbops.last_decision() is before


def test_explain_takes_what_the_op_takes() -> None:
    assert nbops.explain(nbops.exp, [1, 2, 3]).dtypes == ("float64", "float64")
    assert nbops.explain(nbops.add, np.ones(2, np.float16), 2).dtypes[-1] == "float32"
    assert nbops.explain(nbops.relu, SMALL, target="python").decision.target == "python"
    with pytest.raises(TypeError, match="expected an op"):
        nbops.explain(3, SMALL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must equal"):
        nbops.explain(nbops.matmul, np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(TypeError, match="expected x, y"):
        nbops.explain(nbops.add, SMALL)


# ---- calibration -----------------------------------------------------------------------------------------


def parallel_wins_from_64_microseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serial time doubles with the size from 1 µs; parallel takes 20 µs more than half of that."""
    sizes = iter(range(1000))

    def times(calls: Any, rounds: int = 51) -> list[float]:
        serial = 1000.0 * 2 ** next(sizes)
        return [serial, 20_000 + serial / 2]

    monkeypatch.setattr(calibration, "_times_ns", times)


def test_calibrate_measures_uses_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path / "new"))
    parallel_wins_from_64_microseconds(monkeypatch)

    result = nbops.calibrate()
    # parallel is ahead from the first doubling above 40 µs: 64 µs, less the 1 µs of the smallest call
    assert result["break_even_ns"] == 63_000
    assert cpu.STATE[cpu.BREAK_EVEN] == 63_000
    assert result["layer"] == cpu.launcher()
    kept = json.loads((tmp_path / "new" / "calibration.json").read_text())
    assert [entry["break_even_ns"] for entry in kept.values()] == [63_000]
    assert calibration.break_even(result["layer"], result["threads"]) == 63_000
    assert (
        calibration.break_even(result["layer"], result["threads"] + 1) == calibration.SHIPPED[result["layer"]]
    )


def test_a_busy_machine_teaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where parallel never wins, the figure in force stays, and nothing is kept for later processes."""
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(calibration, "_times_ns", lambda calls, rounds=51: [1000.0, 1000.0])
    result = nbops.calibrate()
    assert result["break_even_ns"] == calibration.SHIPPED[result["layer"]]
    assert not list(tmp_path.iterdir())
    nbops.relu(LARGE)
    assert decision().target == "parallel"


def test_the_second_of_two_calls_is_timed() -> None:
    calls = []
    times = calibration._times_ns([lambda: calls.append("a"), lambda: calls.append("b")], rounds=3)
    assert calls == list("aabb" * 3)
    assert len(times) == 2


def test_one_thread_calibrates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    with nbops.use(threads=1):
        result = nbops.calibrate()
    assert result["samples"] == []
    assert result["break_even_ns"] == calibration.break_even(result["layer"], result["threads"])
    assert not list(tmp_path.iterdir())


def test_a_real_calibration_is_sensible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    result = nbops.calibrate()
    elements = [sample["elements"] for sample in result["samples"]]
    assert elements == sorted(elements)
    assert all(sample["serial_ns"] > 0 and sample["parallel_ns"] > 0 for sample in result["samples"])
    assert 1 <= result["break_even_ns"] <= sys.maxsize


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"omp-3": {}}',
        '{"omp-3": {"break_even_ns": "many"}}',
        '{"omp-3": {"break_even_ns": -5}}',
        "null",
    ],
)
def test_a_broken_calibration_file_is_ignored(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path))
    (tmp_path / "calibration.json").write_text(content)
    assert calibration.break_even("omp", 3) == calibration.SHIPPED["omp"]
    parallel_wins_from_64_microseconds(monkeypatch)
    nbops.calibrate()
    assert json.loads((tmp_path / "calibration.json").read_text())


def test_a_calibration_that_can_not_be_kept_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path / "file" / "folder"))
    parallel_wins_from_64_microseconds(monkeypatch)
    assert nbops.calibrate()["break_even_ns"] > 0


def test_a_kept_calibration_is_read_by_the_next_process(run_python: Any, tmp_path: Path) -> None:
    layer, threads = cpu.launcher(), int(cpu.STATE[cpu.WORKERS])
    (tmp_path / "calibration.json").write_text(json.dumps({f"{layer}-{threads}": {"break_even_ns": 123_456}}))
    run_python(
        """
        import numpy as np, nbops
        from nbops.targets import cpu
        nbops.relu(np.ones(3))
        assert cpu.STATE[cpu.BREAK_EVEN] == 123_456, cpu.STATE
        """,
        NBOPS_CACHE_DIR=str(tmp_path),
    )
