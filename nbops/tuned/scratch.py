"""The memory that products work in: one block that the process keeps, in pages of 2 MB.

A product copies parts of its operands to scratch memory and reads them there again and again. In pages of
4 KB, what it reads within a millisecond lies in more pages than a core remembers the places of; it looks them
up in tables then, and under a hypervisor in two of them. So scratch memory asks the system for huge pages, as
NumPy does for large arrays, and is kept, for new pages are filled with zeros.

The block is lent to one product at a time. One that finds it lent, on another thread, allocates memory of its
own. It grows as far as a product needs, to some 9 MB for each core.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from nbops import compiler, forks
from nbops.large_arrays import HUGE_PAGE
from nbops.targets.atomics import advise, load, store, swap_if
from nbops.tuned.pointers import release, try_to_allocate

__all__ = ["lending"]

#: The record's words: where the block starts, its size, what was allocated for it, and whether it is lent.
START, SIZE, ALLOCATED, LENT = 0, 8, 16, 24
SYMBOL = "nbops_scratch"
WILL_NEED_HUGE_PAGES = 14  # Linux's MADV_HUGEPAGE


def record_address() -> int:
    """Stands in for the address of the record."""
    raise NotImplementedError


def ask_for_huge_pages(start: int, size: int) -> None:
    """Let the system put a stretch of memory that nobody wrote to yet into huge pages."""
    advise(start, size, WILL_NEED_HUGE_PAGES)


def leave_the_pages(start: int, size: int) -> None:
    """What stands in for this on other systems than Linux."""


def borrow(size: int) -> int:
    """The address of `size` bytes, to be given back with `give_back`; 0 where there is no room."""
    record = record_address()
    if swap_if(record + LENT, 0, 1) == 0:
        own: int = try_to_allocate(size)
        return own
    if load(record + SIZE) < size:
        grow(record, size)
    if load(record + SIZE) < size:  # there is no room for huge pages
        store(record + LENT, 0)
        own = try_to_allocate(size)
        return own
    kept: int = load(record + START)
    return kept


def grow(record: int, size: int) -> None:
    """Replace the block by a larger one, or by none.

    At every moment the record names memory that is there, or none: a child of ``fork`` may begin at any.
    """
    before = load(record + ALLOCATED)
    store(record + SIZE, 0)
    store(record + START, 0)
    store(record + ALLOCATED, 0)
    if before != 0:
        release(before)
    whole = (size + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    allocated = try_to_allocate(whole + HUGE_PAGE)
    if allocated != 0:
        start = (allocated + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
        ask_for_huge_pages(start, whole)
        store(record + ALLOCATED, allocated)
        store(record + START, start)
        store(record + SIZE, whole)


def give_back(address: int) -> None:
    """What `borrow` gave is no longer used."""
    record = record_address()
    if address == 0:
        return
    if address == load(record + START):
        store(record + LENT, 0)
    else:
        release(address)


RECORD = np.zeros(4, np.int64)


@functools.cache
def lending() -> tuple[Any, Any]:
    """`borrow` and `give_back`, to be compiled into their callers."""
    compiler.add_symbol(SYMBOL, RECORD.ctypes.data)  # code that knows the record by it is loaded later
    names: dict[str, Any] = {"record_address": compiler.symbol_address(SYMBOL)}
    pages = ask_for_huge_pages if sys.platform == "linux" else leave_the_pages
    names["ask_for_huge_pages"] = compiler.part(compiler.specialise(pages, "scratch"))
    names["grow"] = compiler.part(compiler.specialise(grow, "scratch", **names))
    return (
        compiler.part(compiler.specialise(borrow, "scratch", **names)),
        compiler.part(compiler.specialise(give_back, "scratch", **names)),
    )


@forks.after_in_child
def forget_borrower() -> None:
    """In a child of ``fork``: the thread that had the block is not there."""
    RECORD[LENT // 8] = 0
