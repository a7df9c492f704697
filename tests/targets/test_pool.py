"""The pool: every item once, whoever comes, and a share that stays with its thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import types

from nbops import compiler
from nbops.targets import cpu, pool
from nbops.targets.atomics import add_atomically, load, monotonic_nanoseconds, this_thread
from nbops.targets.tasks import TASK
from nbops.tuned.pointers import address_of

pytestmark = pytest.mark.skipif(not pool.available(), reason="this platform has no POSIX threads")

# The frame of these tests: what is done, the length that a task is told, chunks that begin where none may,
# and from PLACES on a record for each item.
DONE, LENGTH, STRAY, PLACES = 0, 1, 2, 8
PATIENCE = 20_000_000_000  # nanoseconds


def count(frame: Any, start: int, stop: int) -> None:
    """Count the visits of each item, and those that do not begin where a chunk may."""
    for item in range(start, stop):
        add_atomically(frame_address(frame) + 8 * (PLACES + item), 1)
    if start % frame[LENGTH] != 0:
        add_atomically(frame_address(frame) + 8 * STRAY, 1)


def meet(frame: Any, start: int, stop: int) -> None:
    """Record the thread of each item; the first chunk of each half waits for that of the other."""
    done = frame_address(frame) + 8 * DONE
    if start % frame[LENGTH] == 0:
        add_atomically(done, 1)
        since = monotonic_nanoseconds()
        while load(done) < 2 and monotonic_nanoseconds() - since < PATIENCE:
            pass
    for item in range(start, stop):
        frame[PLACES + item] = this_thread()


def wait_for_the_others(frame: Any, start: int, stop: int) -> None:
    """Record the thread of each item; the first chunk returns when all other items are done."""
    done = frame_address(frame) + 8 * DONE
    since = monotonic_nanoseconds()
    while start == 0 and load(done) < frame[LENGTH] - stop and monotonic_nanoseconds() - since < PATIENCE:
        pass
    for item in range(start, stop):
        frame[PLACES + item] = this_thread()
    add_atomically(done, stop - start)


def frame_address(frame: Any) -> int:
    """Stands in for `address_of`."""
    raise NotImplementedError


def call(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """`spread`, as a C function."""
    spread(task, frame, items, workers, grain)


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Stands in for the compiled one."""
    raise NotImplementedError


def compiled_task(function: Callable[..., None]) -> Any:
    return compiler.native(TASK, compiler.specialise(function, "test_pool", frame_address=address_of))


@pytest.fixture(scope="module")
def spread_items() -> Callable[..., None]:
    """``spread_items(task, frame, items, workers, grain)``, from Python."""
    cpu.start_threads()
    twin = compiler.specialise(call, "test_pool", spread=pool.spread_compiled())
    native = compiler.native(types.void(*[types.int64] * 5), twin)

    def run(task: Any, frame: np.ndarray, items: int, workers: int, grain: int) -> None:
        native.ctypes(task.address, frame.ctypes.data, items, workers, grain)

    return run


@pytest.fixture
def two_threads() -> None:
    if cpu.start_threads() < 2:
        pytest.skip("one core: there is no second thread")


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64, 2000])
@pytest.mark.parametrize("grain", [1, 3, 16])
def test_every_item_is_computed_once(spread_items: Any, grain: int, workers: int) -> None:
    """Whatever there is of items, and of workers, most of whom do not exist."""
    task = compiled_task(count)
    for items in [1, 2, 3, 5, 8, 16, 17, 31, 48, 49, 100, 1023, 5000]:
        frame = np.zeros(PLACES + items, np.int64)
        frame[LENGTH] = grain
        for _ in range(20):
            spread_items(task, frame, items, workers, grain)
        assert (frame[PLACES:] == 20).all(), items
        assert frame[STRAY] == 0, f"{items}: a chunk that begins within a grain"


def test_a_thread_begins_with_its_own_share(spread_items: Any, two_threads: None) -> None:
    """The same in each call, or each core would look for its data in the other's cache."""
    task = compiled_task(meet)
    frame = np.zeros(PLACES + 800, np.int64)
    frame[LENGTH] = 400
    seen = set()
    for _ in range(20):
        frame[DONE] = 0
        spread_items(task, frame, 800, 2, 1)
        assert frame[DONE] == 2, "the second half was not begun while the first one waited"
        seen.add((int(frame[PLACES]), int(frame[PLACES + 400])))
    callers, helpers = zip(*seen, strict=True)
    assert set(callers) == {threading.get_ident()}
    assert threading.get_ident() not in helpers
    if cpu.start_threads() == 2:
        assert len(set(helpers)) == 1


def test_a_slow_share_is_helped(spread_items: Any, two_threads: None) -> None:
    """The caller's first chunk waits until everything else is done, also the rest of its own share."""
    task = compiled_task(wait_for_the_others)
    frame = np.zeros(PLACES + 80, np.int64)
    frame[LENGTH] = 80
    spread_items(task, frame, 80, 2, 1)
    assert frame[DONE] == 80
    by_thread = frame[PLACES:]
    assert (by_thread[:10] == threading.get_ident()).all()
    assert (by_thread[10:] != threading.get_ident()).all(), "nobody helped"
