"""Which target runs a call: an ordered list of rules; the first that answers wins, and says why.

====================  =====================================================================================
no compiler           the interpreter, where ``NUMBA_DISABLE_JIT`` is set
asked for             ``target=``, ``use("serial")`` or ``NBOPS_TARGET``; what is not there raises
a TensorFlow value    its registered op, on TensorFlow's device (decided in `nbops.op`, before this list)
small                 serial: the call takes less than the measured break-even of a parallel launch
one item              serial: there is one item, and its loop has no ``prange``
large                 parallel
====================  =====================================================================================

The GPU's rules (a device array stays on its device; a copy must be worth it) come with the CUDA target, whose
seam is `nbops.targets.cuda`. `explain` shows the answer before the call, `last_decision` after it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import numba

from nbops import calibration
from nbops.targets import cpu, cuda

__all__ = [
    "Decision",
    "Work",
    "choose",
    "decide",
    "last_decision",
    "predicted_microseconds",
    "settings",
    "start",
    "use",
]

TARGETS = ("auto", "cpu", "python", "serial", "parallel", "cuda")


@dataclass(frozen=True, slots=True)
class Work:
    """What a call has to do, as far as it can be known before it runs.

    Parameters
    ----------
    items : int
        Independent batch items (elements, for an elementwise op).
    steps : int
        Innermost iterations of the loop.
    bytes : int
        Bytes read and written, each operand once.
    step_nanoseconds : float
        What one innermost iteration takes on one core.
    divisible : bool
        Whether a single item can be shared between cores.
    """

    items: int
    steps: int
    bytes: int
    step_nanoseconds: float
    divisible: bool = True

    @property
    def serial_nanoseconds(self) -> float:
        return self.steps * self.step_nanoseconds


@dataclass(frozen=True, slots=True)
class Decision:
    """A target and the reason for it.

    Parameters
    ----------
    target : str
        ``"python"``, ``"serial"``, ``"parallel"``, or ``"tensorflow"``.
    workers : int
        Threads that may take part.
    rule : str
        The rule that answered.
    reason : str
        Why, in one sentence.
    """

    target: str
    workers: int
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Settings:
    target: str = "auto"
    strict: bool = False
    threads: int | None = None


@functools.cache
def _settings_from_environment() -> _Settings:
    target = os.environ.get("NBOPS_TARGET", "auto") or "auto"
    return _Settings(target=_checked(target, "NBOPS_TARGET"))


def _checked(target: str, source: str) -> str:
    if target not in TARGETS:
        raise ValueError(f"{source}: unknown target {target!r}; expected one of {', '.join(TARGETS)}")
    if target == "cuda":
        cuda.require()
    return target


_settings: ContextVar[_Settings | None] = ContextVar("nbops_settings", default=None)
_last: ContextVar[Decision | None] = ContextVar("nbops_last_decision", default=None)


#: The innermost `use`'s settings, or None outside every one: the hot path's question.
chosen_here = _settings.get
remember_decision = _last.set


def settings() -> _Settings:
    """What is in force here: the innermost `use`, else the environment."""
    return _settings.get() or _settings_from_environment()


@contextmanager
def use(
    target: str | None = None, *, strict: bool | None = None, threads: int | None = None
) -> Iterator[None]:
    """Choose the target, or limit the threads, of every call in a ``with`` block.

    Parameters
    ----------
    target : {"auto", "cpu", "python", "serial", "parallel", "cuda"}, optional
        ``cpu`` leaves the choice between serial and parallel to the dispatcher.
    strict : bool, optional
        Raise where a target that was asked for would have to be replaced by another.
    threads : int, optional
        At most so many threads. Results do not depend on it.

    Raises
    ------
    ValueError
        For an unknown target or a number of threads below 1.
    RuntimeError
        For ``"cuda"`` where no GPU can be used.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> with nbops.use("python"):
    ...     nbops.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    if threads is not None and threads < 1:
        raise ValueError(f"use: threads is {threads}; expected at least 1")
    current = settings()
    changed = replace(
        current,
        target=current.target if target is None else _checked(target, "use"),
        strict=current.strict if strict is None else strict,
        threads=current.threads if threads is None else threads,
    )
    token = _settings.set(changed)
    try:
        yield
    finally:
        _settings.reset(token)


def last_decision() -> Decision | None:
    """What the dispatcher decided for this thread's last call on arrays; None before the first."""
    return _last.get()


def _interpreted(work: Work, asked: _Settings) -> Decision | None:
    if not numba.config.DISABLE_JIT:
        return None
    return Decision("python", 1, "no compiler", "NUMBA_DISABLE_JIT is set")


def _asked_for(work: Work, asked: _Settings) -> Decision | None:
    if asked.target in ("auto", "cpu"):
        return None
    workers = _workers(asked) if asked.target == "parallel" else 1
    if asked.strict and asked.target == "parallel" and workers == 1:
        raise RuntimeError("target 'parallel' was asked for, but one thread is all there is (strict)")
    return Decision(asked.target, workers, "asked for", f"target {asked.target!r} was asked for")


def _small(work: Work, asked: _Settings) -> Decision | None:
    workers = _workers(asked)
    limit = int(cpu.STATE[cpu.BREAK_EVEN])
    if workers > 1 and work.serial_nanoseconds >= limit:
        return None
    if workers <= 1:
        return Decision("serial", 1, "small", "one thread is all there is")
    return Decision(
        "serial",
        1,
        "small",
        f"about {work.serial_nanoseconds / 1e3:.3g} µs on one core, under the break-even of a "
        f"parallel launch ({limit / 1e3:.3g} µs)",
    )


def _one_item(work: Work, asked: _Settings) -> Decision | None:
    if work.items > 1 or work.divisible:
        return None
    return Decision("serial", 1, "one item", "there is one item, and its loop can't be shared between cores")


def _large(work: Work, asked: _Settings) -> Decision:
    return Decision(
        "parallel",
        _workers(asked),
        "large",
        f"about {work.serial_nanoseconds / 1e3:.3g} µs on one core, over the break-even of a "
        f"parallel launch ({int(cpu.STATE[cpu.BREAK_EVEN]) / 1e3:.3g} µs)",
    )


RULES: tuple[Callable[[Work, _Settings], Decision | None], ...] = (
    _interpreted,
    _asked_for,
    _small,
    _one_item,
    _large,
)


def _workers(asked: _Settings) -> int:
    if not cpu.STATE[cpu.BREAK_EVEN]:
        start()
    available = 1 if cpu.STATE[cpu.FORKED] else int(cpu.STATE[cpu.WORKERS])
    return available if asked.threads is None else min(available, asked.threads)


def start() -> None:
    """Start the threads and read the calibration; the first call does it."""
    threads = cpu.start_threads()
    cpu.STATE[cpu.BREAK_EVEN] = calibration.break_even(cpu.threading_layer(), threads)


def choose(work: Work, target: str | None = None) -> Decision:
    """The first rule's answer.

    Parameters
    ----------
    work : Work
    target : str, optional
        Overrides `use` for this call.
    """
    asked = settings()
    if target is not None:
        asked = replace(asked, target=_checked(target, "target"))
    for rule in RULES:
        decision = rule(work, asked)
        if decision is not None:
            return decision
    raise AssertionError("the last rule always answers")


def decide(work: Work, target: str | None = None) -> Decision:
    """`choose`, for a call that is made: `last_decision` will tell it."""
    decision = choose(work, target)
    remember_decision(decision)
    return decision


def decide_tensorflow(name: str) -> None:
    """Record that a call on tensors goes to TensorFlow, whose kernel chooses between serial and parallel.

    Raises
    ------
    RuntimeError
        Under `strict`, when another target was asked for.
    """
    asked = settings()
    if asked.strict and asked.target not in ("auto", "cpu"):
        raise RuntimeError(
            f"{name}: target {asked.target!r} was asked for, but a TensorFlow value runs where TensorFlow "
            "places it (strict)"
        )
    remember_decision(Decision("tensorflow", 1, "a TensorFlow value", "its registered op, on its device"))


def predicted_microseconds(work: Work, workers: int) -> float:
    """How long a call should take on so many threads, without the cost of the Python call."""
    serial = work.serial_nanoseconds / 1e3
    if workers <= 1:
        return serial
    if not cpu.STATE[cpu.BREAK_EVEN]:
        start()
    # At the break-even b, launch + b / workers = b.
    launch = int(cpu.STATE[cpu.BREAK_EVEN]) / 1e3 * (1 - 1 / workers)
    return launch + serial / workers
