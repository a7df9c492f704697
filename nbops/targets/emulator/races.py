"""Who touched a cell of memory last, and whether the next access is ordered after it.

A *stamp* packs block, barrier interval, thread and warp interval into one integer, most significant first:

    block (21 bits) | interval of the block (20) | thread (10) | interval of the warp (12)

Two accesses of one cell, at least one of them a write, are ordered when they are of one thread, or of one
block with a barrier between (the intervals differ), or of one warp with a ``bar.warp.sync`` between.
Otherwise they race. Each cell remembers its last writer, the last atomic access, and two readers: the
highest and the lowest by block, newest interval, then thread. Two are enough: a writer that conflicts with
any reader of its interval, or with any reader of another block, conflicts with one of these two.
"""

from __future__ import annotations

import numpy as np

from nbops.targets.emulator.lanes import Array

__all__ = ["AccessHistory", "conflicts", "lowest_stamp", "stamp", "thread_of"]

_THREAD, _INTERVAL, _BLOCK = 12, 22, 42
_THREADS = 1023
_BLOCKS = (1 << 21) - 1
_WARP_INTERVALS = (1 << 12) - 1


def stamp(block: Array, interval: Array, thread: Array, warp_interval: Array) -> Array:
    """Pack; newer and higher compare greater."""
    result: Array = (
        ((block & _BLOCKS) << _BLOCK)
        | (interval << _INTERVAL)
        | (thread << _THREAD)
        | np.minimum(warp_interval, _WARP_INTERVALS)
    )
    return result


def lowest_stamp(stamps: Array) -> Array:
    """The same with block and thread counted down, so that the lowest compares greatest."""
    result: Array = stamps ^ ((_BLOCKS << _BLOCK) | (_THREADS << _THREAD))
    return result


def thread_of(value: int) -> tuple[int, int]:
    """``(block, thread)`` of a stamp."""
    return value >> _BLOCK, (value >> _THREAD) & _THREADS


def conflicts(earlier: Array, now: Array) -> Array | None:
    """Which lanes are not ordered after an earlier access (-1: there was none); None where all are."""
    difference = earlier ^ now
    found: Array = (difference >> _INTERVAL) == 0
    found &= (difference >> _THREAD) != 0
    found |= difference >= (1 << _BLOCK)
    found &= earlier >= 0
    if not found.any():
        return None
    same_warp = (difference >> (_THREAD + 5)) == 0
    found &= ~(same_warp & ((earlier & _WARP_INTERVALS) < (now & _WARP_INTERVALS)))
    return found if found.any() else None


class AccessHistory:
    """The last accesses of each cell of one region, within one launch."""

    def __init__(self, nbytes: int, granule: int) -> None:
        self.granule = granule
        cells = -(-nbytes // 16) * 16 // granule + 16
        self.writer = np.full(cells, -1, np.int64)
        self.atomic: Array | None = None
        self.highest: Array | None = None
        self.lowest: Array | None = None

    def refine(self, granule: int) -> None:
        """Smaller cells, because a narrower access has come."""
        factor = self.granule // granule
        self.granule = granule
        self.writer = np.repeat(self.writer, factor)
        self.atomic = None if self.atomic is None else np.repeat(self.atomic, factor)
        self.highest = None if self.highest is None else np.repeat(self.highest, factor)
        self.lowest = None if self.lowest is None else np.repeat(self.lowest, factor)

    def _cells(self, offsets: Array, nbytes: int, stamps: Array) -> tuple[Array, Array]:
        if nbytes < self.granule:
            self.refine(nbytes)
        cells = offsets // self.granule
        wide = nbytes // self.granule
        if wide == 1:
            return cells, stamps
        return (cells[:, None] + np.arange(wide)).ravel(), np.repeat(stamps, wide)

    def read(self, offsets: Array, nbytes: int, stamps: Array) -> tuple[str, int, int] | None:
        """Record reads; ``(what, position, stamp of the other)`` where one races with an earlier write."""
        cells, now = self._cells(offsets, nbytes, stamps)
        wide = cells.size // offsets.size
        for kind, earlier in (("a write", self.writer), ("an atomic operation", self.atomic)):
            if earlier is not None:
                before = earlier[cells]
                if (found := conflicts(before, now)) is not None:
                    position = int(found.argmax())
                    return f"reads what {kind} changes", position // wide, int(before[position])
        if self.highest is None or self.lowest is None:
            self.highest = np.full(self.writer.size, -1, np.int64)
            self.lowest = np.full(self.writer.size, -1, np.int64)
        self.highest[cells] = np.maximum(self.highest[cells], now)
        backwards = cells[::-1]
        self.lowest[backwards] = np.maximum(self.lowest[backwards], lowest_stamp(now)[::-1])
        return None

    def write(self, offsets: Array, nbytes: int, stamps: Array, atomic: bool) -> tuple[str, int, int] | None:
        """Record writes; ``(what, position, stamp of the other)`` where one races."""
        cells, now = self._cells(offsets, nbytes, stamps)
        wide = cells.size // offsets.size
        checks = [("overwrites what a write stores", self.writer)]
        if not atomic and self.atomic is not None:
            checks.append(("overwrites what an atomic operation changes", self.atomic))
        for what, earlier in checks:
            before = earlier[cells]
            if (found := conflicts(before, now)) is not None:
                position = int(found.argmax())
                return what, position // wide, int(before[position])
        if self.highest is not None and self.lowest is not None:
            high = self.highest[cells]
            low = self.lowest[cells]
            low = np.where(low < 0, low, lowest_stamp(low))
            for before in (high, low):
                if (found := conflicts(before, now)) is not None:
                    position = int(found.argmax())
                    return "overwrites what a read needs", position // wide, int(before[position])
        if atomic:
            if self.atomic is None:
                self.atomic = np.full(self.writer.size, -1, np.int64)
            self.atomic[cells] = now
            return None
        self.writer[cells] = now
        after = self.writer[cells]
        if not np.array_equal(after, now):
            position = int((after != now).argmax())
            return (
                "stores, in one instruction, to where another thread stores",
                position // wide,
                int(after[position]),
            )
        return None
