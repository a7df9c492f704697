"""nbops's own threads: a task's items, shared between cores, at the price of a few hundred nanoseconds.

    caller    publish a job, with a *ticket* for each helper   → take chunks →   wait for the tickets taken
    worker         … spin, then sleep …    take a ticket       → take chunks →   report, spin again

Four properties are worth owning a pool for; the layers that Numba brings lack them.

*Nobody waits for a thread that has not come.* The caller works too, and chunks are taken one by one. A
ticket stands for a helper's first chunk; when the caller finds no other chunk, it takes the tickets that are
left. If the other cores are asleep, or busy with another program, the call takes as long as on one core and
not longer. (A barrier waits for every thread of the team: with GNU OpenMP and another program on the second
core, a call of 0.8 ms was seen to take 8 ms.)

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
#: Chunks per thread: enough that a core that comes late, or is slow, leaves its share to the others.
CHUNKS = 4

# The pool's memory, in bytes. What is written often has a cache line of its own.
LINE = 64
# The job, in the line that idle workers look at: what brings them the ticket brings them everything.
TICKETS = 0 * LINE  # job number << 16 | tickets that are left
TASK, FRAME, ITEMS, CHUNK, SHARED, MODE = (8 * n for n in range(1, 7))  # SHARED: the first item of no ticket
NEXT = 1 * LINE  # the first item that nobody took, of those of no ticket
FINISHED = 2 * LINE  # ticket holders that are through, of all jobs until now
OWNED, EXPECTED = 3 * LINE, 3 * LINE + 8  # whether a caller has the pool; what FINISHED was before its job
SLEEPING = 4 * LINE  # workers that wait on the condition variable
STOPPING = 5 * LINE
MUTEX, CONDITION = 6 * LINE, 8 * LINE  # room for any platform's pthread_mutex_t and pthread_cond_t
N_THREADS = 10 * LINE
CORES = 11 * LINE  # the cores that the process may use, one bit each; then the same without one
MASK_BYTES = 2 * LINE
THREADS = CORES + 2 * MASK_BYTES
MAX_THREADS = 1024
SIZE = THREADS + 8 * MAX_THREADS

SYMBOL = "nbops_pool"
TICKET_BITS = 16
TICKET_MASK = (1 << TICKET_BITS) - 1


def pool_address() -> int:
    """Stands in for the address of the pool's memory."""
    raise NotImplementedError


def work(pool: int, first: int) -> None:
    """Compute chunk number `first`, then take others until none is left."""
    task, frame = load(pool + TASK), load(pool + FRAME)
    items, chunk = load(pool + ITEMS), load(pool + CHUNK)
    start = first * chunk
    while start < items:
        call_task(task, frame, start, min(items, start + chunk))
        if load(pool + SHARED) >= items:
            return
        start = add_atomically(pool + NEXT, chunk)


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Call a task for all its items, in chunks of multiples of `grain`, on up to `workers` threads."""
    pool = pool_address()
    if workers <= 1 or items <= grain or swap_if(pool + OWNED, 0, 1) == 0:
        call_task(task, frame, 0, items)
        return
    units = (items + grain - 1) // grain
    chunk = max(1, units // (CHUNKS * workers)) * grain if units > workers else grain
    tickets = min(workers, units) - 1
    publish(pool + TASK, task)
    publish(pool + FRAME, frame)
    publish(pool + ITEMS, items)
    publish(pool + CHUNK, chunk)
    publish(pool + SHARED, (tickets + 1) * chunk)
    publish(pool + MODE, float_mode())
    publish(pool + NEXT, (tickets + 1) * chunk)
    job = (load(pool + TICKETS) >> TICKET_BITS) + 1
    store(pool + TICKETS, (job << TICKET_BITS) | tickets)
    if load(pool + SLEEPING) != 0:
        keep_off_this_core(pool)
        lock(pool + MUTEX)
        broadcast(pool + CONDITION)
        unlock(pool + MUTEX)
    work(pool, 0)
    finished = load(pool + EXPECTED) + tickets
    left = load(pool + TICKETS)
    while left & TICKET_MASK != 0:  # nobody came for these
        if swap_if(pool + TICKETS, left, left - 1) != 0:
            work(pool, left & TICKET_MASK)
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
        if tickets & TICKET_MASK != 0:
            if swap_if(pool + TICKETS, tickets, tickets - 1) != 0:
                set_float_mode(load(pool + MODE))
                work(pool, tickets & TICKET_MASK)
                add_atomically(pool + FINISHED, 1)
            continue
        idle_since, looks = monotonic_nanoseconds(), 0
        while load(pool + TICKETS) & TICKET_MASK == 0 and load(pool + STOPPING) == 0:
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
                while load(pool + TICKETS) & TICKET_MASK == 0 and load(pool + STOPPING) == 0:
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
