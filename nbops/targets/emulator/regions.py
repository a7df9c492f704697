"""Memory as the emulator sees it: bytes, which of them have been written, and who touched them last.

A `Region` is one allocation in global memory, or the shared memory of a batch of blocks, or the local memory
of its lanes. `GlobalMemory` finds the region of an address. Addresses are never given out twice, so a use
after free is always seen, and between two regions there are at least 256 bytes that belong to nobody.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np

from nbops.targets.emulator.lanes import Array
from nbops.targets.emulator.races import AccessHistory

__all__ = ["GlobalMemory", "Region"]

WRITTEN = 0xFF
_ALL_WRITTEN = {n: np.array([(1 << 8 * n) - 1], f"u{n}")[0] for n in (1, 2, 4, 8)}
ALIGNMENT = 256
FIRST_ADDRESS = 0x7F_0000_0000
FREED_TO_REMEMBER = 4096


class Region:
    """Bytes with a shadow that says which have been written."""

    def __init__(self, nbytes: int, address: int = 0, name: str = "") -> None:
        self.nbytes = nbytes
        self.address = address
        self.name = name
        padded = -(-nbytes // 16) * 16 + 16
        self.data = np.zeros(padded, np.uint8)
        self.shadow = np.zeros(padded, np.uint8)
        self.complete = nbytes == 0
        self.history: AccessHistory | None = None
        self._views: dict[np.dtype[np.generic], Array] = {}

    def view(self, dtype: np.dtype[np.generic]) -> Array:
        """The bytes as an array of `dtype`."""
        found = self._views.get(dtype)
        if found is None:
            found = self._views[dtype] = self.data.view(dtype)
        return found

    def load(self, offsets: Array, dtype: np.dtype[np.generic], vector: int) -> Array:
        """``(lanes, vector)`` values at byte offsets, or ``(lanes,)`` for a vector of one."""
        if vector == 1:
            values: Array = self.view(dtype)[offsets // dtype.itemsize]
            return values
        rows = self.view(dtype).reshape(-1, vector)
        vectors: Array = rows[offsets // (dtype.itemsize * vector)]
        return vectors

    def store(self, offsets: Array, dtype: np.dtype[np.generic], values: list[Array]) -> None:
        """Write each lane's values, neighbours in memory, at its byte offset."""
        view = self.view(dtype)
        first = offsets // dtype.itemsize
        for position, value in enumerate(values):
            view[first + position if position else first] = value
        if not self.complete:
            self.mark(offsets, dtype.itemsize * len(values), WRITTEN)

    def mark(self, offsets: Array, nbytes: int, state: int) -> None:
        """Set the shadow of `nbytes` bytes from each offset."""
        if state != WRITTEN:
            self.complete = False
        size = min(nbytes, 8)
        shadow = self.shadow.view(f"u{size}")
        value = _ALL_WRITTEN[size] if state else shadow.dtype.type(0)
        first = offsets // size
        shadow[first] = value
        if nbytes == 16:
            shadow[first + 1] = value

    def unwritten(self, offsets: Array, nbytes: int) -> Array | None:
        """Which lanes would read a byte that was never written; None where none would."""
        if self.complete:
            return None
        size = min(nbytes, 8)
        shadow = self.shadow.view(f"u{size}")
        first = offsets // size
        missing: Array = shadow[first] != _ALL_WRITTEN[size]
        if nbytes == 16:
            missing |= shadow[first + 1] != _ALL_WRITTEN[size]
        return missing if missing.any() else None

    def settle(self) -> None:
        """Notice that everything is written by now: loads then need no look at the shadow."""
        if not self.complete:
            self.complete = bool((self.shadow[: self.nbytes] == WRITTEN).all())

    def write_bytes(self, offset: int, data: Array) -> None:
        """Copy from the host."""
        self.data[offset : offset + data.size] = data
        if not self.complete:
            self.shadow[offset : offset + data.size] = WRITTEN
            self.complete = data.size == self.nbytes


class GlobalMemory:
    """Allocations by address."""

    def __init__(self) -> None:
        self.regions: dict[int, Region] = {}
        self.addresses: list[int] = []
        self.freed: dict[int, int] = {}
        self._next = FIRST_ADDRESS
        self._last: Region | None = None

    def allocate(self, nbytes: int, name: str = "") -> Region:
        """A new region of unwritten bytes."""
        region = Region(nbytes, self._next, name)
        self._next += -(-nbytes // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        self.regions[region.address] = region
        self.addresses.append(region.address)
        return region

    def free(self, address: int) -> None:
        """Forget a region; its address stays known as freed."""
        region = self.regions.pop(address)
        del self.addresses[bisect.bisect_left(self.addresses, address)]
        self.freed[address] = region.nbytes
        if len(self.freed) > FREED_TO_REMEMBER:
            del self.freed[next(iter(self.freed))]
        if self._last is region:
            self._last = None

    def at(self, address: int) -> Region | None:
        """The region that an address lies in."""
        position = bisect.bisect_right(self.addresses, address) - 1
        if position < 0:
            return None
        region = self.regions[self.addresses[position]]
        return region if address < region.address + region.nbytes else None

    def locate(self, addresses: Array, nbytes: int) -> Iterator[tuple[Region | None, Array, Array | None]]:
        """``(region, offsets, which lanes)`` for each region that is touched.

        The lanes are None where they are all of them; the region is None for lanes whose bytes lie in none.
        """
        lowest, highest = int(addresses.min()), int(addresses.max())
        region = self._last
        if region is None or not region.address <= lowest < region.address + region.nbytes:
            region = self._last = self.at(lowest)
        if region is not None and highest + nbytes <= region.address + region.nbytes:
            yield region, addresses - region.address, None
            return
        bases = np.array(self.addresses, np.int64)
        owner = np.searchsorted(bases, addresses, side="right") - 1
        for number in np.unique(owner):
            lanes = np.flatnonzero(owner == number)
            if number < 0:
                yield None, addresses[lanes], lanes
                continue
            region = self.regions[int(bases[number])]
            offsets = addresses[lanes] - region.address
            inside = offsets + nbytes <= region.nbytes
            if inside.any():
                yield region, offsets[inside], lanes[inside]
            if not inside.all():
                yield None, addresses[lanes[~inside]], lanes[~inside]

    def describe(self, address: int) -> str:
        """Where an address that belongs to nobody lies."""
        position = bisect.bisect_right(self.addresses, address) - 1
        nearest = [self.regions[a] for a in self.addresses[max(position, 0) : position + 2]]
        for start, nbytes in self.freed.items():
            if start <= address < start + max(nbytes, 1):
                return f"{address - start} bytes into an allocation of {nbytes} bytes that was freed"
        if not nearest:
            return "no memory is allocated"
        region = min(
            nearest, key=lambda r: min(abs(address - r.address), abs(address - r.address - r.nbytes))
        )
        what = f"an allocation of {region.nbytes} bytes" + (f" ({region.name})" if region.name else "")
        if address < region.address:
            return f"{region.address - address} bytes before {what}"
        if address >= region.address + region.nbytes:
            return f"{address - region.address - region.nbytes} bytes after the end of {what}"
        return f"{address - region.address} bytes into {what}, and reaching past its end"
