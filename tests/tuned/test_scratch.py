"""The memory that products work in: kept, lent to one at a time, in huge pages where the system has them."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit

import nbops
from nbops.tuned import scratch

START, SIZE, LENT = (word // 8 for word in (scratch.START, scratch.SIZE, scratch.LENT))
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def lending() -> tuple[Any, Any]:
    borrow, give_back = scratch.lending()
    take: Any = njit(lambda size: borrow(size))
    leave: Any = njit(lambda address: give_back(address))
    return take, leave


@pytest.fixture
def record() -> Iterator[np.ndarray]:
    record = scratch.RECORD
    assert record[LENT] == 0
    yield record
    assert record[LENT] == 0


def test_a_block_is_kept(lending: tuple[Any, Any], record: np.ndarray) -> None:
    take, leave = lending
    first = take(MEGABYTE)
    assert first % scratch.HUGE_PAGE == 0
    assert record[LENT] == 1
    leave(first)
    again = take(record[SIZE])
    assert again == first == record[START]
    leave(again)


def test_it_grows(lending: tuple[Any, Any], record: np.ndarray) -> None:
    take, leave = lending
    leave(take(1))
    size = int(record[SIZE]) + 1
    larger = take(size)
    assert record[SIZE] >= size
    assert record[SIZE] % scratch.HUGE_PAGE == 0
    memory = (ctypes.c_byte * size).from_address(larger)
    np.frombuffer(memory, np.int8)[:] = 1  # all of it can be written
    leave(larger)


def test_where_there_is_no_room_nothing_stays_lent(lending: tuple[Any, Any], record: np.ndarray) -> None:
    take, leave = lending
    leave(take(1))
    assert take(1 << 60) == 0
    leave(0)
    assert record.tolist() == [0, 0, 0, 0]
    address = take(1000)
    assert address == record[START] != 0
    leave(address)


@pytest.mark.parametrize("first_back", [0, 1])
def test_one_that_finds_it_lent_has_memory_of_its_own(
    first_back: int, lending: tuple[Any, Any], record: np.ndarray
) -> None:
    take, leave = lending
    lent = [take(1000), take(1000)]
    assert lent[0] == record[START]
    assert not lent[0] <= lent[1] < lent[0] + record[SIZE]
    leave(lent[first_back])
    assert record[LENT] == first_back
    leave(lent[1 - first_back])


def test_products_give_it_back(record: np.ndarray, rng: np.random.Generator) -> None:
    a = rng.standard_normal((300, 200))
    nbops.matmul(a.T, a)
    start = record[START]
    nbops.matmul(a.T, a)
    assert record[START] == start != 0


def test_products_on_several_threads_have_each_their_own(rng: np.random.Generator) -> None:
    a = rng.standard_normal((3, 400, 400))
    expected = a @ a
    wrong = []

    def multiply(number: int) -> None:
        for _ in range(20):
            if not np.allclose(nbops.matmul(a[number], a[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=multiply, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_can_borrow_what_another_thread_had(lending: tuple[Any, Any], record: np.ndarray) -> None:
    take, leave = lending
    lent = take(1000)
    child = os.fork()
    if child == 0:
        os._exit(0 if take(1000) == record[START] else 1)
    _, status = os.waitpid(child, 0)
    leave(lent)
    assert os.waitstatus_to_exitcode(status) == 0


def test_it_is_in_huge_pages(lending: tuple[Any, Any], record: np.ndarray) -> None:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if sys.platform != "linux" or not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this system has no transparent huge pages")
    take, leave = lending
    address = take(2 * scratch.HUGE_PAGE)
    memory = (ctypes.c_byte * (2 * scratch.HUGE_PAGE)).from_address(address)
    np.frombuffer(memory, np.int8)[:] = 1
    leave(address)
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        bounds, flags = re.match(r"([0-9a-f]+)-([0-9a-f]+)", block), re.search(r"VmFlags:(.*)", block)
        assert bounds
        assert flags
        if int(bounds[1], 16) <= address < int(bounds[2], 16):
            # Whether there was such a page left is the system's affair; that it was asked for is nbops's.
            assert "hg" in flags[1].split() or "[always]" in setting.read_text()
            return
    raise AssertionError("the block is in no mapping")


def test_other_systems_have_no_madvise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    borrow, give_back = scratch.lending.__wrapped__()
    run: Any = njit(lambda size: give_back(borrow(size)))
    run(1000)
    assert "@madvise" not in next(iter(run.inspect_llvm().values()))
