"""The state of the blocks that run together: each thread is a lane, a register is an array over lanes.

Registers are kept by width, and each is seen as unsigned, signed and floating at once: PTX does not type them
strictly, so ``mov.b32`` may move what ``fma.f32`` reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops.targets.emulator import races
from nbops.targets.emulator.errors import EmulatorError, InitcheckError, MemcheckError, RacecheckError
from nbops.targets.emulator.lanes import Active, Array, indices
from nbops.targets.emulator.regions import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbops.targets.emulator.device import Launch
    from nbops.targets.emulator.nodes import Instruction

__all__ = ["LOCAL_WINDOW", "SHARED_WINDOW", "WARP", "Access", "Batch"]

WARP = 32
SHARED_WINDOW = 1 << 32
LOCAL_WINDOW = 1 << 33
WINDOW_BYTES = 1 << 31

_VIEWS = {16: ("u16", "s16", "f16"), 32: ("u32", "s32", "f32"), 64: ("u64", "s64", "f64")}
_KINDS = {"u": "u", "s": "i", "f": "f"}


@dataclass(frozen=True, slots=True)
class Access:
    """What some lanes read or write in one region, at once.

    Parameters
    ----------
    space : {"global", "shared", "local"}
    region : Region
    offsets : ndarray
        In bytes, of each lane.
    nbytes : int
        That each lane moves.
    lanes : slice or ndarray
        Of the batch.
    instruction : Instruction
    chosen : ndarray, optional
        Which of the active lanes these are; all unless given.
    """

    space: str
    region: Region
    offsets: Array
    nbytes: int
    lanes: Active
    instruction: Instruction
    chosen: Array | None = None


class Batch:
    """Registers, special registers, shared and local memory of a run of blocks."""

    def __init__(self, launch: Launch, first_block: int, last_block: int) -> None:
        self.launch = launch
        self.blocks = last_block - first_block
        self.first_block = first_block
        self.threads = launch.threads
        self.lanes = self.blocks * self.threads
        self.thread = np.tile(np.arange(self.threads), self.blocks)
        self.block = np.repeat(np.arange(self.blocks), self.threads)
        warps = -(-self.threads // WARP)
        self.warp = self.block * warps + self.thread // WARP
        self.lane = self.thread % WARP
        self.banks: dict[str, list[Any]] = {}
        self._make_registers(launch.decoded.kernel.registers)
        self.special = self._special_registers(first_block)
        self.interval = np.zeros(self.blocks, np.int64)
        self.warp_interval = np.zeros(self.blocks * warps, np.int64)
        self.new_interval()
        layout = launch.decoded.layout
        self.shared_bytes = launch.shared_bytes
        self.shared_stride = -(-self.shared_bytes // 128) * 128
        self.shared = Region(self.shared_stride * self.blocks, name="shared memory")
        self.local_bytes = layout.local_bytes
        self.local_stride = -(-self.local_bytes // 16) * 16
        self.local = Region(self.local_stride * self.lanes, name="local memory")
        self.carry = np.zeros(self.lanes, bool)
        self.copies: list[Any] = []
        self.copy_group = np.zeros(self.lanes, np.int64)

    def _make_registers(self, widths: list[str]) -> None:
        for bits, names in _VIEWS.items():
            storage = [np.zeros(self.lanes, f"u{bits // 8}") if w[1:] == str(bits) else None for w in widths]
            for name in names:
                dtype = f"{_KINDS[name[0]]}{bits // 8}"
                self.banks[name] = [None if array is None else array.view(dtype) for array in storage]
        self.banks["pred"] = [np.zeros(self.lanes, bool) if w == "pred" else None for w in widths]

    def _special_registers(self, first_block: int) -> dict[str, Array]:
        launch = self.launch
        block = self.block + first_block
        (bx, by, _), (gx, gy, _) = launch.block, launch.grid
        one = np.uint64(1)
        lane = self.lane.astype(np.uint64)
        whole = np.uint64(0xFFFFFFFF)
        values = {
            "%tid.x": self.thread % bx,
            "%tid.y": self.thread // bx % by,
            "%tid.z": self.thread // (bx * by),
            "%ctaid.x": block % gx,
            "%ctaid.y": block // gx % gy,
            "%ctaid.z": block // (gx * gy),
            "%laneid": self.lane,
            "%warpid": self.thread // WARP,
            "%lanemask_eq": one << lane,
            "%lanemask_lt": (one << lane) - one,
            "%lanemask_le": (one << (lane + one)) - one,
            "%lanemask_gt": whole & ~((one << (lane + one)) - one),
            "%lanemask_ge": whole & ~((one << lane) - one),
        }
        for axis, threads, blocks in zip("xyz", launch.block, launch.grid, strict=True):
            values[f"%ntid.{axis}"] = np.full(self.lanes, threads)
            values[f"%nctaid.{axis}"] = np.full(self.lanes, blocks)
        return {name: value.astype(np.uint32) for name, value in values.items()}

    def new_interval(self, blocks: Array | None = None) -> None:
        """A barrier was passed (by some of the blocks): what came before is ordered before what comes."""
        if blocks is not None:
            self.interval[blocks] += 1
        self._stamp()

    def warp_barrier(self, active: Active) -> None:
        """A ``bar.warp.sync`` has been passed."""
        self.warp_interval[np.unique(self.warp[active])] += 1
        self._stamp()

    def _stamp(self) -> None:
        self.stamp = races.stamp(
            self.block + self.first_block,
            self.interval[self.block],
            self.thread,
            self.warp_interval[self.warp],
        )

    # -- memory --------------------------------------------------------------------------------------------

    def accesses(
        self, space: str, addresses: Array, nbytes: int, active: Active, instruction: Instruction, what: str
    ) -> Iterator[Access]:
        """What the active lanes do to each region, after the checks of memcheck; `what` is for messages."""
        if int(np.bitwise_or.reduce(addresses)) & (nbytes - 1):
            lane = int((addresses & (nbytes - 1)).astype(bool).argmax())
            self.fail(
                MemcheckError,
                f"memcheck: a misaligned {what} of {nbytes} bytes at address {int(addresses[lane]):#x}",
                instruction,
                active,
                lane,
            )
        if space in ("global", "const"):
            for region, offsets, chosen in self.launch.device.memory.locate(addresses, nbytes):
                if region is None:
                    address = int(offsets[0])
                    where = self.launch.device.memory.describe(address)
                    message = f"memcheck: a {what} of {nbytes} bytes out of bounds, at address {address:#x}"
                    first = 0 if chosen is None else int(chosen[0])
                    raise self.error(MemcheckError, f"{message}: {where}", instruction, active, first)
                lanes = active if chosen is None else indices(active)[chosen]
                yield Access("global", region, offsets, nbytes, lanes, instruction, chosen)
            return
        if space == "generic":
            kinds = np.where(
                (addresses >= SHARED_WINDOW) & (addresses < SHARED_WINDOW + WINDOW_BYTES),
                1,
                np.where((addresses >= LOCAL_WINDOW) & (addresses < LOCAL_WINDOW + WINDOW_BYTES), 2, 0),
            )
            windows = (("global", 0), ("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW))
            for number in np.unique(kinds):
                mine = np.flatnonzero(kinds == number)
                name, base = windows[number]
                lanes = indices(active)[mine]
                for inner in self.accesses(name, addresses[mine] - base, nbytes, lanes, instruction, what):
                    yield replace(inner, chosen=mine if inner.chosen is None else mine[inner.chosen])
            return
        if space == "shared":
            limit, region, offsets = self.shared_bytes, self.shared, self.block[active] * self.shared_stride
        elif space == "local":
            limit, region, offsets = self.local_bytes, self.local, indices(active) * self.local_stride
        else:
            raise EmulatorError(f"the emulator has no state space {space!r}: {instruction.text}")
        if int(addresses.min()) < 0 or int(addresses.max()) + nbytes > limit:
            lane = int(((addresses < 0) | (addresses + nbytes > limit)).argmax())
            self.fail(
                MemcheckError,
                f"memcheck: a {what} of {nbytes} bytes out of bounds, at offset {int(addresses[lane])} of "
                f"{limit} bytes of {space} memory",
                instruction,
                active,
                lane,
            )
        yield Access(space, region, offsets + addresses, nbytes, active, instruction)

    def load(
        self,
        space: str,
        addresses: Array,
        dtype: np.dtype[Any],
        vector: int,
        active: Active,
        instruction: Instruction,
    ) -> list[Array]:
        """`vector` values per lane, checked and counted."""
        nbytes = dtype.itemsize * vector
        pieces = []
        for access in self.accesses(space, addresses, nbytes, active, instruction, "read"):
            self.check_read(access)
            values = access.region.load(access.offsets, dtype, vector)
            if access.chosen is None:
                return [values] if vector == 1 else list(values.T)
            pieces.append((access.chosen, values))
        first = pieces[0][1]
        together = np.empty((addresses.size, *first.shape[1:]), dtype)
        for chosen, values in pieces:
            together[chosen] = values
        return [together] if vector == 1 else list(together.T)

    def store(
        self,
        space: str,
        addresses: Array,
        dtype: np.dtype[Any],
        values: list[Array],
        active: Active,
        instruction: Instruction,
    ) -> None:
        """Write each lane's values, checked and counted."""
        nbytes = dtype.itemsize * len(values)
        for access in self.accesses(space, addresses, nbytes, active, instruction, "write"):
            self.check_write(access)
            chosen = access.chosen
            own = values if chosen is None else [v[chosen] if np.ndim(v) else v for v in values]
            access.region.store(access.offsets, dtype, own)

    def check_read(self, access: Access) -> None:
        """Count a read; initcheck and racecheck."""
        launch = self.launch
        launch.tally.access(self, access, store=False)
        self._check_written(access, "a read of")
        if launch.racecheck and access.space != "local":
            history = launch.history(access.region, access.nbytes)
            self._check_race(access, history.read(access.offsets, access.nbytes, self.stamp[access.lanes]))

    def check_write(self, access: Access, atomic: bool = False) -> None:
        """Count a write; racecheck."""
        self.launch.tally.access(self, access, store=True)
        if self.launch.racecheck and access.space != "local":
            self.land(access, atomic)

    def check_atomic(self, access: Access) -> None:
        """The checks of an atomic access, which reads and writes but does not race with another atomic."""
        self._check_written(access, "an atomic operation on")
        self.check_write(access, atomic=True)

    def land(self, access: Access, atomic: bool = False) -> None:
        """A write takes place, of threads that store or that waited for their copy: racecheck."""
        history = self.launch.history(access.region, access.nbytes)
        stamps = self.stamp[access.lanes]
        self._check_race(access, history.write(access.offsets, access.nbytes, stamps, atomic))

    def _check_written(self, access: Access, what: str) -> None:
        if not self.launch.initcheck:
            return
        missing = access.region.unwritten(access.offsets, access.nbytes)
        if missing is not None:
            lane = int(missing.argmax())
            message = f"initcheck: {what} {access.space} memory that nobody has written"
            place = self._place(access, lane)
            self.fail(InitcheckError, message + place, access.instruction, access.lanes, lane)

    def _place(self, access: Access, lane: int) -> str:
        offset, region = int(access.offsets[lane]), access.region
        if access.space == "global":
            named = f" ({region.name})" if region.name else ""
            return f", at {region.address + offset:#x}, byte {offset} of {region.nbytes}{named}"
        stride = self.shared_stride if access.space == "shared" else self.local_stride
        return f", at offset {offset % stride}"

    def _check_race(self, access: Access, race: tuple[str, int, int] | None) -> None:
        if race is None:
            return
        what, lane, other = race
        block, thread = races.thread_of(other)
        other_block = self.launch.block_index(block)
        message = (
            f"racecheck: in {access.space} memory{self._place(access, lane)}, this {what}; "
            f"the other is block {other_block}, thread {self.launch.thread_index(thread)}, "
            "and no barrier lies between"
        )
        self.fail(RacecheckError, message, access.instruction, access.lanes, lane)

    def fail(
        self, kind: type[EmulatorError], message: str, instruction: Instruction, active: Active, position: int
    ) -> None:
        """Raise, naming the Python line, the block and the thread."""
        raise self.error(kind, message, instruction, active, position)

    def error(
        self, kind: type[EmulatorError], message: str, instruction: Instruction, active: Active, position: int
    ) -> EmulatorError:
        """The error for one lane of an instruction."""
        lane = int(indices(active)[position])
        block = self.launch.block_index(int(self.block[lane]) + self.first_block)
        thread = self.launch.thread_index(int(self.thread[lane]))
        location = f"{instruction.location}, " if instruction.location else ""
        return kind(
            f"{message}\n  at {location}kernel {self.launch.decoded.kernel.title}, "
            f"block {block}, thread {thread}"
            f"\n  in {instruction.text}"
        )
