"""nbops's own threads: a task's items, shared between cores, at the price of a few hundred nanoseconds.

    caller    publish a job, with tickets   → compute its share, chunk by chunk; help →   wait for who came
    worker    … spin, then sleep …  take a ticket   → compute that share; help →   report, spin again

Five properties are worth owning a pool for; the layers that Numba brings lack them.

*Nobody waits for a thread that has not come.* The caller works too. A ticket stands for a share of the
items; who is through with its own takes chunks of the next two, if they have been begun, and the caller takes
the tickets that are left. If the other cores are asleep, or busy with another program, the call takes as long
as on one core and not longer. (A barrier waits for every thread of the team: with GNU OpenMP and another
program on the second core, a call of 0.8 ms was seen to take 8 ms.)

*A core keeps its share.* The next op's operands are most often this one's result, and lie in the cache of the
core that computed them. Were chunks taken by whoever comes first, relu of 64k float32 on two cores would take
1.3 to 2 times as long as it does, and often longer than on one.

*Any number of threads may call.* The first one gets the pool, the others work alone.

*The same arithmetic everywhere.* A worker takes the caller's floating-point mode (see `rounding`).

*Idle threads sleep.* A worker that finds nothing to do spins for `SPIN_NANOSECONDS`, long enough to meet the
next op of a chain while it is hot. Then it looks a while longer, where nobody else wants its core, and then
waits on a condition variable.

The pool is a block of memory that is never freed, a few functions compiled to machine code, and POSIX
threads that have never seen Python. Where there are no POSIX threads, `nbops.targets.cpu` uses Numba's.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from numba import types

from nbops import compiler
from nbops.targets.atomics import (
    add_atomically,
    broadcast,
    load,
    lock,
    monotonic_nanoseconds,
    pause,
    publish,
    set_cores,
    store,
    swap_if,
    this_core,
    this_thread,
    unlock,
    wait,
    yield_core,
)
from nbops.targets.rounding import float_mode, set_float_mode
from nbops.targets.tasks import call_task

__all__ = ["available", "forget_threads", "spread_compiled", "start"]

#: How long a worker looks for the next job before it sleeps; after the first of these times, it offers its
#: core to others between two looks. Ops of a training step on arrays follow each other within some 20 µs, and
#: Python that computes in between comes back within 100. Between two products of a TensorFlow graph lie up to
#: 300.
SPIN_NANOSECONDS, SLEEP_NANOSECONDS = 200_000, 500_000
#: Chunks of a share: enough that a core that is slow leaves some of them to others. Who is through with its
#: own share helps with the next HELPED ones.
CHUNKS, HELPED = 4, 2

# The pool's memory, in bytes. What is written often has a cache line of its own.
LINE = 64
# The job, in the line that idle workers look at: what brings them the ticket brings them everything.
TICKETS = 0 * LINE  # the job's number, and how many tickets are left
TASK, FRAME, ITEMS, SHARE, CHUNK, MODE = (8 * n for n in range(1, 7))
FINISHED = 1 * LINE  # workers that are through with a ticket, of all jobs until now
OWNED, EXPECTED = 2 * LINE, 2 * LINE + 8  # whether a caller has the pool; what FINISHED was before its job
SLEEPING = 3 * LINE  # workers that wait on the condition variable
STOPPING = 4 * LINE
MUTEX, CONDITION = 5 * LINE, 7 * LINE  # room for any platform's pthread_mutex_t and pthread_cond_t
N_THREADS = 9 * LINE
CORES = 10 * LINE  # the cores that the process may use, one bit each; then the same without one
MASK_BYTES = 2 * LINE
THREADS = CORES + 2 * MASK_BYTES
MAX_THREADS = 1024
NEXT = THREADS + 8 * MAX_THREADS  # for each share: the job's number, and the first chunk that nobody took
SIZE = NEXT + LINE * MAX_THREADS

SYMBOL = "nbops_pool"
JOB = 16  # the bit where a job's number begins
COUNT = (1 << JOB) - 1  # the bits below: tickets, or chunks


def pool_address() -> int:
    """Stands in for the address of the pool's memory."""
    raise NotImplementedError


def work(pool: int, job: int, own: int) -> None:
    """Compute share number `own` of the job, chunk by chunk, then what is left of the next ones."""
    task, frame, items = load(pool + TASK), load(pool + FRAME), load(pool + ITEMS)
    share, chunk = load(pool + SHARE), load(pool + CHUNK)
    if chunk == share:
        call_task(task, frame, own * share, min(items, (own + 1) * share))
        return
    shares = (items + share - 1) // share
    publish(pool + NEXT + own * LINE, job << JOB)
    for other in range(own, own + min(shares, 1 + HELPED)):
        number = other % shares
        place, start = pool + NEXT + number * LINE, number * share
        stop = min(items, start + share)
        while load(place) >> JOB == job:  # somebody has begun it
            first = start + (add_atomically(place, 1) & COUNT) * chunk
            if first >= stop:
                break
            call_task(task, frame, first, min(stop, first + chunk))


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Call a task for all its items, in chunks of multiples of `grain`, on up to `workers` threads."""
    pool = pool_address()
    if workers <= 1 or items <= grain or swap_if(pool + OWNED, 0, 1) == 0:
        call_task(task, frame, 0, items)
        return
    units = (items + grain - 1) // grain
    workers = min(workers, MAX_THREADS)
    share = (units + workers - 1) // workers
    tickets = (units + share - 1) // share - 1
    publish(pool + TASK, task)
    publish(pool + FRAME, frame)
    publish(pool + ITEMS, items)
    publish(pool + SHARE, share * grain)
    publish(pool + CHUNK, (share + CHUNKS - 1) // CHUNKS * grain)
    publish(pool + MODE, float_mode())
    job = (load(pool + TICKETS) >> JOB) + 1
    store(pool + TICKETS, (job << JOB) | tickets)
    if load(pool + SLEEPING) != 0:
        keep_off_this_core(pool)
        lock(pool + MUTEX)
        broadcast(pool + CONDITION)
        unlock(pool + MUTEX)
    work(pool, job, 0)
    finished = load(pool + EXPECTED) + tickets
    left = load(pool + TICKETS)
    while left & COUNT != 0:  # nobody came for these
        if swap_if(pool + TICKETS, left, left - 1) != 0:
            work(pool, job, left & COUNT)
            finished -= 1
        left = load(pool + TICKETS)
    spins = 0
    while load(pool + FINISHED) != finished:
        pause()
        spins += 1
        if spins > 4096:  # its core may be running another program
            yield_core()
    publish(pool + EXPECTED, finished)
    publish(pool + OWNED, 0)


def keep_off_this_core(pool: int) -> None:
    """Let the workers, if all are asleep, wake up on other cores than the caller's.

    Linux likes to wake a thread where its waker runs. There it would interrupt the very work that it should
    share: a call after 20 ms of idleness then takes milliseconds. Awake, it may go where it likes.
    """
    core = this_core()
    if load(pool + SLEEPING) != load(pool + N_THREADS) or core >= 8 * MASK_BYTES:
        return
    others = 0
    for place in range(0, MASK_BYTES, 8):
        cores = load(pool + CORES + place)
        if place == core // 64 * 8:
            cores &= ~(1 << core % 64)
        others |= cores
        store(pool + CORES + MASK_BYTES + place, cores)
    if others != 0:
        for worker in range(load(pool + N_THREADS)):
            set_cores(load(pool + THREADS + 8 * worker), MASK_BYTES, pool + CORES + MASK_BYTES)


def run_on_any_core(pool: int) -> None:
    """Let this thread run on every core that the process has."""
    set_cores(this_thread(), MASK_BYTES, pool + CORES)


def leave_the_choice(pool: int) -> None:
    """What stands in for these two where a program has no say about cores."""


def serve(pool: int) -> int:
    """What a worker does: take a ticket, work, look for the next one, sleep."""
    while load(pool + STOPPING) == 0:
        tickets = load(pool + TICKETS)
        if tickets & COUNT != 0:
            if swap_if(pool + TICKETS, tickets, tickets - 1) != 0:
                set_float_mode(load(pool + MODE))
                work(pool, tickets >> JOB, tickets & COUNT)
                add_atomically(pool + FINISHED, 1)
            continue
        idle_since, looks = monotonic_nanoseconds(), 0
        while load(pool + TICKETS) & COUNT == 0 and load(pool + STOPPING) == 0:
            pause()
            looks += 1
            if looks % 16 != 0:  # reading the clock takes longer than looking
                continue
            idle = monotonic_nanoseconds() - idle_since
            if idle > SPIN_NANOSECONDS:
                yield_core()
            if idle > SLEEP_NANOSECONDS:
                lock(pool + MUTEX)
                add_atomically(pool + SLEEPING, 1)
                while load(pool + TICKETS) & COUNT == 0 and load(pool + STOPPING) == 0:
                    wait(pool + CONDITION, pool + MUTEX)
                add_atomically(pool + SLEEPING, -1)
                unlock(pool + MUTEX)
                run_on_any_core(pool)
    return 0


def available() -> bool:
    """Whether this platform has POSIX threads."""
    return sys.platform != "win32" and hasattr(ctypes.CDLL(None), "pthread_create")


def _on_linux(function: Callable[[int], None]) -> Any:
    return compiler.part(
        compiler.specialise(function if sys.platform == "linux" else leave_the_choice, "pool")
    )


@functools.cache
def spread_compiled() -> Any:
    """`spread`, to be compiled into its callers."""
    _memory()  # code that knows the pool by its symbol can't be loaded before there is one
    helper = compiler.part(compiler.specialise(work, "pool"))
    chosen = _on_linux(keep_off_this_core)
    names = {"work": helper, "keep_off_this_core": chosen, "pool_address": compiler.symbol_address(SYMBOL)}
    return compiler.part(compiler.specialise(spread, "pool", **names))


@functools.cache
def _serve_compiled() -> Any:
    helper = compiler.part(compiler.specialise(work, "pool"))
    twin = compiler.specialise(serve, "pool", work=helper, run_on_any_core=_on_linux(run_on_any_core))
    return compiler.native(types.int64(types.int64), twin)


def _cores() -> set[int]:
    """The numbers of the cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


_starting = threading.Lock()


def _memory() -> int:
    with _starting:  # every thread must see the same memory
        return _allocate()


@functools.cache
def _allocate() -> int:
    """The address of the pool's memory, which compiled code knows by `SYMBOL`.

    It is never freed: a worker may look at it until the process ends.
    """
    libc = ctypes.CDLL(None)
    libc.calloc.restype = ctypes.c_void_p
    memory = libc.calloc(1, SIZE + LINE)
    if not memory:
        raise MemoryError("no memory for the thread pool")
    address = int(memory + LINE - 1) // LINE * LINE
    libc.pthread_mutex_init(ctypes.c_void_p(address + MUTEX), None)
    libc.pthread_cond_init(ctypes.c_void_p(address + CONDITION), None)
    cores = sum(1 << core for core in _cores() if core < 8 * MASK_BYTES)
    ctypes.memmove(address + CORES, cores.to_bytes(MASK_BYTES, "little"), MASK_BYTES)
    compiler.add_symbol(SYMBOL, address)
    return address


_threads: list[ctypes.c_ulong] = []


def start(workers: int) -> None:
    """Start threads, in addition to the caller's own. Later calls do nothing.

    No more than there are cores: a thread that has begun a chunk and then lost its core is waited for.
    """
    if _threads:
        return
    workers = min(workers, len(_cores()) - 1, MAX_THREADS)
    address = _memory()
    libc = ctypes.CDLL(None)
    serve_address = ctypes.c_void_p(_serve_compiled().address)
    # A signal is for the threads that Python knows: workers inherit a mask with all of them blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        for number in range(workers):
            thread = ctypes.c_ulong.from_address(address + THREADS + 8 * number)
            if libc.pthread_create(ctypes.byref(thread), None, serve_address, ctypes.c_void_p(address)):
                break  # a limit on threads: go on with those that there are
            _threads.append(thread)
            ctypes.c_int64.from_address(address + N_THREADS).value = len(_threads)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    atexit.register(stop)


def stop() -> None:
    """End the threads, before the code that they run goes away."""
    if not _threads:
        return
    libc, address = ctypes.CDLL(None), _memory()
    ctypes.c_int64.from_address(address + STOPPING).value = 1
    mutex, condition = (ctypes.c_void_p(address + place) for place in (MUTEX, CONDITION))
    libc.pthread_mutex_lock(mutex)
    libc.pthread_cond_broadcast(condition)
    libc.pthread_mutex_unlock(mutex)
    while _threads:
        libc.pthread_join(_threads.pop(), None)


def forget_threads() -> None:
    """In a child of ``fork``: there are no threads, and nobody owns the pool."""
    _threads.clear()
    ctypes.memset(_memory(), 0, MUTEX)
