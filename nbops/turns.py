"""One process compiles a kernel; the others that need it wait for its file.

Where many processes start on an empty cache (a job of a cluster, the workers of a server), each would
compile the same: seconds of a core, and twice the memory of a process that loads. So who compiles holds a
lock. It is the system's (``flock``), which also ends with its process. Nobody depends on it: without
locks, and after waiting for a minute, a process compiles for itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["TakenError", "try_lock", "turn", "wait_for_nobody", "without_waiting"]

#: A minute. Looks are counted, and not seconds: a machine may stop all its processes for a while.
LOOKS, PAUSE_SECONDS = 3000, 0.02


class TakenError(Exception):
    """Another process is compiling what was asked for."""


_waits = True


def wait_for_nobody() -> None:
    """From now on `turn` raises `TakenError` in this process, where it would wait."""
    global _waits
    _waits = False


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Inside, under Numba's lock, the same: for who has something else to compile meanwhile."""
    global _waits
    usual, _waits = _waits, False
    try:
        yield
    finally:
        _waits = usual


def try_lock(path: Path) -> int | None:
    """An open file whose lock nobody else has; None where that can't be had."""
    file = _open(path)
    if file is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _open(path: Path) -> int | None:
    """A file to be locked; None where the folder is read-only, or the system has no such locks."""
    try:
        return None if fcntl is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        return None


@contextlib.contextmanager
def turn(kept: Path) -> Iterator[None]:
    """Inside, this process may compile what `kept` is to have; or another one has, and `kept` is there.

    Parameters
    ----------
    kept : Path
        The file of a compiled kernel.

    Raises
    ------
    TakenError
        Where another process has the turn, after `wait_for_nobody` or in `without_waiting`.
    """
    lock = kept.with_suffix(".lock")
    file = _open(lock)
    if file is None:
        yield
        return
    held = False
    try:
        held = _wait(file, kept)
        yield
    finally:
        if held:
            with contextlib.suppress(OSError):  # whoever opened it before finds `kept`
                lock.unlink()
            fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile has the file open, too
        os.close(file)


def _wait(file: int, kept: Path) -> bool:
    """Whether this process holds the lock, once it does or need not."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:  # another process compiles
            if not _waits:
                raise TakenError(kept.name) from None
        except OSError:  # a file system without locks
            return False
        if kept.exists():
            return False
        time.sleep(PAUSE_SECONDS)
    return False
