"""What is asked of calls, with `use` or ``NBOPS_TARGET``; the rules of `nbops.dispatch` read it."""

from __future__ import annotations

import functools
import operator
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from nbops.forks import after_in_child
from nbops.targets import cpu, cuda

__all__ = [
    "TARGETS",
    "Settings",
    "checked_target",
    "chosen_here",
    "in_force",
    "recorded",
    "recorder",
    "recording",
    "settings",
    "settings_variable",
    "use",
]

TARGETS = ("auto", "cpu", "python", "serial", "parallel", *cuda.TARGETS)


class Settings(NamedTuple):
    target: str = "auto"
    strict: bool = False
    threads: int | None = None
    device: Any = None
    tf32: bool = False


@functools.cache
def _settings_from_environment() -> Settings:
    target = os.environ.get("NBOPS_TARGET", "auto") or "auto"
    return Settings(target=checked_target(target, "NBOPS_TARGET"))


def checked_target(target: str, source: str) -> str:
    if target not in TARGETS:
        raise ValueError(f"{source}: unknown target {target!r}; expected one of {', '.join(TARGETS)}")
    if target in cuda.TARGETS:
        cuda.require(target)
    return target


def _checked_threads(threads: int) -> int:
    try:
        count = operator.index(threads)
    except TypeError:
        raise TypeError(f"use: threads is {threads!r}; expected an integer") from None
    if count < 1:
        raise ValueError(f"use: threads is {count}; expected at least 1")
    return count


_settings: ContextVar[Settings | None] = ContextVar("nbops_settings", default=None)
recording: ContextVar[Callable[..., Any] | None] = ContextVar("nbops_recording", default=None)
#: What `nbops.repeat` reads from compiled code.
settings_variable = _settings
_counting = threading.Lock()
#: What takes every call's place here, or None: `nbops.explain` follows a function's calls with it.
recorder = recording.get
#: The innermost `use`'s settings, or None outside every one.
chosen_here = _settings.get


def settings() -> Settings:
    """What is in force here: the innermost `use`, else the environment."""
    return _settings.get() or _settings_from_environment()


@contextmanager
def use(
    target: str | None = None,
    *,
    strict: bool | None = None,
    threads: int | None = None,
    compute_capability: tuple[int, int] | None = None,
    tf32: bool | None = None,
) -> Iterator[Any]:
    """Choose the target, or limit the threads, of every call in a ``with`` block.

    Parameters
    ----------
    target : {"auto", "cpu", "python", "serial", "parallel", "cuda", "cuda-emulator"}, optional
        ``cpu`` leaves the choice between serial and parallel to the dispatcher. ``cuda-emulator`` executes
        CUDA kernels on the CPU, checks every access, and counts.
    strict : bool, optional
        Raise where a target that was asked for would have to be replaced by another.
    threads : int, optional
        At most so many threads. Results do not depend on it.
    compute_capability : tuple of 2 int, optional
        Of the GPU that is emulated; ``NBOPS_COMPUTE_CAPABILITY``, or (9, 0), unless given.
    tf32 : bool, optional
        Let matrix products of float32 arrays run on a GPU's tensor cores, which round every operand to 11
        significant bits (relative error 2**-11 instead of 2**-24) and add in float32. Never unless asked for;
        GPUs before compute capability 8.0 have no such units and ignore it.

    Yields
    ------
    device or None
        The GPU, real or emulated: ``report()`` tells what has run on it. None for a CPU's target.

    Raises
    ------
    ValueError
        For an unknown target, a number of threads below 1, or a compute capability without the emulator.
    TypeError
        For a number of threads that is no integer.
    RuntimeError
        For a CUDA target where it can't be used; the message says what to install.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> with nbops.use("python"):
    ...     nbops.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    if threads is not None:
        threads = _checked_threads(threads)
    if compute_capability is not None and target != "cuda-emulator":
        raise ValueError("use: compute_capability goes with 'cuda-emulator'; a GPU has its own")
    current = settings()
    device = current.device
    if target is not None:
        checked_target(target, "use")
        device = cuda.new_device(target, compute_capability) if target in cuda.TARGETS else None
    changed = current._replace(
        target=target or current.target,
        strict=current.strict if strict is None else strict,
        threads=current.threads if threads is None else threads,
        device=device,
        tf32=current.tf32 if tf32 is None else tf32,
    )
    token = _settings.set(_known(changed))
    _count_users(1)
    try:
        yield device
    finally:
        _count_users(-1)
        _settings.reset(token)


def _known(asked: Settings) -> Settings:
    """The same object for equal settings, by which `nbops.repeat` knows them.

    Those of a device, and those under `recorded`, are a block's own: no call there may be one of `repeat`'s.
    """
    return _kept(asked) if asked.device is None and recorder() is None else asked


@functools.cache
def _kept(asked: Settings) -> Settings:
    return asked


@contextmanager
def recorded(record: Callable[..., Any]) -> Iterator[None]:
    """Every call goes to `record`; none takes the short way past it, for no earlier call had its settings."""
    token = recording.set(record)
    try:
        with use():
            yield
    finally:
        recording.reset(token)


def _count_users(change: int) -> None:
    """Say in `cpu.STATE` how many blocks there are; inside any, the short way looks at the settings."""
    with _counting:
        cpu.STATE[cpu.IN_USE] += change


@after_in_child
def _count_anew() -> None:
    """The lock may have been taken by a thread that the child does not have; the count is as it was."""
    global _counting
    _counting = threading.Lock()


@contextmanager
def in_force(asked: Settings | None) -> Iterator[None]:
    """Settings taken from `chosen_here` elsewhere, in force here; nothing changes for None."""
    if asked is None:
        yield
        return
    token = _settings.set(_known(asked))
    _count_users(1)
    try:
        yield
    finally:
        _count_users(-1)
        _settings.reset(token)
