"""What an assembled kernel is made of, read from its machine code: no toolkit, no disassembler.

A cubin is an ELF file. ``.nv.info`` says how many registers and bytes of stack a kernel uses,
``.nv.shared.*`` how much shared memory, and ``.text.*`` is the code: 16 bytes an instruction, on every
architecture from compute capability 7.0 on. Only what the static bounds need is decoded: which instruction it
is, how many bytes a load or store moves, and where a branch goes::

    bits   0-8     operation            bits 73-75   4, 5, 6: a load or store of 4, 8, 16 bytes
    bits  34-81    a branch's distance in words of 4 bytes; from 9.0 on its low bits are 16-23

The codes were read off what NVIDIA's disassembler (nvdisasm) makes of nbops's own kernels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Instruction", "MachineCode", "read"]

#: Operations by code; others are OTHER.
OPERATIONS = {
    0x020: "FMUL",
    0x021: "FADD",
    0x023: "FFMA",
    0x028: "DMUL",
    0x029: "DADD",
    0x02A: "DSETP",
    0x02B: "DFMA",
    0x03C: "HMMA",
    0x104: "F2F",
    0x106: "I2F",
    0x108: "MUFU",
    0x110: "F2F",
    0x111: "F2I",
    0x112: "I2F",
    0x11D: "BAR",
    0x118: "NOP",
    0x143: "CALL",
    0x144: "CALL",
    0x147: "BRA",
    0x14D: "EXIT",
    0x150: "RET",
    0x180: "LD",
    0x181: "LDG",
    0x183: "LDL",
    0x184: "LDS",
    0x185: "ST",
    0x186: "STG",
    0x187: "STL",
    0x188: "STS",
    0x189: "SHFL",
    0x1AE: "LDGSTS",
}
MEMORY = {"LD", "LDG", "LDL", "LDS", "ST", "STG", "STL", "STS", "LDGSTS"}
BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 8, 6: 16}
INSTRUCTION_BYTES = 16
# attributes of .nv.info
RESERVED_BYTES = 1024  # of the system, at the beginning of a block's shared memory
CONSTANTS = ".nv.constant0."
FRAME_SIZE, MIN_STACK_SIZE, REGISTER_COUNT, WORDS = 0x11, 0x12, 0x2F, 4


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    name : str
        The hardware's, or OTHER.
    nbytes : int
        That a thread loads or stores; 0 for others.
    target : int or None
        The number of the instruction that a branch goes to.
    """

    name: str
    nbytes: int = 0
    target: int | None = None


@dataclass(frozen=True)
class MachineCode:
    """A kernel.

    Parameters
    ----------
    registers : int
        Of a thread.
    stack_bytes : int
        Of a thread; what is spilled from registers lies there too.
    shared_bytes : int
        Of a block, as far as its size is known before the launch.
    instructions : tuple of Instruction
    """

    registers: int
    stack_bytes: int
    shared_bytes: int
    instructions: tuple[Instruction, ...]


def read(cubin: bytes, compute_capability: tuple[int, int]) -> MachineCode:
    """Read the only kernel of a cubin.

    Parameters
    ----------
    cubin : bytes
    compute_capability : tuple of 2 int

    Raises
    ------
    ValueError
        For bytes that are no cubin of one kernel.
    """
    if cubin[:4] != b"\x7fELF":
        raise ValueError("expected a cubin, which is an ELF file")
    sections = dict(_sections(cubin))
    # a kernel has parameters, in a constant bank of its own; the functions that it calls have none
    kernels = [name.removeprefix(CONSTANTS) for name in sections if name.startswith(CONSTANTS)]
    if len(kernels) != 1:
        raise ValueError(f"the cubin has {len(kernels)} kernels; expected one")
    attributes: dict[int, int] = {}
    for attribute, value in _attributes(sections[".nv.info"]):
        attributes[attribute] = max(attributes.get(attribute, 0), value)
    shared = sum(len(data) for name, data in sections.items() if name.startswith(".nv.shared."))
    if shared and compute_capability >= (9, 0):
        shared -= RESERVED_BYTES
    return MachineCode(
        attributes[REGISTER_COUNT],
        max(attributes.get(FRAME_SIZE, 0), attributes.get(MIN_STACK_SIZE, 0)),
        shared,
        tuple(_decoded(sections[f".text.{kernels[0]}"], compute_capability)),
    )


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Every section's name and content; shared memory has no content in the file, only a size."""
    start = struct.unpack_from("<Q", elf, 40)[0]
    count, names_at = struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + 64 * i) for i in range(count)]
    _, _, _, _, names, _ = headers[names_at]
    for name, kind, _, _, offset, size in headers:
        text = elf[names + name : elf.index(b"\0", names + name)].decode()
        yield text, bytes(size) if kind == 8 else elf[offset : offset + size]


def _attributes(info: bytes) -> Iterator[tuple[int, int]]:
    """Attributes of ``.nv.info`` that have two words, a symbol and a value."""
    place = 0
    while place < len(info):
        kind, attribute, size = struct.unpack_from("<BBH", info, place)
        place += 4
        if kind == WORDS:
            if size == 8:
                yield attribute, struct.unpack_from("<I", info, place + 4)[0]
            place += size


def _decoded(code: bytes, compute_capability: tuple[int, int]) -> Iterator[Instruction]:
    for place in range(0, len(code), INSTRUCTION_BYTES):
        bits = int.from_bytes(code[place : place + INSTRUCTION_BYTES], "little")
        name = OPERATIONS.get(bits & 0x1FF, "OTHER")
        if name in MEMORY:
            yield Instruction(name, BYTES.get(bits >> 73 & 7, 0) if name != "LDGSTS" else 16)
        elif name == "BRA":
            distance = _signed(bits >> 34, 48)
            if compute_capability >= (9, 0):
                distance = distance << 8 | bits >> 16 & 0xFF
            yield Instruction(name, target=(place + INSTRUCTION_BYTES + 4 * distance) // INSTRUCTION_BYTES)
        else:
            yield Instruction(name)


def _signed(value: int, width: int) -> int:
    value &= (1 << width) - 1
    return value - (1 << width) if value >> width - 1 else value
