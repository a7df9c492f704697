"""The sizes of a matrix product's tiles, and which one suits a call.

A large tile reads less for the same work, but makes fewer blocks: with fewer than the GPU has
multiprocessors, some of them idle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TILES", "Tile", "choose"]

WARP = 32


@dataclass(frozen=True)
class Tile:
    """How a product is cut.

    Parameters
    ----------
    m, n : int
        Rows and columns of the result that a block computes.
    thread_m, thread_n : int
        Those that a thread computes.
    depth : int
        Steps of the sum that are in shared memory at a time.
    lanes_m, lanes_n : int
        The threads of a warp, as rows and columns.
    """

    m: int
    n: int
    thread_m: int
    thread_n: int
    depth: int = 8
    lanes_m: int = 4
    lanes_n: int = 8

    @property
    def warps_n(self) -> int:
        return self.n // (self.lanes_n * self.thread_n)

    @property
    def threads(self) -> int:
        return WARP * self.warps_n * (self.m // (self.lanes_m * self.thread_m))

    @property
    def time(self) -> float:
        """Of a step of the sum: the multiply-adds, and what is read for them from shared and global memory.

        The weights are estimates: no GPU has measured them.
        """
        from_shared = (self.thread_m + self.thread_n) / (self.thread_m * self.thread_n)
        from_global = (self.m + self.n) / (self.m * self.n)
        return self.m * self.n * (1 + 2 * from_shared + 24 * from_global)


#: Largest first, by the size of an element in bytes.
TILES = {
    4: (Tile(128, 128, 8, 8), Tile(64, 64, 8, 4), Tile(32, 32, 4, 4)),
    8: (Tile(64, 64, 8, 4), Tile(32, 32, 4, 4)),
}


def choose(itemsize: int, items: int, m: int, n: int, k: int, multiprocessors: int) -> Tile:
    """The tile with which the multiprocessors should be done first."""

    def time(tile: Tile) -> float:
        blocks = math.ceil(m / tile.m) * math.ceil(n / tile.n) * items
        return math.ceil(blocks / multiprocessors) * tile.time

    return min(TILES[itemsize], key=time)
