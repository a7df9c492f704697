"""The sizes of a matrix product's tiles, and which one suits a call.

A large tile reads less for the same work, but makes fewer blocks: with fewer than the GPU has
multiprocessors, some of them idle. Where even small tiles are too few, the sum is cut into parts, which other
blocks compute and a second kernel adds (split-K); a layer's weight gradient is such a product, small and
summed over the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["TF32_TILES", "TILES", "Tile", "choose"]

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
    group_m, group_n : int
        Neighbouring rows and columns of a thread; 0 for as many as are loaded at once.
    """

    m: int
    n: int
    thread_m: int
    thread_n: int
    depth: int = 8
    lanes_m: int = 4
    lanes_n: int = 8
    group_m: int = 0
    group_n: int = 0

    @property
    def warps_n(self) -> int:
        """How many of a block's warps lie side by side along n."""
        return self.n // (self.lanes_n * self.thread_n)

    @property
    def threads(self) -> int:
        """How many threads a block has."""
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


#: For tensor cores: a warp multiplies 16 x 8 by 8 x 8, and a thread has elements as the hardware deals them.
TF32_TILES = (
    Tile(128, 128, 4, 16, depth=16, lanes_m=8, lanes_n=4, group_m=1, group_n=2),
    Tile(64, 64, 4, 8, depth=16, lanes_m=8, lanes_n=4, group_m=1, group_n=2),
)
#: Parts that a sum may be cut into: few enough for a second kernel that reads all of them at once.
PARTS = (1, 2, 4, 8, 16, 32)
#: Steps that a part has at least.
LEAST_STEPS = 64
#: What a launch, and a byte that the second kernel moves, take in the unit of `Tile.time`.
LAUNCH, BYTE = 800_000, 0.1


def choose(
    tiles: Sequence[Tile], itemsize: int, items: int, m: int, n: int, k: int, multiprocessors: int
) -> tuple[Tile, int]:
    """The tile, and how many parts of the sum, with which the multiprocessors should be done first."""

    def time(choice: tuple[Tile, int]) -> float:
        tile, parts = choice
        blocks = math.ceil(m / tile.m) * math.ceil(n / tile.n) * items * parts
        multiplied = math.ceil(blocks / multiprocessors) * tile.time * math.ceil(k / parts)
        added = LAUNCH + BYTE * (2 * parts + 1) * items * m * n * itemsize
        return multiplied + added if parts > 1 else multiplied

    choices = [(tile, p) for tile in tiles for p in PARTS if p == 1 or k >= p * LEAST_STEPS]
    return min(choices, key=time)
