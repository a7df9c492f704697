"""Memory for large results, used again when they are gone.

A new array of many MiB is memory that the system has to hand out and clear, page by page, when it is first
written: for 40 MB that takes three times as long as adding two arrays into memory that is there. C libraries
keep what was freed for the next request, but give large blocks back at once. Here the last few are kept::

    result = empty(shape, dtype)      a block that is free, or a new one
    del result                        when no view of it is left either, the block is free again

The array does not own its memory (``result.base`` is not None), as a view does not.

On Linux a block is a mapping of its own, in pages of 2 MB. One from the C library may lie where smaller
arrays were, and then keeps their pages of 4 KB: more places than a core remembers.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from typing import Any, Literal

import numpy as np

__all__ = ["LARGE", "empty"]

#: Bytes from which on memory is kept. glibc gives blocks of more than 32 MiB back whenever they are freed,
#: and smaller ones when enough of them lie at the end of its heap.
LARGE = 8 << 20
LINE = 64  # bytes in a cache line: a vector that crosses a line's border takes two loads
HUGE_PAGE = 2 << 20
#: How many bytes of free blocks are kept at most.
KEPT = 128 << 20

_free: dict[int, np.ndarray] = {}  # the oldest first


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> np.ndarray:
    """An array of at least `LARGE` bytes whose elements nobody has set.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    order : {"C", "F"}

    Raises
    ------
    MemoryError
        When there is no room, not even after giving back what is kept.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.large_arrays import empty
    >>> x = empty((4096, 1024), np.dtype(np.float32), "C")
    >>> x.shape, x.flags.c_contiguous, x.flags.writeable
    ((4096, 1024), True, True)
    """
    size = dtype.itemsize
    for length in shape:
        size *= length
    lease = _Lease(_take(size + LINE))
    lease.__array_interface__ = {
        "version": 3,
        "data": (lease.address, False),
        "shape": (size // dtype.itemsize,),
        "typestr": dtype.str,
    }
    flat: np.ndarray = np.asarray(lease)
    return flat.reshape(shape, order=order)


class _Lease:
    """What an array has for its base: when it goes, so have all views of the array, and the block is free."""

    __array_interface__: dict[str, Any]

    def __init__(self, block: np.ndarray) -> None:
        start = block.__array_interface__["data"][0]
        self._block = block
        self.address = start + -start % LINE

    def __del__(self, finalizing: Any = sys.is_finalizing) -> None:
        if not finalizing():
            _keep(self._block)


def _take(size: int) -> np.ndarray:
    """A block with room for `size` bytes, and not much more."""
    block: np.ndarray
    for key, block in reversed(list(_free.items())):
        if size <= block.nbytes <= size + size // 8 and _free.pop(key, None) is not None:
            return block
    try:
        return _new_block(size)
    except MemoryError:
        _free.clear()
        return _new_block(size)


def _new_block(size: int) -> np.ndarray:
    """Memory that nobody wrote to yet, in huge pages where there are any."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE
    try:
        area = mmap.mmap(-1, whole + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:  # there is no room, or there are too many mappings
        raise MemoryError(f"no room for {size} bytes: {error}") from None
    with contextlib.suppress(OSError):  # a system without huge pages
        area.madvise(mmap.MADV_HUGEPAGE)
    pages = np.frombuffer(area, np.uint8)
    start = -pages.__array_interface__["data"][0] % HUGE_PAGE
    return pages[start : start + size]


def _keep(block: np.ndarray) -> None:
    """Keep a free block; the oldest ones go when there are too many."""
    _free[id(block)] = block
    blocks = list(_free.items())
    excess = sum(kept.nbytes for _, kept in blocks) - KEPT
    for key, kept in blocks:
        if excess <= 0:
            break
        _free.pop(key, None)
        excess -= kept.nbytes
