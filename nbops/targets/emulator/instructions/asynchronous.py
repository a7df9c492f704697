"""cp.async: copies from global to shared memory that land when their group has been waited for.

Until then the bytes in shared memory count as unwritten (initcheck reports who reads them early), and other
threads that touch them race with the copy, from the moment it is issued.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from nbops.targets.emulator.batch import Access, Batch
from nbops.targets.emulator.decode import Decoder, Step, instruction
from nbops.targets.emulator.lanes import Active, Array, indices
from nbops.targets.emulator.nodes import Instruction

__all__ = ["Copy"]

OCTET = np.dtype(np.uint8)
WORD = np.dtype(np.uint32)


@dataclasses.dataclass
class Copy:
    """Words on their way: the group each lane gave them to."""

    lanes: Array
    group: Array
    offsets: Array
    words: list[Array]
    instruction: Instruction


@instruction("cp")
def _copy(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    if parts[1] != "async" or "bulk" in parts or "mbarrier" in parts:
        raise decoder.unknown(ins)
    if "commit_group" in parts:
        return _commit
    if "wait_group" in parts:
        return _wait(int(ins.operands[0], 0))
    if "wait_all" in parts:
        return _wait(None)
    to, source = decoder.address(ins.operands[0]), decoder.address(ins.operands[1])
    nbytes = int(ins.operands[2], 0)
    taken = decoder.read(ins.operands[3], "u32") if len(ins.operands) > 3 else None

    def run(batch: Batch, active: Active) -> None:
        start = source(batch, active)
        size = (
            np.full(start.size, nbytes)
            if taken is None
            else np.broadcast_to(np.asarray(taken(batch, active), np.int64), start.shape)
        )
        words = [np.zeros(start.size, WORD) for _ in range(nbytes // 4)]
        for length in np.unique(size):
            if length == 0:
                continue
            chosen = np.flatnonzero(size == length)
            mine = indices(active)[chosen]
            if length == nbytes:
                got = batch.load("global", start[chosen], WORD, nbytes // 4, mine, ins)
                for word, value in zip(words, got, strict=True):
                    word[chosen] = value
            else:
                for octet in range(int(length)):
                    (value,) = batch.load("global", start[chosen] + octet, OCTET, 1, mine, ins)
                    words[octet // 4][chosen] |= value.astype(WORD) << WORD.type(8 * (octet % 4))
        place = to(batch, active)
        for access in batch.accesses("shared", place, nbytes, active, ins, "write"):
            batch.check_write(access)
            access.region.mark(access.offsets, nbytes, 0)
            own = indices(active)
            batch.copies.append(Copy(own, batch.copy_group[own].copy(), access.offsets, words, ins))

    return run


def _commit(batch: Batch, active: Active) -> None:
    batch.copy_group[active] += 1


def _wait(pending: int | None) -> Step:
    """Let land all but the newest `pending` groups of each lane; None: all, committed or not."""

    def run(batch: Batch, active: Active) -> None:
        here = np.zeros(batch.lanes, bool)
        here[active] = True
        kept = []
        for copy in batch.copies:
            lands = here[copy.lanes]
            if pending is not None:
                lands &= copy.group < batch.copy_group[copy.lanes] - pending
            if lands.any():
                words = [word[lands] for word in copy.words]
                nbytes = 4 * len(words)
                offsets, lanes = copy.offsets[lands], copy.lanes[lands]
                if batch.launch.racecheck:
                    batch.land(Access("shared", batch.shared, offsets, nbytes, lanes, copy.instruction))
                batch.shared.store(offsets, WORD, words)
            if not lands.all():
                stay = ~lands
                kept.append(
                    Copy(
                        copy.lanes[stay],
                        copy.group[stay],
                        copy.offsets[stay],
                        [word[stay] for word in copy.words],
                        copy.instruction,
                    )
                )
        batch.copies = kept

    return run
