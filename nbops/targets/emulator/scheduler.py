"""Which lanes run next, where they meet again, and who waits for whom.

Lanes at the same instruction run together. Of several groups the one that is furthest behind runs first, so
that lanes which parted at a branch meet again where its arms join; now and then those ahead get a turn, so
that a lock which they hold is released. A barrier parks its lanes until nobody else can run; then each block
whose threads have all come goes on. A warp operation (``shfl.sync``, ``vote.sync``, ``mma.sync`` ...) waits
in the same way for the lanes that its mask names. Who waits in vain is what synccheck reports.
"""

from __future__ import annotations

import numpy as np

from nbops.targets.emulator.batch import WARP, Batch
from nbops.targets.emulator.decode import Block, Reader
from nbops.targets.emulator.errors import EmulatorError, SynccheckError
from nbops.targets.emulator.lanes import Active, Array, count, indices, merge, narrow
from nbops.targets.emulator.nodes import Instruction

__all__ = ["run"]

Groups = dict[int, list[Active]]
PATIENCE = 4096


def run(batch: Batch) -> None:
    """Run a batch of blocks to their end."""
    decoded = batch.launch.decoded
    blocks, end = decoded.blocks, len(decoded.kernel.instructions)
    tally = batch.launch.tally
    ready: Groups = {0: [slice(0, batch.lanes)]}
    parked: Groups = {}
    stalled: Groups = {}
    rounds = 0
    while ready or parked or stalled:
        if not ready:
            if stalled:
                _give_up_on_warp(batch, blocks, stalled, parked, ready)
            else:
                _release(batch, blocks, parked, ready)
            continue
        position = min(ready)
        if len(ready) > 1:
            rounds += 1
            if rounds % PATIENCE == 0:  # those behind may spin until those ahead have done something
                position = max(ready)
        groups = ready.pop(position)
        if position >= end:
            continue
        if position in stalled:
            groups += stalled.pop(position)
        active = groups[0] if len(groups) == 1 else merge(groups)
        block = blocks[position]
        tally.block(batch, block, active)
        for step in block.steps:
            step(batch, active)
        kind = block.ending
        if kind == "next":
            ready.setdefault(block.end, []).append(active)
            continue
        if block.guard is not None:
            holds = block.guard(batch, active)
            chosen = narrow(active, holds)
            if chosen is not active:
                others = narrow(active, ~holds)
                if others is not None:
                    ready.setdefault(block.end, []).append(others)
            if chosen is None:
                continue
            active = chosen
        if kind == "branch":
            ready.setdefault(block.target, []).append(active)
        elif kind == "barrier":
            parked.setdefault(position, []).append(active)
        elif kind == "warp":
            _warp_operation(batch, block, active, stalled, ready)
        elif kind == "trap":
            assert block.last is not None
            batch.fail(
                EmulatorError,
                "the kernel executes a trap: one of its assertions failed",
                block.last,
                active,
                0,
            )


# -- warp operations -----------------------------------------------------------------------------------------


def _members(block: Block, batch: Batch) -> Reader | None:
    """The reader of the mask of members; None for all 32 lanes."""
    assert block.last is not None
    return batch.launch.members(block.last)


def _warp_operation(batch: Batch, block: Block, active: Active, stalled: Groups, ready: Groups) -> None:
    ins = block.last
    assert ins is not None
    assert block.step is not None
    if ins.parts[0] != "activemask" and batch.launch.synccheck:
        missing = _missing(batch, block, active)
        if missing is not None:
            waiting = narrow(active, missing)
            if waiting is not None:
                stalled.setdefault(block.start, []).append(waiting)
            complete = narrow(active, ~missing)
            if complete is None:
                return
            active = complete
    block.step(batch, active)
    ready.setdefault(block.end, []).append(active)


def _missing(batch: Batch, block: Block, active: Active) -> Array | None:
    """Which of the active lanes wait for a lane of their mask that is not here; None where none does."""
    ins = block.last
    assert ins is not None
    reader = _members(block, batch)
    number = count(active)
    lane = batch.lane[active]
    mask = np.broadcast_to(
        np.asarray(0xFFFFFFFF if reader is None else reader(batch, active), np.int64), (number,)
    )
    outside = ((mask >> lane) & 1) == 0
    if outside.any():
        batch.fail(
            SynccheckError,
            f"synccheck: a lane runs a warp operation whose mask {int(mask[outside.argmax()]):#010x} "
            "leaves it out",
            ins,
            active,
            int(outside.argmax()),
        )
    if number == batch.lanes:
        return None
    warp = batch.warp[active]
    here = np.bincount(warp, weights=np.exp2(lane), minlength=int(warp[-1]) + 1).astype(np.int64)[warp]
    last_thread = np.minimum(batch.threads - batch.thread[active] // WARP * WARP, WARP)
    there = (np.int64(1) << last_thread) - 1
    missing: Array = (mask & there & ~here) != 0
    return missing if missing.any() else None


def _give_up_on_warp(
    batch: Batch, blocks: dict[int, Block], stalled: Groups, parked: Groups, ready: Groups
) -> None:
    position = min(stalled)
    active = merge(stalled[position])
    block = blocks[position]
    missing = _missing(batch, block, active)
    assert missing is not None
    assert block.last is not None
    lane = int(missing.argmax())
    this = int(indices(active)[lane])
    reader = _members(block, batch)
    mask = (
        0xFFFFFFFF if reader is None else int(np.broadcast_to(reader(batch, active), (count(active),))[lane])
    )
    warp = np.flatnonzero(batch.warp == batch.warp[this])
    here = set(indices(active).tolist())
    absent = [int(other) for other in warp if other not in here and mask >> int(batch.lane[other]) & 1]
    names = ", ".join(str(batch.launch.thread_index(int(batch.thread[other]))) for other in absent[:4])
    more = f" and {len(absent) - 4} more" if len(absent) > 4 else ""
    message = (
        f"synccheck: a warp operation with mask {mask & 0xFFFFFFFF:#010x} waits for threads that never come: "
        f"{names}{more}; {_whereabouts(batch, blocks, np.array(absent), parked, stalled)}"
    )
    batch.fail(SynccheckError, message, block.last, active, lane)


# -- barriers ------------------------------------------------------------------------------------------------


def _release(batch: Batch, blocks: dict[int, Block], parked: Groups, ready: Groups) -> None:
    """Let the blocks go whose threads have all come; raise where none can go."""
    released = False
    for position in sorted(parked):
        active = merge(parked.pop(position))
        block = blocks[position]
        assert block.last is not None
        expected = _expected(batch, block.last)
        mine = batch.block[active]
        come = np.bincount(mine, minlength=batch.blocks)
        complete = come[mine] == expected
        going = narrow(active, complete) if batch.launch.synccheck else active
        if going is not None:
            released = True
            batch.new_interval(np.unique(batch.block[going]))
            if block.step is not None:
                block.step(batch, going)
            ready.setdefault(block.end, []).append(going)
        waiting = narrow(active, ~complete) if batch.launch.synccheck else None
        if waiting is not None:
            parked[position] = [waiting]
    if released:
        return
    position = min(parked)
    active = merge(parked[position])
    first = batch.block[active][0]
    own = [int(lane) for lane in np.flatnonzero(batch.block == first)]
    here = set(indices(active).tolist())
    absent = np.array([lane for lane in own if lane not in here])
    ins = blocks[position].last
    assert ins is not None
    batch.fail(
        SynccheckError,
        f"synccheck: {len(own) - absent.size} of the {len(own)} threads of the block "
        "wait at this barrier for ever; " + _whereabouts(batch, blocks, absent, parked, {}, ignore=position),
        ins,
        active,
        0,
    )


def _expected(batch: Batch, ins: Instruction) -> int:
    """How many threads a barrier waits for."""
    operands = [o for o in ins.operands if o.isdigit()]
    if "red" not in ins.parts and len(operands) > 1:
        return int(operands[1])
    return batch.threads


def _whereabouts(
    batch: Batch, blocks: dict[int, Block], absent: Array, parked: Groups, stalled: Groups, ignore: int = -1
) -> str:
    """What became of the lanes that did not come."""
    left = set(absent.tolist())
    places = []
    for groups, what in ((parked, "at the barrier"), (stalled, "at the warp operation")):
        for position, members in groups.items():
            found = left & set(indices(merge(members)).tolist())
            ins = blocks[position].last
            if found and position != ignore and ins is not None:
                left -= found
                places.append(f"{len(found)} wait {what} of {ins.location or ins.text}")
    if left:
        places.append(f"{len(left)} have exited")
    return ", ".join(places)
