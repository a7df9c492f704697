"""The dispatcher's rules one by one, on described work: nothing is compiled and nothing runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numba
import pytest

import nbops
from nbops import calibration, dispatch
from nbops.dispatch import Decision, Work, choose, decide, last_decision, predicted_microseconds, use
from nbops.targets import cpu, cuda

SMALL = Work(items=10, steps=10, bytes=80, step_nanoseconds=1.0)
LARGE = Work(items=10_000, steps=20_000, bytes=80_000, step_nanoseconds=1.0)
EDGE = Work(items=10_000, steps=10_000, bytes=80_000, step_nanoseconds=1.0)
ONE_ITEM = Work(items=1, steps=20_000, bytes=80_000, step_nanoseconds=1.0, divisible=False)


@pytest.fixture(autouse=True)
def four_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with four threads, a break-even of 10 µs and a compiler."""
    before = cpu.STATE.copy()
    cpu.STATE[cpu.WORKERS], cpu.STATE[cpu.FORKED], cpu.STATE[cpu.BREAK_EVEN] = 4, 0, 10_000
    monkeypatch.setattr(cpu, "thread_limit", lambda: 64)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    monkeypatch.delenv("NBOPS_TARGET", raising=False)
    nbops.settings._settings_from_environment.cache_clear()
    token = nbops.settings._settings.set(None)
    yield
    nbops.settings._settings.reset(token)
    nbops.settings._settings_from_environment.cache_clear()
    cpu.STATE[:] = before


def test_small_work_is_serial() -> None:
    assert choose(SMALL) == Decision(
        "serial",
        1,
        "small",
        "about 10 ns on one core, under the break-even of a parallel launch (10 µs)",
    )


def test_large_work_is_parallel_from_the_break_even_on() -> None:
    assert choose(LARGE) == Decision(
        "parallel",
        4,
        "large",
        "about 20 µs on one core, over the break-even of a parallel launch (10 µs)",
    )
    assert choose(EDGE).rule == "large"
    assert choose(Work(10_000, 9_999, 80_000, 1.0)).rule == "small"
    assert choose(Work(10_000, 5_000, 80_000, 2.0)).rule == "large"


def test_one_item_that_can_not_be_shared_is_serial() -> None:
    assert choose(ONE_ITEM) == Decision(
        "serial", 1, "one item", "there is one item, and its loop can't be shared between cores"
    )
    assert choose(Work(2, 20_000, 80_000, 1.0, divisible=False)).rule == "large"
    assert choose(Work(1, 20_000, 80_000, 1.0)).rule == "large"
    assert Work(1, 20_000, 80_000, 1.0).divisible is True


def test_two_threads_are_more_than_one() -> None:
    cpu.STATE[cpu.WORKERS] = 2
    assert choose(SMALL).reason.startswith("about 10 ns on one core, under the break-even")
    assert choose(LARGE).workers == 2


def test_one_thread_is_serial_whatever_the_work() -> None:
    cpu.STATE[cpu.WORKERS] = 1
    assert choose(LARGE) == Decision("serial", 1, "small", "one thread is all there is")
    cpu.STATE[cpu.WORKERS], cpu.STATE[cpu.FORKED] = 4, 1
    assert choose(LARGE).reason == "one thread is all there is"


def test_without_a_compiler_the_interpreter_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    wanted = Decision("python", 1, "no compiler", "NUMBA_DISABLE_JIT is set")
    assert choose(LARGE) == wanted
    assert choose(LARGE, "parallel") == wanted


@pytest.mark.parametrize(("target", "workers"), [("python", 1), ("serial", 1), ("parallel", 4)])
def test_what_is_asked_for_is_chosen(target: str, workers: int) -> None:
    wanted = Decision(target, workers, "asked for", f"target {target!r} was asked for")
    assert choose(SMALL, target) == wanted
    with use(target):
        assert choose(SMALL) == wanted
        assert choose(SMALL, "auto").rule == "small"


@pytest.mark.parametrize("target", ["auto", "cpu"])
def test_auto_and_cpu_leave_the_choice(target: str) -> None:
    with use("python"):
        assert choose(LARGE, target).rule == "large"


def test_threads_are_a_limit() -> None:
    with use(threads=3):
        assert choose(LARGE).workers == 3
    with use(threads=9):
        assert choose(LARGE).workers == 4
    with use(threads=1):
        assert choose(LARGE).rule == "small"
    for count in (1.5, "2"):
        with pytest.raises(TypeError, match=f"threads is {count!r}; expected an integer"), use(threads=count):
            pass
    with pytest.raises(ValueError, match="threads is 0; expected at least 1"), use(threads=0):
        pass


def test_strict_raises_where_parallel_can_not_be() -> None:
    with use("parallel", threads=1):
        assert choose(LARGE).workers == 1
    with use("parallel", threads=1, strict=True), pytest.raises(RuntimeError, match=r"one thread.*strict"):
        choose(LARGE)
    with use("parallel", strict=True):
        assert choose(LARGE).workers == 4
    with use("serial", threads=1, strict=True):
        assert choose(LARGE).target == "serial"


def test_blocks_nest_and_inherit() -> None:
    with use("serial", threads=2, strict=True):
        with use("parallel"):
            settings = dispatch.settings()
            assert (settings.target, settings.threads, settings.strict) == ("parallel", 2, True)
        with use(threads=3, strict=False):
            settings = dispatch.settings()
            assert (settings.target, settings.threads, settings.strict) == ("serial", 3, False)
        assert dispatch.settings().target == "serial"
    settings = dispatch.settings()
    assert (settings.target, settings.threads, settings.strict) == ("auto", None, False)
    assert nbops.settings._settings.get() is None


def test_a_block_ends_with_an_exception_too() -> None:
    with pytest.raises(KeyError), use("python"):
        raise KeyError
    assert dispatch.settings().target == "auto"


def test_open_blocks_are_counted() -> None:
    """While there is one, the short way looks at the settings."""
    before = int(cpu.STATE[cpu.IN_USE])
    with use("serial"):
        assert cpu.STATE[cpu.IN_USE] == before + 1
        with use(threads=2):
            assert cpu.STATE[cpu.IN_USE] == before + 2
        assert cpu.STATE[cpu.IN_USE] == before + 1
    assert cpu.STATE[cpu.IN_USE] == before


def test_settings_hold_elsewhere() -> None:
    """As Dask's tasks take them from where their graph was made."""
    with use("serial", threads=2):
        asked = dispatch.chosen_here()
    before = int(cpu.STATE[cpu.IN_USE])
    with dispatch.in_force(None):
        assert (dispatch.settings().target, cpu.STATE[cpu.IN_USE]) == ("auto", before)
    with dispatch.in_force(asked):
        assert (dispatch.settings(), cpu.STATE[cpu.IN_USE]) == (asked, before + 1)
        assert dispatch.available_threads() == 2
    assert (dispatch.settings().target, cpu.STATE[cpu.IN_USE]) == ("auto", before)
    with pytest.raises(KeyError), dispatch.in_force(asked):
        raise KeyError
    assert (dispatch.settings().target, cpu.STATE[cpu.IN_USE]) == ("auto", before)


# ---- a GPU, as the rules see it --------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A GPU that takes as many microseconds as the list says."""
    there = [4.0]
    monkeypatch.setattr(cuda, "available", lambda: True)
    monkeypatch.setattr(cuda, "predicted_microseconds", lambda work: there[0])
    monkeypatch.setattr(dispatch, "_warned", set())
    return there


def test_what_is_worth_the_copy_goes_to_the_gpu(gpu: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu[0] = 4.994
    assert choose(LARGE._replace(steps=20_176)) == Decision(  # 12.544 µs on four cores
        "cuda", 1, "worth the copy", "about 4.99 µs on the GPU with 80,000 bytes to copy, 12.5 µs on the CPU"
    )
    assert choose(LARGE, "cpu").rule == "large"
    gpu[0] = 12.5
    assert choose(LARGE).rule == "large"  # the CPU, where both take as long
    gpu[0] = 15.0
    assert choose(LARGE._replace(items=1)).rule == "large"  # one item, in shares
    assert choose(ONE_ITEM).rule == "worth the copy"  # one core takes 20 µs
    assert choose(ONE_ITEM._replace(items=2)).rule == "large"
    gpu[0] = 1.0
    monkeypatch.setattr(cuda, "available", lambda: False)
    assert choose(LARGE).rule == "large"


def test_where_the_gpu_has_no_room_the_cpu_runs_the_call(gpu: list[float]) -> None:
    failed, error = choose(LARGE), MemoryError("no room")
    with pytest.warns(RuntimeWarning, match=r"no room for 80,000 bytes.*strict=True.* raises") as caught:
        decision = dispatch.decide_again(LARGE, failed, error)
    assert caught[0].filename == __file__
    assert (decision.target, decision.workers, decision.rule) == ("parallel", 4, "out of memory")
    assert decision.reason.startswith("the GPU has no room for 80,000 bytes; the CPU runs the call (about 20")
    assert last_decision() is decision
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert dispatch.decide_again(SMALL, failed, error).target == "serial"
    with (
        use(strict=True),
        pytest.raises(MemoryError, match=r"'cuda' has no room for 80 bytes \(strict\)") as told,
    ):
        dispatch.decide_again(SMALL, failed, error)
    assert told.value.__cause__ is error


def test_device_arrays_stay_where_they_are() -> None:
    dispatch.decide_device_array("relu", "Tensor")
    assert last_decision() == Decision("cuda", 1, "a device array", "a Tensor stays on its GPU")
    for target in ("cpu", "serial"):
        with use(target), pytest.raises(RuntimeError, match=f"relu: target '{target}' was asked for, but"):
            dispatch.decide_device_array("relu", "Tensor")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(target: str) -> None:
        raise RuntimeError(f"no {target} here")

    monkeypatch.setattr(cuda, "require", refuse)
    with pytest.raises(RuntimeError, match="no cuda here"):
        choose(SMALL, "cuda")
    assert choose(SMALL, "serial").target == "serial"


def test_settings_of_a_gpu() -> None:
    with (
        pytest.raises(ValueError, match="compute_capability goes with 'cuda-emulator'"),
        use("serial", compute_capability=(8, 0)),
    ):
        pass
    assert dispatch.settings().tf32 is False
    with use(tf32=True) as device:
        assert device is None
        with use("serial"):
            assert dispatch.settings().tf32 is True
        with use(tf32=False):
            assert dispatch.settings().tf32 is False


def test_the_environment_chooses_outside_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBOPS_TARGET", "python")
    nbops.settings._settings_from_environment.cache_clear()
    assert choose(LARGE).target == "python"
    with use("serial"):
        assert choose(LARGE).target == "serial"
    monkeypatch.setenv("NBOPS_TARGET", "")
    nbops.settings._settings_from_environment.cache_clear()
    assert choose(LARGE).target == "parallel"
    monkeypatch.setenv("NBOPS_TARGET", "quick")
    nbops.settings._settings_from_environment.cache_clear()
    with pytest.raises(ValueError, match="NBOPS_TARGET: unknown target 'quick'; expected one of auto, cpu"):
        choose(LARGE)


def test_unknown_targets() -> None:
    with pytest.raises(ValueError, match="use: unknown target 'gpu'"), use("gpu"):
        pass
    with pytest.raises(ValueError, match="target: unknown target 'gpu'"):
        choose(SMALL, "gpu")


def test_decisions_are_remembered_and_choices_are_not() -> None:
    made = decide(SMALL)
    assert last_decision() is made
    choose(LARGE)
    assert last_decision() is made
    assert decide(SMALL, "python") is last_decision()
    assert nbops.last_decision() == Decision("python", 1, "asked for", "target 'python' was asked for")


def test_tensors_go_to_tensorflow() -> None:
    dispatch.decide_tensorflow("relu")
    assert last_decision() == Decision(
        "tensorflow", 1, "a TensorFlow value", "its registered op, on its device"
    )
    for target in ("auto", "cpu"):
        with use(target, strict=True):
            dispatch.decide_tensorflow("relu")
    with use("serial"):
        dispatch.decide_tensorflow("relu")
    with use("serial", strict=True), pytest.raises(RuntimeError, match="relu: target 'serial' was asked for"):
        dispatch.decide_tensorflow("relu")


def test_predictions() -> None:
    """At the break-even both take as long: 10 µs."""
    assert SMALL.serial_nanoseconds == 10.0
    assert Work(1, 6, 0, 1.5).serial_nanoseconds == 9.0
    assert Work(2, 6, 0, 1.5, item_nanoseconds=30.0).serial_nanoseconds == 69.0
    assert predicted_microseconds(LARGE, 1) == 20.0
    assert predicted_microseconds(LARGE, 0) == 20.0
    assert predicted_microseconds(EDGE, 4) == pytest.approx(10.0)
    assert predicted_microseconds(LARGE, 4) == pytest.approx(10 * 0.75 + 5)
    assert predicted_microseconds(LARGE, 2) == pytest.approx(5 + 10)


def test_the_first_question_starts_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for ask in (lambda: choose(LARGE), lambda: predicted_microseconds(LARGE, 2)):
        started: list[int] = []
        monkeypatch.setattr(cpu, "start_threads", lambda started=started: started.append(1) or 3)
        monkeypatch.setattr(cpu, "launcher", lambda: "tbb")
        monkeypatch.setattr(
            calibration, "break_even", lambda layer, threads: {("tbb", 3): 777}[layer, threads]
        )
        cpu.STATE[cpu.BREAK_EVEN] = 0
        ask()
        ask()
        assert started == [1]
        assert cpu.STATE[cpu.BREAK_EVEN] == 777


def test_a_decision_can_not_be_changed() -> None:
    """The short way's calls share one."""
    with pytest.raises(AttributeError, match="cannot assign to field 'target'"):
        choose(SMALL).target = "cuda"  # type: ignore[misc]


def test_the_last_rule_always_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "RULES", ())
    with pytest.raises(AssertionError, match="the last rule always answers"):
        choose(SMALL)
