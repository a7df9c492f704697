"""The emulated GPU: memory that a host fills and reads, kernels that it launches, and what they cost."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nbops.targets.emulator import report as reports
from nbops.targets.emulator import scheduler
from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.decode import Decoded, Decoder, Reader, decode
from nbops.targets.emulator.errors import EmulatorError, MemcheckError
from nbops.targets.emulator.nodes import BYTES, Instruction
from nbops.targets.emulator.races import AccessHistory
from nbops.targets.emulator.regions import GlobalMemory, Region
from nbops.targets.emulator.syntax import Program
from nbops.targets.emulator.tally import Counters

__all__ = ["CHECKS", "Device", "Launch"]

CHECKS = ("memcheck", "initcheck", "racecheck", "synccheck")
BATCH_LANES = 8192
BATCH_BYTES = 64 << 20
MAX_THREADS = 1024

_DECODED: weakref.WeakKeyDictionary[Program, dict[str, Decoded]] = weakref.WeakKeyDictionary()


class Device:
    """A GPU without a GPU.

    Parameters
    ----------
    compute_capability : (int, int)
        Refuses PTX that was made for a newer architecture.
    checks : sequence of str, optional
        Which of memcheck, initcheck, racecheck and synccheck to run; all by default. memcheck can't be left
        out: an access that belongs to no allocation has no place to go to.

    Examples
    --------
    >>> import numpy as np
    >>> device = Device()
    >>> address = device.allocate(12)
    >>> device.write(address, np.arange(3, dtype=np.float32))
    >>> result = np.empty(3, np.float32)
    >>> device.read(address, result)
    >>> result
    array([0., 1., 2.], dtype=float32)
    """

    def __init__(self, compute_capability: tuple[int, int] = (9, 0), checks: Iterable[str] = CHECKS) -> None:
        self.compute_capability = compute_capability
        self.checks = frozenset(checks) | {"memcheck"}
        unknown = self.checks - set(CHECKS)
        if unknown:
            raise ValueError(
                f"no checker is called {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}"
            )
        self.memory = GlobalMemory()
        self.counters: dict[str, Counters] = {}
        self.launches: dict[str, int] = {}
        self._symbols: weakref.WeakKeyDictionary[Program, dict[str, int]] = weakref.WeakKeyDictionary()

    # -- memory --------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int, name: str = "") -> int:
        """The address of `nbytes` fresh bytes, which nobody has written; `name` appears in messages."""
        if nbytes < 0:
            raise ValueError(f"can't allocate {nbytes} bytes")
        return self.memory.allocate(int(nbytes), name).address

    def free(self, address: int) -> None:
        """Give an allocation back; touching it from now on is a use after free."""
        if address not in self.memory.regions:
            raise MemcheckError(f"memcheck: free of {address:#x}: {self.memory.describe(address)}")
        self.memory.free(address)

    def write(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy an array's bytes to the device."""
        if array.nbytes:
            region, offset = self._host_access(address, array.nbytes, "write")
            region.write_bytes(offset, np.ascontiguousarray(array).reshape(-1).view(np.uint8))

    def read(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Copy bytes from the device into a contiguous array."""
        if not array.flags.c_contiguous:
            raise ValueError("Device.read: the array must be C-contiguous")
        if array.nbytes:
            region, offset = self._host_access(address, array.nbytes, "read")
            array.reshape(-1).view(np.uint8)[:] = region.data[offset : offset + array.nbytes]

    def _host_access(self, address: int, nbytes: int, access: str) -> tuple[Region, int]:
        region = self.memory.at(address)
        if region is None or address + nbytes > region.address + region.nbytes:
            where = self.memory.describe(address)
            raise MemcheckError(f"memcheck: a host {access} of {nbytes} bytes at {address:#x}: {where}")
        return region, address - region.address

    # -- kernels -------------------------------------------------------------------------------------------

    def launch(
        self,
        program: Program,
        kernel: str,
        grid: Sequence[int] | int,
        block: Sequence[int] | int,
        shared_bytes: int = 0,
        arguments: Sequence[Any] = (),
    ) -> Launch:
        """Run a kernel to its end.

        Parameters
        ----------
        program : Program
        kernel : str
            One of ``program.kernels``.
        grid, block : int or up to three ints
        shared_bytes : int
            Dynamic shared memory of each block.
        arguments : sequence of scalars
            One for each parameter in the PTX; a NumPy scalar must have its parameter's size.

        Raises
        ------
        EmulatorError
            What a checker found, or what the emulator can't do.
        """
        launch = Launch(self, program, kernel, _three(grid), _three(block), int(shared_bytes), arguments)
        launch.run()
        total = self.counters.get(kernel)
        self.launches[kernel] = self.launches.get(kernel, 0) + 1
        if total is None or total.kernel is not launch.counters.kernel:
            total = self.counters[kernel] = Counters(launch.counters.kernel)
        total += launch.counters
        return launch

    def symbols(self, program: Program) -> dict[str, int]:
        """Addresses of a program's global and constant variables, which are placed at its first launch."""
        found = self._symbols.get(program)
        if found is None:
            found = self._symbols[program] = {}
            for variable in program.variables.values():
                if variable.space in ("global", "const"):
                    region = self.memory.allocate(variable.nbytes, variable.name)
                    data = np.frombuffer(variable.initial or b"", np.uint8)
                    region.data[: data.size] = data
                    region.complete = True
                    found[variable.name] = region.address
        return found

    def report(self) -> str:
        """What every kernel did so far, for a reader who wants to know why it is slow."""
        return reports.report(self)

    def reset(self) -> None:
        """Forget the counters; memory stays."""
        self.counters.clear()
        self.launches.clear()


def _three(extent: Sequence[int] | int) -> tuple[int, int, int]:
    sizes = (extent,) if isinstance(extent, (int, np.integer)) else tuple(extent)
    x, y, z = (*(int(size) for size in sizes), 1, 1, 1)[:3]
    if len(sizes) > 3 or min(x, y, z) < 1:
        raise ValueError(f"a grid or block has one to three positive sizes, not {extent!r}")
    return x, y, z


class Launch:
    """One launch of a kernel: its geometry, parameters and counters."""

    def __init__(
        self,
        device: Device,
        program: Program,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        dynamic_bytes: int,
        arguments: Sequence[Any],
    ) -> None:
        self.device = device
        self.grid = grid
        self.block = block
        self.threads = block[0] * block[1] * block[2]
        if self.threads > MAX_THREADS:
            raise ValueError(f"a block of {self.threads} threads: at most {MAX_THREADS} are allowed")
        made_for = int("".join(filter(str.isdigit, program.target)))
        if made_for > 10 * device.compute_capability[0] + device.compute_capability[1]:
            raise EmulatorError(
                f"this PTX is for {program.target}, newer than the device's {device.compute_capability}"
            )
        self.decoded = _decode(program, kernel)
        self.shared_bytes = self.decoded.layout.total_shared(dynamic_bytes)
        self.symbols = device.symbols(program)
        self.parameters = self._pack(arguments)
        self.counters = self.tally = Counters(self.decoded.kernel)
        self.initcheck = "initcheck" in device.checks
        self.racecheck = "racecheck" in device.checks
        self.synccheck = "synccheck" in device.checks
        self._histories: list[Region] = []
        self._members: dict[int, Reader | None] = {}
        self._clock = 0

    def _pack(self, arguments: Sequence[Any]) -> bytes:
        kernel = self.decoded.kernel
        if len(arguments) != len(kernel.parameters):
            raise ValueError(f"{kernel.name} takes {len(kernel.parameters)} parameters, not {len(arguments)}")
        packed = bytearray(kernel.parameter_bytes)
        for parameter, argument in zip(kernel.parameters, arguments, strict=True):
            if isinstance(argument, (int, bool)):
                data = (int(argument) & ((1 << 8 * parameter.nbytes) - 1)).to_bytes(
                    parameter.nbytes, "little"
                )
            elif isinstance(argument, float) and not isinstance(argument, np.generic):
                data = np.float64(argument).astype(f"f{parameter.nbytes}").tobytes()
            else:
                data = bytes(argument) if isinstance(argument, bytes) else np.asarray(argument).tobytes()
            if len(data) != parameter.nbytes:
                raise ValueError(
                    f"{kernel.name}: parameter {parameter.name} has {parameter.nbytes} bytes; "
                    f"got {len(data)} ({type(argument).__name__})"
                )
            packed[parameter.offset : parameter.offset + parameter.nbytes] = data
        return bytes(packed)

    def run(self) -> None:
        """Run all blocks, a batch of them at a time."""
        blocks = self.grid[0] * self.grid[1] * self.grid[2]
        kernel, layout = self.decoded.kernel, self.decoded.layout
        per_lane = sum(BYTES[width] or 1 for width in kernel.registers) + layout.local_bytes + 64
        lanes = max(self.threads, min(BATCH_LANES, BATCH_BYTES // per_lane))
        step = max(1, lanes // self.threads)
        try:
            with np.errstate(all="ignore"):
                for first in range(0, blocks, step):
                    scheduler.run(Batch(self, first, min(blocks, first + step)))
        finally:
            for region in self._histories:
                region.history = None
            for region in self.device.memory.regions.values():
                region.settle()

    def history(self, region: Region, nbytes: int) -> AccessHistory:
        """A region's accesses in this launch."""
        if region.history is None:
            region.history = AccessHistory(region.nbytes, min(nbytes, 4))
            self._histories.append(region)
        return region.history

    def members(self, ins: Instruction) -> Reader | None:
        """The reader of a warp operation's mask; None for all lanes."""
        if ins.index not in self._members:
            whole = ins.parts[0] in ("mma", "ldmatrix")
            operand = ins.operands[-1] if ins.operands else ""
            self._members[ins.index] = None if whole else Decoder(self.decoded.kernel).read(operand, "u32")
        return self._members[ins.index]

    def clock(self) -> int:
        """A number that grows at each look."""
        self._clock += 1
        return self._clock

    def block_index(self, number: int) -> tuple[int, int, int]:
        """``blockIdx`` of a block's number."""
        gx, gy, _ = self.grid
        return number % gx, number // gx % gy, number // (gx * gy)

    def thread_index(self, number: int) -> tuple[int, int, int]:
        """``threadIdx`` of a thread's number in its block."""
        bx, by, _ = self.block
        return number % bx, number // bx % by, number // (bx * by)


def _decode(program: Program, kernel: str) -> Decoded:
    known = _DECODED.setdefault(program, {})
    if kernel not in known:
        if kernel not in program.entries:
            raise ValueError(f"no kernel is called {kernel!r}; this program has {', '.join(program.kernels)}")
        known[kernel] = decode(program.entries[kernel])
    return known[kernel]
