"""What a launch costs: instructions, global sectors and shared-memory wavefronts, each beside its ideal.

- A warp's global access moves whole *sectors* of 32 bytes. The ideal is the number of sectors that its
  distinct
  bytes would fill.
- Shared memory has 32 banks of 4 bytes. A warp's access takes one *wavefront* for each different word that a
  bank
  must serve; accesses of 8 and 16 bytes go by half and quarter warps. The ideal is one per (part of a) warp.

Counts are kept per instruction, so that a report can name Python lines.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from nbops.targets.emulator.lanes import Active, Array, count

if TYPE_CHECKING:
    from nbops.targets.emulator.batch import Access, Batch
    from nbops.targets.emulator.decode import Block
    from nbops.targets.emulator.nodes import Instruction, Kernel, Location

__all__ = ["Counters", "Traffic", "mnemonic"]

SECTOR = 32


@dataclasses.dataclass
class Traffic:
    """The accesses of one kind: how many warps asked, what they moved, and what would have been enough."""

    requests: int = 0
    moved: int = 0
    ideal: int = 0
    bytes: int = 0

    def __iadd__(self, other: Traffic) -> Traffic:
        self.requests += other.requests
        self.moved += other.moved
        self.ideal += other.ideal
        self.bytes += other.bytes
        return self

    @property
    def ratio(self) -> float:
        """Moved over ideal: 1.0 is perfect."""
        return self.moved / self.ideal if self.ideal else 1.0


def mnemonic(ins: Instruction) -> str:
    """The hardware's name of an instruction: ``fma.rn.f32`` -> FFMA, a 16-byte ``ld.shared`` -> LDS.128."""
    parts = ins.parts
    name, kind = parts[0], parts[-1]
    if name in ("ld", "st"):
        if "param" in parts:
            return "LDC"
        space = next((s for s in ("global", "shared", "local", "const") if s in parts), "generic")
        letter = {"global": "G", "shared": "S", "local": "L", "const": "C", "generic": ""}[space]
        bits = int(kind[1:]) * (4 if "v4" in parts else 2 if "v2" in parts else 1)
        return f"{'LD' if name == 'ld' else 'ST'}{letter}.{bits}"
    if kind in ("f32", "f64") and name in ("fma", "mad", "add", "sub", "mul", "min", "max", "setp", "div"):
        letter = "F" if kind == "f32" else "D"
        hard = {
            "fma": "FMA",
            "mad": "FMA",
            "add": "ADD",
            "sub": "ADD",
            "mul": "MUL",
            "setp": "SETP",
            "div": "DIV",
        }
        return letter + hard.get(name, "MNMX")
    if name in ("ex2", "lg2", "rcp", "rsqrt", "sqrt", "sin", "cos", "tanh"):
        return "MUFU" if kind != "f64" else f"D{name.upper()}"
    if name in ("mad", "mul"):
        return "IMAD"
    if name == "cp":
        return "LDGSTS" if "commit_group" not in parts and "wait_group" not in parts else "DEPBAR"
    hard = {"add": "IADD", "sub": "IADD", "mma": "MMA", "ret": "EXIT", "setp": "ISETP", "selp": "SEL"}
    return hard.get(name, name.upper())


class Counters:
    """The counts of one launch, or of several of one kernel.

    Attributes
    ----------
    instructions : Counter
        Warp instructions by hardware name (FFMA, LDS.128, LDG.32, BAR ...).
    opcodes : Counter
        The same by PTX opcode.
    global_loads, global_stores, shared_loads, shared_stores : Traffic
        Sectors for global memory, wavefronts for shared memory.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        number = len(kernel.instructions)
        self.issued = np.zeros(number, np.int64)
        self.lanes = np.zeros(number, np.int64)
        self.traffic: dict[tuple[int, str, bool], Traffic] = {}

    def block(self, batch: Batch, block: Block, active: Active) -> None:
        """Count the instructions of a basic block that `active` is about to run."""
        warps = batch.warp[active]
        issued = (
            int(np.count_nonzero(np.diff(warps))) + 1 if count(active) != batch.lanes else int(warps[-1]) + 1
        )
        self.issued[block.start : block.end] += issued
        self.lanes[block.start : block.end] += count(active)

    def access(self, batch: Batch, access: Access, store: bool) -> None:
        """Count one access."""
        if access.space == "local":
            return
        key = (access.instruction.index, access.space, store)
        traffic = self.traffic.get(key)
        if traffic is None:
            traffic = self.traffic[key] = Traffic()
        offsets, nbytes, warps = access.offsets, access.nbytes, batch.warp[access.lanes]
        traffic.bytes += nbytes * offsets.size
        if access.space == "global":
            _count_sectors(traffic, offsets, nbytes, warps)
        else:
            _count_wavefronts(traffic, offsets, nbytes, warps, batch.lane[access.lanes])

    def _sum(self, space: str, store: bool) -> Traffic:
        total = Traffic()
        for (_, where, stores), traffic in self.traffic.items():
            if where == space and stores == store:
                total += traffic
        return total

    @property
    def global_loads(self) -> Traffic:
        """Reads of global memory, in sectors."""
        return self._sum("global", False)

    @property
    def global_stores(self) -> Traffic:
        """Writes to global memory, in sectors."""
        return self._sum("global", True)

    @property
    def shared_loads(self) -> Traffic:
        """Reads of shared memory, in wavefronts."""
        return self._sum("shared", False)

    @property
    def shared_stores(self) -> Traffic:
        """Writes to shared memory, in wavefronts."""
        return self._sum("shared", True)

    @property
    def opcodes(self) -> collections.Counter[str]:
        """Warp instructions by PTX opcode."""
        total: collections.Counter[str] = collections.Counter()
        for ins, issued in zip(self.kernel.instructions, self.issued, strict=True):
            if issued:
                total[ins.opcode] += int(issued)
        return total

    @property
    def instructions(self) -> collections.Counter[str]:
        """Warp instructions by the hardware's name."""
        total: collections.Counter[str] = collections.Counter()
        for ins, issued in zip(self.kernel.instructions, self.issued, strict=True):
            if issued:
                total[mnemonic(ins)] += int(issued)
        return total

    @property
    def active_share(self) -> float:
        """How many of a warp's 32 lanes took part, on average over its instructions."""
        issued = int(self.issued.sum())
        return float(self.lanes.sum()) / (32 * issued) if issued else 1.0

    def by_line(self) -> dict[tuple[Location | None, str, bool], Traffic]:
        """Traffic by Python line, space and direction."""
        lines: dict[tuple[Location | None, str, bool], Traffic] = {}
        for (index, space, store), traffic in self.traffic.items():
            key = (self.kernel.instructions[index].location, space, store)
            total = lines.setdefault(key, Traffic())
            total += traffic
        return lines

    def __iadd__(self, other: Counters) -> Counters:
        self.issued += other.issued
        self.lanes += other.lanes
        for key, traffic in other.traffic.items():
            total = self.traffic.setdefault(key, Traffic())
            total += traffic
        return self


def _distinct(sorted_keys: Array) -> Array:
    """Where a sorted array changes; its first entry counts."""
    new = np.empty(sorted_keys.size, bool)
    new[0] = True
    np.not_equal(sorted_keys[1:], sorted_keys[:-1], out=new[1:])
    return new


def _count_sectors(traffic: Traffic, offsets: Array, nbytes: int, warps: Array) -> None:
    keys = (warps << 44) + offsets
    if (keys[1:] < keys[:-1]).any():
        keys = np.sort(keys)
    sectors = keys // SECTOR
    moved = int(np.count_nonzero(sectors[1:] != sectors[:-1])) + 1
    per_warp = np.bincount(keys[_distinct(keys)] >> 44)
    traffic.requests += int(np.count_nonzero(per_warp))
    traffic.moved += moved
    traffic.ideal += int((-(-per_warp * nbytes // SECTOR)).sum())


def _count_wavefronts(traffic: Traffic, offsets: Array, nbytes: int, warps: Array, lanes: Array) -> None:
    unit = max(nbytes, 4)
    banks = 128 // unit
    parts = 32 // banks
    group = warps * parts + lanes // banks if parts > 1 else warps
    words = offsets // unit
    cell = group * banks + words % banks
    serves = np.full(int(cell.max()) + 1, -1, np.int64)
    serves[cell] = words
    groups = int(np.count_nonzero(_distinct(group)))
    traffic.requests += int(np.count_nonzero(_distinct(warps)))
    traffic.ideal += groups
    if np.array_equal(serves[cell], words):
        traffic.moved += groups
        return
    keys = np.sort((cell << 30) + words)
    per_cell = np.bincount(keys[_distinct(keys)] >> 30, minlength=(int(group.max()) + 1) * banks)
    traffic.moved += int(per_cell[: (int(group.max()) + 1) * banks].reshape(-1, banks).max(axis=1).sum())
