"""Instructions -> closures over a batch, and the basic blocks that they form.

A closure takes a batch and its active lanes. Operands become readers and writers here, once; running an
instruction then costs a few NumPy calls and no look at its text.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.errors import EmulatorError, UnknownInstructionError
from nbops.targets.emulator.lanes import Active, count, narrow
from nbops.targets.emulator.nodes import BYTES, Instruction, Kernel, split_operands

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Block", "Decoder", "Reader", "Step", "Writer", "decode", "dtype_of", "instruction"]

Step: TypeAlias = Callable[[Batch, Active], None]
Reader: TypeAlias = Callable[[Batch, Active], Any]
Writer: TypeAlias = Callable[[Batch, Active, Any], None]
Builder: TypeAlias = Callable[["Decoder", Instruction], Step]

_BUILDERS: dict[str, Builder] = {}
_BANK = {"b": "u", "u": "u", "s": "s", "f": "f"}
_PACKED = {"f16x2": "u32", "bf16": "u16", "bf16x2": "u32", "tf32": "u32"}
_ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:([+-])\s*(-?\w+)\s*)?\]$")


def instruction(*names: str) -> Callable[[Builder], Builder]:
    """Register the builder of an opcode's first part."""

    def register(builder: Builder) -> Builder:
        for name in names:
            _BUILDERS[name] = builder
        return builder

    return register


def dtype_of(kind: str) -> np.dtype[Any]:
    """The NumPy dtype of a PTX type: ``s32`` -> int32; bits and packed types are unsigned."""
    kind = _PACKED.get(kind, kind)
    if kind == "pred":
        return np.dtype(bool)
    letter = {"b": "u", "u": "u", "s": "i", "f": "f"}[kind[0]]
    return np.dtype(f"{letter}{int(kind[1:]) // 8}")


@dataclasses.dataclass
class Layout:
    """Where variables lie: shared and local ones at offsets, the others have addresses on a device."""

    offsets: dict[str, int]
    dynamic: list[str]
    shared_bytes: int
    local_bytes: int

    @classmethod
    def of(cls, kernel: Kernel) -> Layout:
        """Lay a kernel's variables out."""
        layout = cls({}, [], 0, 0)
        for name, variable in kernel.variables.items():
            if variable.space == "shared":
                if variable.nbytes == 0:
                    layout.dynamic.append(name)
                    continue
                start = -(-layout.shared_bytes // variable.align) * variable.align
                layout.offsets[name] = start
                layout.shared_bytes = start + variable.nbytes
            elif variable.space in ("local", "param"):
                start = -(-layout.local_bytes // 16) * 16
                layout.offsets[name] = start
                layout.local_bytes = start + variable.nbytes
        for name in layout.dynamic:
            layout.offsets[name] = -(-layout.shared_bytes // 16) * 16
        return layout

    def total_shared(self, dynamic_bytes: int) -> int:
        """Static and dynamic shared memory of one block."""
        if not dynamic_bytes:
            return self.shared_bytes
        return -(-self.shared_bytes // 16) * 16 + dynamic_bytes


@dataclasses.dataclass
class Block:
    """A basic block: steps, then how it ends."""

    start: int
    end: int
    steps: list[Step]
    last: Instruction | None
    ending: str
    target: int = -1
    guard: Reader | None = None
    step: Step | None = None


class Decoder:
    """Turns the operands of one kernel into readers and writers."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.layout = Layout.of(kernel)
        self.parameters = {p.name: p for p in kernel.parameters}
        operands = " ".join(o for i in kernel.instructions for o in i.operands)
        self._operands = operands

    def build(self, ins: Instruction) -> Step:
        """The closure of an instruction, its guard included."""
        builder = _BUILDERS.get(ins.opcode.split(".", 1)[0])
        if builder is None:
            raise self.unknown(ins)
        return self.guarded(ins, builder(self, ins))

    def guarded(self, ins: Instruction, step: Step) -> Step:
        """A step that runs only where its predicate holds."""
        guard = self.guard(ins)
        if guard is None:
            return step

        def run(batch: Batch, active: Active) -> None:
            chosen = narrow(active, guard(batch, active))
            if chosen is not None:
                step(batch, chosen)

        return run

    def guard(self, ins: Instruction) -> Reader | None:
        """The predicate of ``@p`` or ``@!p``."""
        return self.predicate(("!" if ins.negate else "") + ins.guard) if ins.guard else None

    @staticmethod
    def unknown(ins: Instruction) -> UnknownInstructionError:
        """The error for what the emulator does not know."""
        where = f" ({ins.location})" if ins.location else ""
        return UnknownInstructionError(f"the emulator does not know {ins.opcode}, in: {ins.text}{where}")

    def is_dead(self, operand: str) -> bool:
        """Whether a destination is written here and named nowhere else."""
        return operand == "_" or len(re.findall(rf"{re.escape(operand)}(?!\d)", self._operands)) <= 1

    # -- reading -------------------------------------------------------------------------------------------

    def predicate(self, operand: str) -> Reader:
        """A reader of booleans; ``!`` negates."""
        if operand[0] == "!":
            inner = self.predicate(operand[1:])
            return lambda batch, active: ~inner(batch, active)
        if operand[0] != "%":
            value = bool(int(operand))
            return lambda batch, active: np.full(count(active), value)
        number = int(operand[1:])
        return lambda batch, active: batch.banks["pred"][number][active]

    def read(self, operand: str, kind: str) -> Reader:
        """A reader of values of a PTX type: an array over the active lanes, or one number for all."""
        if kind == "pred":
            return self.predicate(operand)
        dtype = dtype_of(kind)
        if operand[0] == "%" and operand[1:].isdigit():
            return self._register(int(operand[1:]), dtype)
        if operand[0] == "%":
            return self._special(operand, dtype)
        if operand[0] == "-" and operand[1] == "%":
            inner = self.read(operand[1:], kind)
            return lambda batch, active: -inner(batch, active)
        value = self.constant(operand, dtype)
        if value is not None:
            return lambda batch, active: value
        if operand in self.layout.offsets:
            offset = dtype.type(self.layout.offsets[operand])
            return lambda batch, active: offset
        if operand in self.kernel.variables:
            return lambda batch, active: dtype.type(batch.launch.symbols[operand])
        raise EmulatorError(f"an operand that the emulator does not know: {operand!r}")

    def _register(self, number: int, dtype: np.dtype[Any]) -> Reader:
        width = self.kernel.registers[number]
        size = dtype.itemsize
        letter = {"u": "u", "i": "s", "f": "f"}[dtype.kind]
        if width == "pred":
            return lambda batch, active: batch.banks["pred"][number][active]
        bytes_ = BYTES[width]
        if bytes_ == size:
            bank = f"{letter}{8 * size}"
            return lambda batch, active: batch.banks[bank][number][active]
        bank = f"u{8 * bytes_}"
        unsigned = np.dtype(f"u{size}")
        return lambda batch, active: batch.banks[bank][number][active].astype(unsigned).view(dtype)

    def _special(self, name: str, dtype: np.dtype[Any]) -> Reader:
        if name.startswith(("%clock", "%globaltimer")):
            return lambda batch, active: dtype.type(batch.launch.clock())

        def read(batch: Batch, active: Active) -> Any:
            try:
                value = batch.special[name][active]
            except KeyError:
                raise EmulatorError(f"the emulator has no special register {name}") from None
            return value if value.dtype == dtype else value.astype(dtype)

        return read

    @staticmethod
    def constant(operand: str, dtype: np.dtype[Any]) -> Any:
        """An immediate as a NumPy number of `dtype`, or None where the operand is none."""
        head = operand[:2]
        if head in ("0f", "0F") and len(operand) == 10:
            bits, single = int(operand[2:], 16), True
        elif head in ("0d", "0D") and len(operand) == 18:
            bits, single = int(operand[2:], 16), False
        elif operand[0].isdigit() or (operand[0] == "-" and operand[1:2].isdigit()):
            mask = (1 << (8 * dtype.itemsize)) - 1
            bits = int(operand.rstrip("U"), 0) & mask
            return np.array([bits], f"u{dtype.itemsize}").view(dtype)[0]
        else:
            return None
        value = np.array([bits], np.uint32 if single else np.uint64)
        if value.itemsize != dtype.itemsize:
            return value.view(np.float32 if single else np.float64)[0].astype(dtype)
        return value.view(dtype)[0]

    # -- writing -------------------------------------------------------------------------------------------

    def write(self, operand: str, kind: DTypeLike | str) -> Writer:
        """A writer of values of a PTX type; a wider register takes the value extended by its sign."""
        if operand == "_":
            return lambda batch, active, value: None
        number = int(operand[1:])
        width = self.kernel.registers[number]
        if width == "pred":

            def write_predicate(batch: Batch, active: Active, value: Any) -> None:
                batch.banks["pred"][number][active] = value

            return write_predicate
        dtype = dtype_of(str(kind))
        bytes_ = BYTES[width]
        if bytes_ < dtype.itemsize:
            raise EmulatorError(f"a {kind} does not fit a register of {width}")
        if bytes_ == dtype.itemsize:
            letter = {"u": "u", "i": "s", "f": "f"}[dtype.kind]
            bank = f"{letter}{8 * bytes_}"

            def write(batch: Batch, active: Active, value: Any) -> None:
                batch.banks[bank][number][active] = value

            return write
        bank = f"{'s' if dtype.kind == 'i' else 'u'}{8 * bytes_}"
        bits = np.dtype(f"u{dtype.itemsize}")

        def write_extended(batch: Batch, active: Active, value: Any) -> None:
            if dtype.kind == "f":
                value = np.asarray(value, dtype).view(bits)
            batch.banks[bank][number][active] = value

        return write_extended

    # -- addresses and vectors -----------------------------------------------------------------------------

    def address(self, operand: str) -> Reader:
        """A reader of addresses, as int64, one per active lane."""
        match = _ADDRESS.match(operand)
        if match is None:
            raise EmulatorError(f"an address that the emulator can't read: {operand!r}")
        base, sign, text = match.groups()
        offset = 0 if text is None else int(text, 0) * (-1 if sign == "-" else 1)
        if base[0] == "%":
            wide = BYTES[self.kernel.registers[int(base[1:])]] == 8
            reader = self.read(base, "s64" if wide else "u32")
            if wide and not offset:
                return reader
            if wide:
                return lambda batch, active: reader(batch, active) + offset
            return lambda batch, active: reader(batch, active).astype(np.int64) + offset
        symbol = self.read(base, "s64")
        return lambda batch, active: np.full(count(active), int(symbol(batch, active)) + offset, np.int64)

    @staticmethod
    def vector(operand: str) -> list[str]:
        """``{a, b}`` -> its names; a single operand is a vector of one."""
        return split_operands(operand[1:-1]) if operand[0] == "{" else [operand]


ENDINGS = {
    "bra": "branch",
    "ret": "exit",
    "exit": "exit",
    "bar": "barrier",
    "barrier": "barrier",
    "trap": "trap",
}
WARP_OPERATIONS = {"shfl", "vote", "match", "redux", "mma", "activemask", "ldmatrix"}


def ending(ins: Instruction) -> str:
    """How an instruction ends a basic block; empty where it does not."""
    name = ins.opcode.split(".", 1)[0]
    if name in WARP_OPERATIONS or (name in ("bar", "barrier") and "warp" in ins.parts):
        return "warp"
    return ENDINGS.get(name, "")


@dataclasses.dataclass
class Decoded:
    """A kernel, ready to run."""

    kernel: Kernel
    layout: Layout
    blocks: dict[int, Block]


def decode(kernel: Kernel) -> Decoded:
    """Split a kernel into basic blocks of closures."""
    decoder = Decoder(kernel)
    code = kernel.instructions
    leaders = {0, len(code), *kernel.labels.values()}
    for ins in code:
        kind = ending(ins)
        if kind:
            leaders.add(ins.index + 1)
        if kind in ("warp", "barrier"):
            leaders.add(ins.index)
    ordered = sorted(leaders)
    blocks = {}
    for start, stop in itertools.pairwise(ordered):
        last = code[stop - 1]
        kind = ending(last)
        plain = code[start : stop - 1] if kind else code[start:stop]
        block = Block(start, stop, [decoder.build(ins) for ins in plain], last, kind or "next")
        block.guard = decoder.guard(last) if kind else None
        if kind == "branch":
            target = last.operands[0]
            if target not in kernel.labels:
                raise EmulatorError(f"a branch to a label that does not exist: {last.text}")
            block.target = kernel.labels[target]
        elif kind == "warp" or (kind == "barrier" and "red" in last.parts):
            block.step = decoder.build(last)
        blocks[start] = block
    return Decoded(kernel, decoder.layout, blocks)
