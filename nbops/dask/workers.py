"""How many threads a kernel may use in a Dask task, so that kernels and workers together fill the cores once.

A scheduler already runs tasks side by side. A kernel takes what that leaves: the cores divided by the tasks
that may run at a time, and mostly that is one, the serial target.

=====================  ==========================================================================
dask.distributed       ``OMP_NUM_THREADS``, which Dask sets for a worker's native libraries (1 unless
                       configured); else the cores over the threads of the workers in this process
threaded scheduler     the cores over the threads of the pool
multiprocessing        one
synchronous scheduler  all
=====================  ==========================================================================
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from dask.system import CPU_COUNT

from nbops import dispatch
from nbops.targets import cpu

__all__ = ["expected_share", "runs_on_one_core", "share", "within_share"]


@contextmanager
def within_share(asked: Any) -> Iterator[None]:
    """Have kernels run as `asked` (settings, or None), on no more threads than this task's share."""
    with dispatch.in_force(asked):
        limit = share()
        own = dispatch.settings().threads
        with dispatch.use(threads=limit if own is None else min(own, limit)):
            yield


def runs_on_one_core(nanoseconds: float) -> bool:
    """Whether a call that takes so long there stays on one core, however many it might use.

    No limit is needed for it then, and without one a call like an earlier one takes a much shorter way, which
    `dispatch.use` closes: see `nbops.repeat`.
    """
    return nanoseconds < float(cpu.STATE[cpu.BREAK_EVEN])


def share() -> int:
    """The threads that a kernel may use in the task that runs here and now."""
    worker = _distributed_worker()
    if worker is not None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        if given.isdecimal() and int(given) > 0:
            return min(dispatch.available_threads(), int(given))
        return _divided(sum(other.state.nthreads for other in _workers_in_this_process(worker)))
    return _divided(_tasks_at_a_time())


def expected_share() -> int:
    """`share` as it will be in tasks of the scheduler that is in use now, as far as this process can tell."""
    client = _distributed_client()
    if client is not None:
        return 1 if client.cluster is None or _has_processes(client.cluster) else _divided(_nthreads(client))
    scheduler = dask.config.get("scheduler", None)
    if scheduler in ("sync", "synchronous", "single-threaded"):
        return dispatch.available_threads()
    if scheduler in ("processes", "multiprocessing"):
        return _divided(CPU_COUNT)
    return _divided(dask.config.get("num_workers", None) or CPU_COUNT)


def _divided(tasks: int) -> int:
    return max(1, dispatch.available_threads() // max(tasks, 1))


# ---- dask.distributed -------------------------------------------------------------------------------


def _distributed_worker() -> Any:
    """The worker whose task this is; None outside dask.distributed's."""
    if "distributed.worker" not in sys.modules:
        return None
    import distributed

    try:
        return distributed.get_worker()
    except ValueError:
        return None


def _workers_in_this_process(worker: Any) -> list[Any]:
    return list(getattr(type(worker), "_instances", ())) or [worker]


def _distributed_client() -> Any:
    if "distributed" not in sys.modules:
        return None
    import distributed

    try:
        return distributed.get_client()
    except ValueError:
        return None


def _has_processes(cluster: Any) -> bool:
    return bool(getattr(cluster, "processes", True))


def _nthreads(client: Any) -> int:
    return sum(client.nthreads().values())


# ---- Dask's own schedulers --------------------------------------------------------------------------


def _tasks_at_a_time() -> int:
    """The threads of the pool that this thread belongs to."""
    if multiprocessing.parent_process() is not None:
        return int(CPU_COUNT)
    here = threading.current_thread()
    from dask import threaded

    pools = [pool for by_size in list(threaded.pools.values()) for pool in list(by_size.values())]
    prefix = here.name.rpartition("_")[0]  # a pool lists a thread only after starting it, but names it before
    for pool in (threaded.default_pool, dask.config.get("pool", None), *pools):
        if prefix and getattr(pool, "_thread_name_prefix", None) == prefix:
            return int(pool._max_workers)
    return 1 if here is threading.main_thread() else int(CPU_COUNT)
