"""Operations of a warp: shfl, vote, match, redux, activemask, and barriers that compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator.batch import WARP, Batch
from nbops.targets.emulator.decode import Decoder, Step, dtype_of, instruction
from nbops.targets.emulator.lanes import Active, Array, count, indices
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []


def _spread(value: Any, active: Active, dtype: Any = np.int64) -> Array:
    return np.broadcast_to(np.asarray(value).astype(dtype), (count(active),))


@instruction("shfl")
def _shuffle(decoder: Decoder, ins: Instruction) -> Step:
    """Each lane reads a register of another; the predicate says whether that one lies in its segment."""
    parts = ins.parts
    if "sync" not in parts:
        raise decoder.unknown(ins)
    mode = parts[2]
    destinations = ins.operands[0].split("|")
    source = decoder.read(ins.operands[1], "b32")
    by, clamp = decoder.read(ins.operands[2], "u32"), decoder.read(ins.operands[3], "u32")
    write = decoder.write(destinations[0], "b32")
    write_valid = decoder.write(destinations[1], "pred") if len(destinations) > 1 else None

    def run(batch: Batch, active: Active) -> None:
        lane = batch.lane[active]
        b = _spread(by(batch, active), active) & 31
        c = _spread(clamp(batch, active), active)
        segment, limit = (c >> 8) & 31, c & 31
        lowest = lane & segment
        highest = lowest | (limit & ~segment)
        if mode == "up":
            chosen = lane - b
            valid = chosen >= highest
        else:
            chosen = {"down": lane + b, "bfly": lane ^ b, "idx": lowest | (b & ~segment)}[mode]
            valid = chosen <= highest
        chosen = np.where(valid, chosen, lane)
        values = np.zeros(batch.lanes + WARP, np.uint32)
        values[: batch.lanes][active] = source(batch, active)
        own = indices(active)
        thread = batch.thread[active]
        same_warp = thread - lane + chosen < batch.threads
        fetched = values[np.where(same_warp, own - lane + chosen, own)]
        write(batch, active, fetched)
        if write_valid is not None:
            write_valid(batch, active, valid)

    return run


def _groups(batch: Batch, active: Active, mask: Array) -> tuple[Array, Array]:
    """``(group of each lane, number of groups)``: lanes of a warp whose masks are equal act together."""
    keys = (batch.warp[active] << 32) | mask
    if (keys[1:] >= keys[:-1]).all():
        new = np.concatenate([[False], keys[1:] != keys[:-1]])
        return np.cumsum(new), keys
    _, group = np.unique(keys, return_inverse=True)
    return group, keys


def _ballot(batch: Batch, active: Active, group: Array, chosen: Array) -> Array:
    weights = np.where(chosen, np.exp2(batch.lane[active]), 0.0)  # sums of distinct powers of two are exact
    result: Array = np.bincount(group, weights=weights).astype(np.int64)[group]
    return result


@instruction("vote")
def _vote(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    if "sync" not in parts:
        raise decoder.unknown(ins)
    mode = parts[2]
    predicate = decoder.predicate(ins.operands[1])
    members = decoder.read(ins.operands[2], "u32")
    write = decoder.write(ins.operands[0], "b32" if mode == "ballot" else "pred")

    def run(batch: Batch, active: Active) -> None:
        mask = _spread(members(batch, active), active)
        group, _ = _groups(batch, active, mask)
        holds = _spread(predicate(batch, active), active, bool)
        ballot = _ballot(batch, active, group, holds)
        everyone = _ballot(batch, active, group, np.ones_like(holds))
        if mode == "ballot":
            write(batch, active, ballot.astype(np.uint32))
        elif mode == "any":
            write(batch, active, ballot != 0)
        elif mode == "all":
            write(batch, active, ballot == everyone)
        else:
            write(batch, active, (ballot == everyone) | (ballot == 0))

    return run


@instruction("activemask")
def _active_mask(decoder: Decoder, ins: Instruction) -> Step:
    write = decoder.write(ins.operands[0], "b32")

    def run(batch: Batch, active: Active) -> None:
        group, _ = _groups(batch, active, np.zeros(count(active), np.int64))
        write(batch, active, _ballot(batch, active, group, np.ones(count(active), bool)).astype(np.uint32))

    return run


@instruction("match")
def _match(decoder: Decoder, ins: Instruction) -> Step:
    """The lanes of a warp that hold this one's value; ``all``: the mask if all hold the same, else 0."""
    parts = ins.parts
    destinations = ins.operands[0].split("|")
    read, members = decoder.read(ins.operands[1], parts[-1]), decoder.read(ins.operands[2], "u32")
    write = decoder.write(destinations[0], "b32")
    write_same = decoder.write(destinations[1], "pred") if len(destinations) > 1 else None

    def run(batch: Batch, active: Active) -> None:
        group, _ = _groups(batch, active, _spread(members(batch, active), active))
        values = _spread(read(batch, active), active, dtype_of(parts[-1]))
        pairs = np.stack([group.astype(np.uint64), values.astype(np.uint64)])
        _, alike = np.unique(pairs, axis=1, return_inverse=True)
        ballot = _ballot(batch, active, alike.reshape(-1), np.ones(group.size, bool))
        if "all" in parts:
            same = ballot == _ballot(batch, active, group, np.ones(group.size, bool))
            ballot = np.where(same, ballot, 0)
            if write_same is not None:
                write_same(batch, active, same)
        write(batch, active, ballot.astype(np.uint32))

    return run


_REDUCE: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@instruction("redux")
def _reduce(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    function: Any = _REDUCE.get(parts[2])
    if function is None or kind[0] == "f":
        raise decoder.unknown(ins)
    read, members = decoder.read(ins.operands[1], kind), decoder.read(ins.operands[2], "u32")
    write = decoder.write(ins.operands[0], kind)

    def run(batch: Batch, active: Active) -> None:
        group, _ = _groups(batch, active, _spread(members(batch, active), active))
        values = _spread(read(batch, active), active, dtype_of(kind))
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        write(batch, active, function.reduceat(values[order], starts)[group])

    return run


@instruction("bar", "barrier")
def _barrier(decoder: Decoder, ins: Instruction) -> Step:
    """``bar.warp.sync`` and ``bar.red``; waiting itself is the scheduler's business."""
    parts = ins.parts
    if "warp" in parts:
        return lambda batch, active: batch.warp_barrier(active)
    if "red" not in parts:
        raise decoder.unknown(ins)
    predicate = decoder.predicate(ins.operands[-1])
    counts = "popc" in parts
    write = decoder.write(ins.operands[0], "u32" if counts else "pred")

    def run(batch: Batch, active: Active) -> None:
        holds = _spread(predicate(batch, active), active, bool)
        block = batch.block[active]
        votes = np.bincount(block, weights=holds)[block].astype(np.uint32)
        if counts:
            write(batch, active, votes)
        elif "and" in parts:
            write(batch, active, votes == np.bincount(block)[block])
        else:
            write(batch, active, votes != 0)

    return run
