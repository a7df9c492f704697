"""Which target runs a call: an ordered list of rules; the first that answers wins, and says why.

====================  =====================================================================================
no compiler           the interpreter, where ``NUMBA_DISABLE_JIT`` is set
asked for             ``target=``, ``use("serial")`` or ``NBOPS_TARGET``; what is not there raises
a TensorFlow value    its registered op, on TensorFlow's device (decided in `nbops.Op`, before this list)
a device array        the GPU that it is on; nothing is copied silently (decided in `nbops.Op`, too)
worth the copy        cuda: transfer, launch and compute are predicted to take less than on the CPU
small                 serial: the call takes less than the measured break-even of a parallel launch
one item              serial: there is one item, and nothing in it can be shared
large                 parallel
====================  =====================================================================================

Where the GPU has no room for a call after all, the CPU runs it, with one warning: the rule ``out of memory``.
Under ``strict`` the call raises instead.

`explain` shows the answer before a call, `last_decision` after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple

import numba

from nbops import calibration
from nbops.durations import duration
from nbops.settings import TARGETS, Settings, checked_target, chosen_here, in_force, recorder, settings, use
from nbops.targets import cpu, cuda

__all__ = [
    "TARGETS",
    "Decision",
    "Work",
    "available_threads",
    "choose",
    "chosen_here",
    "decide",
    "in_force",
    "last_decision",
    "predicted_microseconds",
    "settings",
    "start",
    "use",
]


class Work(NamedTuple):
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
    item_nanoseconds : float
        What an item takes besides its iterations.
    """

    items: int
    steps: int
    bytes: int
    step_nanoseconds: float
    divisible: bool = True
    item_nanoseconds: float = 0.0

    @property
    def serial_nanoseconds(self) -> float:
        return self.items * self.item_nanoseconds + self.steps * self.step_nanoseconds


@dataclass(frozen=True)
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

    Examples
    --------
    >>> import numpy as np, nbops
    >>> nbops.explain(nbops.add, np.ones(10), np.ones(10), target="serial").decision
    Decision(target='serial', workers=1, rule='asked for', reason="target 'serial' was asked for")
    """

    target: str
    workers: int
    rule: str
    reason: str


def may_repeat(decision: Decision) -> bool:
    """Whether a call like one for which this was decided, with the same settings, needs no new look."""
    if recorder() is not None or settings().strict:
        return False
    return decision.rule in ("small", "one item", "large") or (
        decision.rule == "asked for" and decision.target in ("serial", "parallel")
    )


_last: ContextVar[Decision | None] = ContextVar("nbops_last_decision", default=None)
#: What `nbops.repeat` sets from compiled code.
decision_variable = _last


def available_threads() -> int:
    """The threads that a call may use here."""
    return _workers(settings())


def last_decision() -> Decision | None:
    """What the dispatcher decided for this thread's last call; None before the first.

    Returns
    -------
    Decision or None

    Examples
    --------
    >>> import numpy as np, nbops
    >>> with nbops.use("serial"):
    ...     y = nbops.relu(np.array([-1.0, 2.0]))
    >>> nbops.last_decision().target, nbops.last_decision().rule
    ('serial', 'asked for')
    """
    return _last.get()


def _interpreted(work: Work, asked: Settings) -> Decision | None:
    if not numba.config.DISABLE_JIT:
        return None
    return Decision("python", 1, "no compiler", "NUMBA_DISABLE_JIT is set")


def _asked_for(work: Work, asked: Settings) -> Decision | None:
    if asked.target in ("auto", "cpu"):
        return None
    workers = _workers(asked) if asked.target == "parallel" else 1
    if asked.strict and asked.target == "parallel" and workers == 1:
        raise RuntimeError("target 'parallel' was asked for, but one thread is all there is (strict)")
    return Decision(asked.target, workers, "asked for", f"target {asked.target!r} was asked for")


def _worth_the_copy(work: Work, asked: Settings) -> Decision | None:
    if asked.target == "cpu" or not cuda.available():
        return None
    there = cuda.predicted_microseconds(work)
    here = predicted_microseconds(work, _workers(asked) if work.items > 1 or work.divisible else 1)
    if there >= here:
        return None
    return Decision(
        "cuda",
        1,
        "worth the copy",
        f"about {duration(there * 1e3)} on the GPU with {work.bytes:,} bytes to copy, "
        f"{duration(here * 1e3)} on the CPU",
    )


def _small(work: Work, asked: Settings) -> Decision | None:
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
        f"about {duration(work.serial_nanoseconds)} on one core, under the break-even of a "
        f"parallel launch ({duration(limit)})",
    )


def _one_item(work: Work, asked: Settings) -> Decision | None:
    if work.items > 1 or work.divisible:
        return None
    return Decision("serial", 1, "one item", "there is one item, and its loop can't be shared between cores")


def _large(work: Work, asked: Settings) -> Decision:
    return Decision(
        "parallel",
        _workers(asked),
        "large",
        f"about {duration(work.serial_nanoseconds)} on one core, over the break-even of a "
        f"parallel launch ({duration(int(cpu.STATE[cpu.BREAK_EVEN]))})",
    )


RULES: tuple[Callable[[Work, Settings], Decision | None], ...] = (
    _interpreted,
    _asked_for,
    _worth_the_copy,
    _small,
    _one_item,
    _large,
)


def _workers(asked: Settings) -> int:
    if not cpu.STATE[cpu.BREAK_EVEN]:
        start()
    available = 1 if cpu.STATE[cpu.FORKED] else min(int(cpu.STATE[cpu.WORKERS]), cpu.thread_limit())
    return available if asked.threads is None else min(available, asked.threads)


def start() -> None:
    """Start the threads and read the calibration; the first call does it."""
    threads = cpu.start_threads()
    cpu.STATE[cpu.BREAK_EVEN] = calibration.break_even(cpu.launcher(), threads)


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
        asked = asked._replace(target=checked_target(target, "target"))
    for rule in RULES:
        decision = rule(work, asked)
        if decision is not None:
            return decision
    raise AssertionError("the last rule always answers")


def decide(work: Work, target: str | None = None) -> Decision:
    """`choose`, for a call that is made: `last_decision` will tell it."""
    decision = choose(work, target)
    _last.set(decision)
    return decision


_warned: set[str] = set()


def decide_again(work: Work, failed: Decision, error: MemoryError) -> Decision:
    """The CPU's decision for a call for which the GPU had no room; warns once.

    Raises
    ------
    MemoryError
        Under `strict`.
    """
    decision = _without_room(work, failed, error)
    if failed.target not in _warned:
        _warned.add(failed.target)
        warnings.warn(f"{decision.reason}; use(strict=True) raises instead", RuntimeWarning, stacklevel=2)
    _last.set(decision)
    return decision


def _without_room(work: Work, failed: Decision, error: MemoryError | None = None) -> Decision:
    if settings().strict:
        raise MemoryError(
            f"target {failed.target!r} has no room for {work.bytes:,} bytes (strict)"
        ) from error
    instead = choose(work, "cpu")
    reason = f"the GPU has no room for {work.bytes:,} bytes; the CPU runs the call ({instead.reason})"
    return replace(instead, rule="out of memory", reason=reason)


def foreseen(work: Work, target: str | None = None) -> Decision:
    """`choose`, for a call that is not made: what would become of it where the GPU has no room.

    Raises
    ------
    MemoryError
        Under `strict`, as the call would.
    """
    decision = choose(work, target)
    if decision.target in cuda.TARGETS and not cuda.has_room(work, decision.target):
        return _without_room(work, decision)
    return decision


def decide_device_array(name: str, kind: str) -> None:
    """Record that a call on device arrays runs where they are.

    Raises
    ------
    RuntimeError
        When a target of the CPU was asked for.
    """
    asked = settings()
    if asked.target not in ("auto", *cuda.TARGETS):
        raise RuntimeError(
            f"{name}: target {asked.target!r} was asked for, but the operands are on the GPU; copy them to "
            "the CPU first (cupy.asnumpy(x), x.cpu(), x.copy_to_host()), or use target 'auto'"
        )
    _last.set(on_its_device(kind))


def on_its_device(kind: str) -> Decision:
    """The decision for arrays that are on a GPU, of a class of this name."""
    return Decision("cuda", 1, "a device array", f"a {kind} stays on its GPU")


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
    _last.set(Decision("tensorflow", 1, "a TensorFlow value", "its registered op, on its device"))


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
