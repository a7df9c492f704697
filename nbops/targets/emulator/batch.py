"""The state of the blocks that run together: each thread is a lane, a register is an array over lanes.

Registers are kept by width, and each is seen as unsigned, signed and floating at once: PTX does not type them
strictly, so ``mov.b32`` may move what ``fma.f32`` reads.
"""

from __future__ import annotations

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

__all__ = ["LOCAL_WINDOW", "SHARED_WINDOW", "WARP", "Batch"]

WARP = 32
SHARED_WINDOW = 1 << 32
LOCAL_WINDOW = 1 << 33
WINDOW_BYTES = 1 << 31

_VIEWS = {16: ("u16", "s16", "f16"), 32: ("u32", "s32", "f32"), 64: ("u64", "s64", "f64")}
_KINDS = {"u": "u", "s": "i", "f": "f"}


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

    def parts(
        self, space: str, addresses: Array, nbytes: int, active: Active, instruction: Instruction, access: str
    ) -> Iterator[tuple[str, Region, Array, Array | None]]:
        """``(space, region, byte offsets, which of the active lanes)`` after the checks of memcheck."""
        if int(np.bitwise_or.reduce(addresses)) & (nbytes - 1):
            lane = int((addresses & (nbytes - 1)).astype(bool).argmax())
            self.fail(
                MemcheckError,
                f"memcheck: a misaligned {access} of {nbytes} bytes at address {int(addresses[lane]):#x}",
                instruction,
                active,
                lane,
            )
        if space in ("global", "const"):
            for region, offsets, lanes in self.launch.device.memory.locate(addresses, nbytes):
                if region is None:
                    address = int(offsets[0])
                    where = self.launch.device.memory.describe(address)
                    message = (
                        f"memcheck: a {access} of {nbytes} bytes out of bounds, "
                        f"at address {address:#x}: {where}"
                    )
                    raise self.error(
                        MemcheckError, message, instruction, active, 0 if lanes is None else int(lanes[0])
                    )
                yield "global", region, offsets, lanes
            return
        if space == "generic":
            kinds = np.where(
                (addresses >= SHARED_WINDOW) & (addresses < SHARED_WINDOW + WINDOW_BYTES),
                1,
                np.where((addresses >= LOCAL_WINDOW) & (addresses < LOCAL_WINDOW + WINDOW_BYTES), 2, 0),
            )
            windows = (("global", 0), ("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW))
            for number in np.unique(kinds):
                chosen = np.flatnonzero(kinds == number)
                name, base = windows[number]
                mine = indices(active)[chosen]
                inner = self.parts(name, addresses[chosen] - base, nbytes, mine, instruction, access)
                for real, region, offsets, lanes in inner:
                    yield real, region, offsets, chosen if lanes is None else chosen[lanes]
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
                f"memcheck: a {access} of {nbytes} bytes out of bounds, at offset {int(addresses[lane])} of "
                f"{limit} bytes of {space} memory",
                instruction,
                active,
                lane,
            )
        yield space, region, offsets + addresses, None

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
        for real, region, offsets, lanes in self.parts(space, addresses, nbytes, active, instruction, "read"):
            mine = active if lanes is None else indices(active)[lanes]
            self.check_read(real, region, offsets, nbytes, mine, instruction)
            values = region.load(offsets, dtype, vector)
            if lanes is None:
                return [values] if vector == 1 else list(values.T)
            pieces.append((lanes, values))
        first = pieces[0][1]
        together = np.empty((addresses.size, *first.shape[1:]), dtype)
        for lanes, values in pieces:
            together[lanes] = values
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
        for real, region, offsets, lanes in self.parts(
            space, addresses, nbytes, active, instruction, "write"
        ):
            mine = active if lanes is None else indices(active)[lanes]
            self.check_write(real, region, offsets, nbytes, mine, instruction)
            chosen = values if lanes is None else [v[lanes] if np.ndim(v) else v for v in values]
            region.store(offsets, dtype, chosen)

    def check_read(
        self,
        space: str,
        region: Region,
        offsets: Array,
        nbytes: int,
        active: Active,
        instruction: Instruction,
    ) -> None:
        """Count a read; initcheck and racecheck."""
        launch = self.launch
        launch.tally.access(self, space, offsets, nbytes, active, instruction, store=False)
        if launch.initcheck and (missing := region.unwritten(offsets, nbytes)) is not None:
            lane = int(missing.argmax())
            self.fail(
                InitcheckError,
                f"initcheck: a read of {space} memory that nobody has written"
                + self._place(space, region, int(offsets[lane])),
                instruction,
                active,
                lane,
            )
        if launch.racecheck and space != "local":
            history = launch.history(region, nbytes)
            race = history.read(offsets, nbytes, self.stamp[active])
            if race is not None:
                self._fail_race(race, space, region, offsets, active, instruction)

    def check_write(
        self,
        space: str,
        region: Region,
        offsets: Array,
        nbytes: int,
        active: Active,
        instruction: Instruction,
        atomic: bool = False,
    ) -> None:
        """Count a write; racecheck."""
        launch = self.launch
        launch.tally.access(self, space, offsets, nbytes, active, instruction, store=True)
        if launch.racecheck and space != "local":
            history = launch.history(region, nbytes)
            race = history.write(offsets, nbytes, self.stamp[active], atomic)
            if race is not None:
                self._fail_race(race, space, region, offsets, active, instruction)

    def check_atomic(
        self,
        space: str,
        region: Region,
        offsets: Array,
        nbytes: int,
        active: Active,
        instruction: Instruction,
    ) -> None:
        """The checks of an atomic access, which reads and writes but does not race with another atomic."""
        if self.launch.initcheck and (missing := region.unwritten(offsets, nbytes)) is not None:
            lane = int(missing.argmax())
            where = self._place(space, region, int(offsets[lane]))
            message = f"initcheck: an atomic operation on {space} memory that nobody has written{where}"
            self.fail(InitcheckError, message, instruction, active, lane)
        self.check_write(space, region, offsets, nbytes, active, instruction, atomic=True)

    def land(self, offsets: Array, nbytes: int, lanes: Array, instruction: Instruction) -> None:
        """An asynchronous copy has arrived in shared memory: a write of the threads that waited for it."""
        race = self.launch.history(self.shared, nbytes).write(offsets, nbytes, self.stamp[lanes], False)
        if race is not None:
            self._fail_race(race, "shared", self.shared, offsets, lanes, instruction)

    def _place(self, space: str, region: Region, offset: int) -> str:
        if space == "global":
            named = f" ({region.name})" if region.name else ""
            return f", at {region.address + offset:#x}, byte {offset} of {region.nbytes}{named}"
        stride = self.shared_stride if space == "shared" else self.local_stride
        return f", at offset {offset % stride}"

    def _fail_race(
        self,
        race: tuple[str, int, int],
        space: str,
        region: Region,
        offsets: Array,
        active: Active,
        instruction: Instruction,
    ) -> None:
        what, lane, other = race
        block, thread = races.thread_of(other)
        other_block = self.launch.block_index(block)
        message = (
            f"racecheck: in {space} memory{self._place(space, region, int(offsets[lane]))}, this {what}; "
            f"the other is block {other_block}, thread {self.launch.thread_index(thread)}, "
            "and no barrier lies between"
        )
        self.fail(RacecheckError, message, instruction, active, lane)

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
            f"{message}\n  at {location}kernel {self.launch.decoded.kernel.name}, "
            f"block {block}, thread {thread}"
            f"\n  in {instruction.text}"
        )
