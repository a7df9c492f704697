"""Memory of large results: used again when nobody has a view of it left, never while somebody has."""

from __future__ import annotations

import gc
import mmap
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

import nbops
from nbops import large_arrays

SHAPE = (large_arrays.LARGE // 4096, 1024)
FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    gc.collect()
    large_arrays._free.clear()


def address(x: np.ndarray) -> int:
    return int(x.__array_interface__["data"][0])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_large_result_is_an_ordinary_array(order: str) -> None:
    x = nbops.relu(np.full(SHAPE, -1, np.float32, order=order))
    assert type(x) is np.ndarray
    assert (x.shape, x.dtype, x.strides) == (SHAPE, FLOAT32, np.empty(SHAPE, np.float32, order).strides)
    assert x.flags.writeable
    assert x.flags.aligned
    assert address(x) % 64 == 0
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x)), 0)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux can be asked for huge pages")
def test_a_block_begins_with_a_page_of_2_mb_and_is_the_process_own() -> None:
    x = large_arrays.empty(SHAPE, FLOAT32, "C")
    assert address(x) % large_arrays.HUGE_PAGE == 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        limits, access = line.split()[:2]
        start, stop = (int(limit, 16) for limit in limits.split("-"))
        if start <= address(x) < stop:
            assert access == "rw-p"  # private: a child of fork has its own
            return
    pytest.fail("the block is in no mapping")


def test_memory_is_used_again() -> None:
    x = np.ones(SHAPE, np.float32)
    first = nbops.negative(x)
    place = address(first)
    assert address(nbops.negative(x)) != place
    del first
    again = nbops.add(x, x)
    assert address(again) == place
    np.testing.assert_array_equal(again, 2)


def test_a_view_keeps_the_memory() -> None:
    x = np.ones(SHAPE, np.float32)
    result = nbops.negative(x)
    row, place = result[5], address(result)
    del result
    for _ in range(3):
        assert address(nbops.add(x, x)) != place
    np.testing.assert_array_equal(row, -1)


def test_no_more_is_kept_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_arrays, "KEPT", 3 * large_arrays.LARGE)
    blocks = [large_arrays.empty((large_arrays.LARGE * n,), np.dtype(np.uint8), "C") for n in (1, 2, 1, 1, 2)]
    blocks.clear()
    assert 0 < sum(block.nbytes for block in large_arrays._free.values()) <= 3 * large_arrays.LARGE


def test_a_much_larger_block_is_left_alone() -> None:
    large = large_arrays.empty((large_arrays.LARGE * 4,), np.dtype(np.uint8), "C")
    place = address(large)
    del large
    assert address(large_arrays.empty((large_arrays.LARGE,), np.dtype(np.uint8), "C")) != place


def test_what_is_kept_is_given_back_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = large_arrays.empty(SHAPE, FLOAT32, "C")
    del kept
    assert large_arrays._free
    with pytest.raises(MemoryError):
        large_arrays.empty((1 << 60,), np.dtype(np.uint8), "C")
    assert not large_arrays._free


def test_threads_never_share_a_block() -> None:
    wrong = []

    def fill(number: int) -> None:
        for _ in range(200):
            x = large_arrays.empty((large_arrays.LARGE,), np.dtype(np.uint8), "C")
            x[::4096] = number
            if (x[::4096] != number).any():
                wrong.append(number)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="only Linux can be asked for huge pages")
def test_a_mapping_that_is_refused_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match=r"no room for .* bytes: .*Cannot allocate"):
        large_arrays.empty(SHAPE, FLOAT32, "C")
