"""A second process compiles what comes next, where a program has said what that is.

Numba compiles one function at a time in a process. Training calls some twenty kernels, so on a machine where
nothing is kept yet, one core would compile while the others wait. A program that knows what it will call says
so (`expect`). When it then has to compile the first of it, another Python starts, which compiles the same
kernels, the last one first. Either finds the files of the other. The first one waits for what it needs and
the other is compiling (`nbops.turns`); the second one goes on with something else.

The second process reads no input, prints nothing, and ends with its work or with its parent. There is one for
a cache's folder; none where nothing can be kept, on a single core, or with ``NBOPS_COMPILE_AHEAD=0``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbops.turns import try_lock

__all__ = ["begin", "expect"]

VARIABLE = "NBOPS_COMPILE_AHEAD"
PROGRAM = "import sys; from nbops.ahead import compile_backwards; compile_backwards(*sys.argv[1:])"

_expected: tuple[str, ...] = ()
_helper: subprocess.Popen[bytes] | None = None


def expect(ops: Sequence[str]) -> None:
    """Say which ops will be called, in float32, in their order."""
    global _expected
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1 and os.environ.get(VARIABLE) != "0" and _helper is None:
        _expected = tuple(ops)


def begin(folder: Path) -> None:
    """Start the second process if something is expected; a kernel is missing in the cache's folder."""
    global _expected, _helper
    ops, _expected = _expected, ()
    if not ops or not sys.executable:
        return
    path = folder / "nbops-ahead.lock"
    lock = try_lock(path)
    if lock is None:  # another process has such a helper
        return
    home = str(Path(__file__).resolve().parents[1])
    modules = os.pathsep.join([home, *sys.path])  # and not the working folder, unless the first one has it
    variables = {**os.environ, VARIABLE: "0", "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}
    with contextlib.suppress(OSError):  # no more processes are allowed, say: this one compiles it all
        _helper = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path), *ops],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=variables, pass_fds=[lock],
        )  # fmt: skip
        atexit.register(_end, _helper, os.getpid())
    os.close(lock)  # the second process has it open, and so the lock, until it ends


def _end(process: subprocess.Popen[bytes], parent: int) -> None:
    if os.getpid() == parent and process.poll() is None:
        process.terminate()


def compile_backwards(lock: str, *names: str) -> None:
    """What the second process does: a kernel of each op, from the last to the first, then the next ones."""
    signal.signal(signal.SIGTERM, _exit)  # so that no lock's file is left
    # Numba imports SciPy where it is installed, for products of its own. That takes as long as a kernel.
    sys.modules["scipy"] = None  # type: ignore[assignment]
    from nbops import turns, warming

    turns.wait_for_nobody()
    try:
        warming.compile_breadth_first([(warming.find(name), "float32") for name in reversed(names)])
    finally:
        Path(lock).unlink(missing_ok=True)


def _exit(*_: Any) -> None:
    sys.exit(0)
