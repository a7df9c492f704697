"""One process compiles: who waits, for what, and where nobody can."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbops import turns
from nbops.turns import turn


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "relu.nbc"


@pytest.fixture
def taken(kept: Path) -> Iterator[int]:
    """Another holds the lock."""
    file = os.open(kept.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    yield file
    os.close(file)


def entered(kept: Path) -> tuple[threading.Thread, threading.Event]:
    """A thread that takes its turn, and what it sets then."""
    inside = threading.Event()

    def take() -> None:
        with turn(kept):
            inside.set()

    thread = threading.Thread(target=take)
    thread.start()
    return thread, inside


def test_nothing_is_left_behind(kept: Path) -> None:
    with turn(kept):
        assert [file.name for file in kept.parent.iterdir()] == ["relu.lock"]
    assert list(kept.parent.iterdir()) == []


def test_who_has_other_work_does_not_wait(kept: Path, taken: int) -> None:
    with turns.without_waiting(), pytest.raises(turns.TakenError, match=r"relu\.nbc"), turn(kept):
        pass
    thread, inside = entered(kept)  # and waits afterwards, as before
    assert not inside.wait(0.2)
    fcntl.flock(taken, fcntl.LOCK_UN)
    assert inside.wait(60)
    thread.join()


def test_the_second_waits_for_the_first_ones_end(kept: Path) -> None:
    """It may have failed to compile; then the next one tries."""
    with contextlib.suppress(ArithmeticError), turn(kept):
        thread, inside = entered(kept)
        assert not inside.wait(0.2)
        raise ArithmeticError
    assert inside.wait(60)
    thread.join()


def test_the_file_ends_the_waiting(kept: Path, taken: int) -> None:
    thread, inside = entered(kept)
    assert not inside.wait(0.2)
    kept.write_bytes(b"machine code")
    assert inside.wait(60)
    thread.join()
    assert kept.with_suffix(".lock").exists()  # its owner removes it


def test_nobody_waits_for_ever(kept: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LOOKS", 5)
    thread, inside = entered(kept)
    assert inside.wait(60)
    thread.join()


def test_nobody_waits_for_a_process_that_died(kept: Path) -> None:
    source = f"""
import os, pathlib, signal
from nbops.turns import turn
with turn(pathlib.Path({str(kept)!r})):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == -9
    assert kept.with_suffix(".lock").exists()
    thread, inside = entered(kept)
    assert inside.wait(60)
    thread.join()


def test_a_fork_does_not_hold_the_lock(kept: Path) -> None:
    end, ending = os.pipe()
    with turn(kept):
        child = os.fork()
        if not child:
            os.close(ending)
            os.read(end, 1)  # until the parent closes the other side
            os._exit(0)
    try:
        thread, inside = entered(kept)
        assert inside.wait(60)
        thread.join()
    finally:
        os.close(ending)
        os.waitpid(child, 0)
        os.close(end)


def no_locks(*arguments: Any) -> None:
    raise OSError("no locks available")


@pytest.mark.parametrize("missing", ["fcntl", "folder", "locks"])
def test_without_locks_everybody_goes_on(kept: Path, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "fcntl":
        monkeypatch.setattr(turns, "fcntl", None)
    elif missing == "folder":
        kept = kept / "gone" / "relu.nbc"
    else:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    with turn(kept):
        pass
