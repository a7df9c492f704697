"""The CPU target: one launcher for every task, and the guards that keep threads from aborting.

Numba's threading layers have three ways to end a process: ``workqueue`` aborts when two threads are inside
parallel kernels, GNU OpenMP kills a child of ``fork`` on its first parallel region, and a machine may have
no layer at all. The answer to all three is the serial task, which every parallel call can fall back to with
the same result. The guard stands inside the launcher, so it holds for calls from Python and for kernels
that TensorFlow runs on threads of its own.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import numba
import numpy as np
from numba import types
from numba.np.ufunc.parallel import _launch_threads

from nbops import compiler
from nbops.targets.tasks import TASK, call_task, frame_pointer, swap_if_zero

__all__ = ["STATE", "launch", "start_threads", "state_address", "threading_layer"]

# The process's state, read by compiled code through its address.
WORKERS, EXCLUSIVE, BUSY, FORKED, BREAK_EVEN = 0, 1, 2, 3, 4
STATE = np.zeros(8, np.int64)
STATE[WORKERS] = 1
state_address: int = STATE.ctypes.data

_starting = threading.Lock()

RUN = types.void(*[types.int64] * 7)


def _spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Call `task` on every core, each with an equal share of the items, in multiples of `grain`."""
    share = (items + workers * grain - 1) // (workers * grain) * grain
    for worker in numba.prange(workers):
        start = min(items, worker * share)
        stop = min(items, start + share)
        if start < stop:
            call_task(task, frame, start, stop)


@functools.cache
def spread_compiled() -> Any:
    twin = compiler.specialise(_spread, "parallel")
    return compiler.jit(twin, parallel=True)


def run(state: int, serial: int, parallel: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Run a task over its items, on several cores where that is allowed.

    `serial` and `parallel` are addresses of tasks; `parallel` may be 0. With at least as many items as
    workers, the serial task is spread over them; with fewer, the parallel task uses its own ``prange``.
    """
    words = frame_pointer(state)
    if workers <= 1 or words[FORKED] != 0:
        call_task(serial, frame, 0, items)
        return
    if words[EXCLUSIVE] != 0 and swap_if_zero(state + 8 * BUSY, 1) == 0:
        call_task(serial, frame, 0, items)
        return
    if parallel == 0 or items >= workers:
        spread(serial, frame, items, workers, grain)
    else:
        call_task(parallel, frame, 0, items)
    if words[EXCLUSIVE] != 0:
        words[BUSY] = 0


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Stands in for the compiled `_spread`."""
    raise NotImplementedError


def _call_serially(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """What stands in for `_spread` on a machine without a threading layer."""
    call_task(task, frame, 0, items)


@functools.cache
def run_native() -> Any:
    """`run` as machine code."""
    if _load_threading_layer():
        return compiler.native(RUN, compiler.specialise(run, "cpu", spread=spread_compiled()))
    serial = compiler.jit(compiler.specialise(_call_serially, "serial"))
    return compiler.native(RUN, compiler.specialise(run, "serial", spread=serial))


@functools.cache
def _load_threading_layer() -> bool:
    """Start Numba's threads; code that calls them can't even be loaded from the cache before."""
    try:
        _launch_threads()
    except ValueError:  # "No threading layer could be loaded"
        return False
    return True


@functools.cache
def _run_from_python() -> Any:
    return run_native().ctypes


@functools.cache
def start_threads() -> int:
    """Start Numba's threads, learn which layer they use, and return how many there are.

    Without any threading layer the answer is 1 and everything runs serially.
    """
    with _starting:
        call = _run_from_python()
        STATE[EXCLUSIVE] = 1  # until the layer is known
        frame = np.zeros(1, np.int64)
        if not _load_threading_layer():
            return 1
        call(state_address, _idle().address, 0, frame.ctypes.data, 2, 2, 1)
        STATE[EXCLUSIVE] = numba.threading_layer() == "workqueue"
        STATE[WORKERS] = numba.get_num_threads()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
        return int(STATE[WORKERS])


def _after_fork() -> None:
    STATE[FORKED] = 1
    STATE[BUSY] = 0


def _do_nothing(frame: Any, start: int, stop: int) -> None:
    pass


@functools.cache
def _idle() -> Any:
    return compiler.native(TASK, compiler.specialise(_do_nothing, "idle"))


def threading_layer() -> str | None:
    """Numba's threading layer: ``"omp"``, ``"tbb"``, ``"workqueue"``, or None where there is none."""
    start_threads()
    return str(numba.threading_layer()) if _load_threading_layer() else None


def launch(serial: int, parallel: int, frame: np.ndarray, workers: int, grain: int) -> None:
    """Run the tasks of a frame from Python; see `run`."""
    items = int(frame[0, 0])
    if items:
        _run_from_python()(state_address, serial, parallel, frame.ctypes.data, items, workers, grain)
