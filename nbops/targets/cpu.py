"""The CPU target: one launcher for every task, and the guards that keep threads from aborting.

Numba's threading layers have three ways to end a process: ``workqueue`` aborts when two threads are inside
parallel kernels, GNU OpenMP kills a child of ``fork`` on its first parallel region, and a machine may have
no layer at all. The answer to all three is the serial task, which every parallel call can fall back to with
the same result. The guard stands inside the launcher, so it holds for calls from Python and for kernels
that TensorFlow runs on threads of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.np.ufunc import parallel as numba_threads

from nbops import compiler
from nbops import frame as frames
from nbops.forks import after_in_child
from nbops.targets import pool
from nbops.targets.atomics import swap_if
from nbops.targets.calls import call_int
from nbops.targets.tasks import call_task, frame_pointer

__all__ = [
    "STATE",
    "launch",
    "launcher",
    "start_threads",
    "state_address",
    "thread_limit",
    "threading_layer",
]

# The process's state, read by compiled code through its address.
WORKERS, EXCLUSIVE, BUSY, FORKED, BREAK_EVEN, IN_USE, OPENMP_LIMIT, PROCESSORS = range(8)
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
    """A function that shares a task's items between cores, to be compiled into its callers."""
    if pool.available():
        return pool.spread_compiled()
    if _load_threading_layer():
        return compiler.part(compiler.specialise(_spread, "parallel"), plain=False, parallel=True)
    return compiler.part(compiler.specialise(_call_serially, "serial"))


def run(state: int, serial: int, parallel: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Run a task over its items, on several cores where that is allowed.

    `serial` and `parallel` are addresses of tasks; `parallel` may be 0. With at least as many items as
    workers, the serial task is spread over them; with fewer, the parallel task shares each item between as
    many cores as the frame's header says. The two may be one task, which looks there.
    """
    words = frame_pointer(state)
    header = frame_pointer(frame)
    header[frames.WORKERS], header[frames.SERIAL] = 1, serial
    if workers > 1:
        workers = min(workers, count_threads())
        if words[OPENMP_LIMIT] != 0:
            limit = call_int(words[OPENMP_LIMIT])
            if limit < words[PROCESSORS]:  # somebody set it
                workers = min(workers, limit)
    if workers <= 1 or words[FORKED] != 0:
        call_task(serial, frame, 0, items)
        return
    if parallel == 0 or items >= workers:
        spread(serial, frame, items, workers, grain)
    elif words[EXCLUSIVE] == 0:
        header[frames.WORKERS] = workers
        call_task(parallel, frame, 0, items)
    elif swap_if(state + 8 * BUSY, 0, 1) == 0:
        call_task(serial, frame, 0, items)
    else:
        header[frames.WORKERS] = workers
        call_task(parallel, frame, 0, items)
        words[BUSY] = 0


def count_threads() -> int:
    """Stands in for Numba's own count, which ``numba.set_num_threads`` sets; 1 without a layer."""
    return 1


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Stands in for the compiled `_spread`."""
    raise NotImplementedError


def _call_serially(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """What stands in for `_spread` on a machine without a threading layer."""
    call_task(task, frame, 0, items)


@functools.cache
def run_native() -> Any:
    """`run` as machine code."""
    if _load_threading_layer():  # before that, code that counts Numba's threads can't be loaded
        count, name = numba_threads._iget_num_threads, "cpu"
    else:
        count, name = compiler.part(compiler.specialise(count_threads, "serial")), "serial"
    return compiler.native(RUN, compiler.specialise(run, name, spread=spread_compiled(), count_threads=count))


@functools.cache
def _load_threading_layer() -> bool:
    """Start Numba's threads; code that calls them can't even be loaded from the cache before."""
    if numba.config.DISABLE_JIT:  # nothing is compiled that could run there
        return False
    if numba.config.THREADING_LAYER in ("tbb", "safe", "forksafe"):
        _find_tbb()
    try:
        numba_threads._launch_threads()
    except ValueError as error:  # "No threading layer could be loaded"
        asked = numba.config.THREADING_LAYER
        warnings.warn(
            f"nbops runs on one core: Numba could not load the threading layer {asked!r} "
            f"({' '.join(str(error).split())}); NUMBA_THREADING_LAYER=workqueue is always there",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _find_tbb() -> None:
    """Load the TBB that pip installed beside this Python, where the system's linker does not look."""
    for path in Path(sys.prefix, "lib").glob("libtbb.so.*"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            return


@functools.cache
def _run_from_python() -> Any:
    return run_native().ctypes


@functools.cache
def start_threads() -> int:
    """Start the pool, learn which layer Numba's own parallel loops use, and return the number of threads.

    Without any threading layer the answer is 1 and everything runs serially.
    """
    with _starting:
        if not _load_threading_layer():
            return 1
        if STATE[WORKERS] > 1:  # another thread was faster
            return int(STATE[WORKERS])
        if pool.available():
            pool.start(numba.get_num_threads() - 1)
        STATE[EXCLUSIVE] = numba.threading_layer() == "workqueue"
        STATE[OPENMP_LIMIT], STATE[PROCESSORS] = _openmp_limit()
        STATE[WORKERS] = numba.get_num_threads()
        return int(STATE[WORKERS])


@after_in_child
def _after_fork() -> None:
    """In a child whose parent had threads, nbops's or those of a parallel kernel of its own: none is left."""
    global _starting, _raising
    _starting = threading.Lock()  # the thread that held it stayed in the parent
    if _raising.locked():
        _raising, sys.unraisablehook = threading.Lock(), _usual_hook
    if numba_threads._is_initialized or STATE[WORKERS] > 1:
        STATE[FORKED] = 1
        STATE[BUSY] = 0
        if pool.available():
            pool.forget_threads()


def thread_limit() -> int:
    """How many threads a call from this thread may have, by the limits that users set outside nbops.

    They are Numba's, ``numba.set_num_threads``, and where Numba runs on OpenMP also OpenMP's:
    ``OMP_NUM_THREADS`` and ``threadpoolctl.threadpool_limits``. Both belong to the thread that calls.
    """
    limit = int(numba.get_num_threads()) if _load_threading_layer() else 1
    if STATE[OPENMP_LIMIT]:
        openmp = ctypes.CFUNCTYPE(ctypes.c_int)(int(STATE[OPENMP_LIMIT]))()
        if openmp < STATE[PROCESSORS]:
            limit = min(limit, openmp)
    return limit


def _openmp_limit() -> tuple[int, int]:
    """The address of ``omp_get_max_threads`` in the OpenMP that Numba runs on, and what it says unless set.

    Both are 0 with other layers.
    """
    if numba.threading_layer() != "omp":
        return 0, 0
    omppool = importlib.import_module("numba.np.ufunc.omppool")
    library = ctypes.CDLL(omppool.__file__)  # looks in what it depends on, too
    if not hasattr(library, "omp_get_max_threads"):
        return 0, 0
    address = ctypes.cast(library.omp_get_max_threads, ctypes.c_void_p).value
    return address or 0, library.omp_get_num_procs()


def threading_layer() -> str | None:
    """Numba's threading layer: ``"omp"``, ``"tbb"``, ``"workqueue"``, or None where there is none."""
    start_threads()
    return str(numba.threading_layer()) if _load_threading_layer() else None


def launcher() -> str | None:
    """What shares items between cores: nbops's own ``"pool"``, a layer of Numba's, or None."""
    layer = threading_layer()
    return "pool" if layer and pool.available() else layer


def launch(serial: int, parallel: int, frame: np.ndarray, workers: int, grain: int) -> None:
    """Run the tasks of a frame from Python; see `run`."""
    items = int(frame[0, 0])
    if not items:
        return
    call = _run_raising if numba.config.BOUNDSCHECK else _run_from_python()
    if parallel == 0 or items >= workers:
        call(state_address, serial, 0, frame.ctypes.data, items, workers, grain)
        return
    # A loop's own prange knows Numba's limit only. Inside a parallel kernel of the user's, whose threads
    # Python did not start, the workqueue layer would abort.
    nested = STATE[EXCLUSIVE] and isinstance(threading.current_thread(), threading._DummyThread)
    limit = numba.get_num_threads()
    numba.set_num_threads(min(workers, limit))
    try:
        call(state_address, serial, parallel, frame.ctypes.data, items, 1 if nested else workers, grain)
    finally:
        numba.set_num_threads(limit)


_raising = threading.Lock()
#: What `_run_raising` puts back.
_usual_hook: Any = sys.unraisablehook


def _run_raising(*arguments: int) -> None:
    """Run under ``NUMBA_BOUNDSCHECK=1``, and raise what compiled code can only report: it has a C signature.

    Raises
    ------
    IndexError
        When a loop reads or writes beyond the end of an array.
    """
    global _usual_hook
    caught: list[BaseException | None] = []
    with _raising:
        _usual_hook, sys.unraisablehook = sys.unraisablehook, lambda report: caught.append(report.exc_value)
        try:
            _run_from_python()(*arguments)
        finally:
            sys.unraisablehook = _usual_hook
    if caught and caught[0] is not None:
        raise caught[0]
