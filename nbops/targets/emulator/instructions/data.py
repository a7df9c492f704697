"""Moving data: mov, ld, st, prefetches, and fences (which have nothing to do here: memory is never out of
order).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.decode import Decoder, Step, dtype_of, instruction
from nbops.targets.emulator.lanes import Active
from nbops.targets.emulator.nodes import BYTES, Instruction

__all__ = ["space_of"]

SPACES = ("global", "shared", "local", "const", "param")


def space_of(ins: Instruction) -> str:
    """The state space of an access; ``generic`` where none is named."""
    names = {part.split("::")[0] for part in ins.parts}
    return next((space for space in SPACES if space in names), "generic")


@instruction("mov")
def _move(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    destination, source = ins.operands
    if destination[0] == "{":
        return _unpack(decoder, ins, kind)
    if source[0] == "{":
        return _pack(decoder, ins, kind)
    bits = kind if kind == "pred" else "b" + kind[1:]
    if kind[0] == "f" and source[:2].lower() not in ("0f", "0d"):
        bits = "b" + str(8 * dtype_of(kind).itemsize)
    read, write = decoder.read(source, bits), decoder.write(destination, bits)

    def run(batch: Batch, active: Active) -> None:
        write(batch, active, read(batch, active))

    return run


def _unpack(decoder: Decoder, ins: Instruction, kind: str) -> Step:
    names = decoder.vector(ins.operands[0])
    size = BYTES[kind] // len(names)
    read = decoder.read(ins.operands[1], "b" + kind[1:])
    writes = [decoder.write(name, f"b{8 * size}") for name in names]
    whole, part = dtype_of("b" + kind[1:]), np.dtype(f"u{size}")

    def run(batch: Batch, active: Active) -> None:
        value = np.atleast_1d(read(batch, active))
        for position, write in enumerate(writes):
            write(batch, active, (value >> whole.type(8 * size * position)).astype(part))

    return run


def _pack(decoder: Decoder, ins: Instruction, kind: str) -> Step:
    names = decoder.vector(ins.operands[1])
    size = BYTES[kind] // len(names)
    reads = [decoder.read(name, f"b{8 * size}") for name in names]
    write = decoder.write(ins.operands[0], "b" + kind[1:])
    whole = dtype_of("b" + kind[1:])

    def run(batch: Batch, active: Active) -> None:
        value: Any = whole.type(0)
        for position, read in enumerate(reads):
            value = value | (np.asarray(read(batch, active)).astype(whole) << whole.type(8 * size * position))
        write(batch, active, value)

    return run


@instruction("ld", "ldu")
def _load(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    space = space_of(ins)
    names = decoder.vector(ins.operands[0])
    writes = [decoder.write(name, kind) for name in names]
    dtype = dtype_of(kind)
    match = re.match(r"\[\s*([\w$]+)\s*(?:\+\s*(-?\w+)\s*)?\]$", ins.operands[1])
    if space == "param" and match and match[1] in decoder.parameters:
        offset = decoder.parameters[match[1]].offset + int(match[2] or "0", 0)

        def run_parameter(batch: Batch, active: Active) -> None:
            values = np.frombuffer(batch.launch.parameters, dtype, len(writes), offset)
            for write, value in zip(writes, values, strict=True):
                write(batch, active, value)

        return run_parameter
    address = decoder.address(ins.operands[1])
    where = "local" if space == "param" else space
    vector = len(names)

    def run(batch: Batch, active: Active) -> None:
        values = batch.load(where, address(batch, active), dtype, vector, active, ins)
        for write, value in zip(writes, values, strict=True):
            write(batch, active, value)

    return run


@instruction("st")
def _store(decoder: Decoder, ins: Instruction) -> Step:
    kind = ins.parts[-1]
    space = space_of(ins)
    bits = "b" + str(8 * dtype_of(kind).itemsize)
    reads = [decoder.read(name, bits if name[0] == "%" else kind) for name in decoder.vector(ins.operands[1])]
    address = decoder.address(ins.operands[0])
    where = "local" if space == "param" else space
    dtype = dtype_of(bits)
    source = dtype_of(kind)

    def run(batch: Batch, active: Active) -> None:
        values = [read(batch, active) for read in reads]
        plain = [v if isinstance(v, np.ndarray) else np.array([v], source).view(dtype)[0] for v in values]
        batch.store(where, address(batch, active), dtype, plain, active, ins)

    return run


@instruction("prefetch", "prefetchu", "applypriority", "membar", "fence", "nanosleep", "griddepcontrol")
def _nothing(decoder: Decoder, ins: Instruction) -> Step:
    def run(batch: Batch, active: Active) -> None:
        """Hints and fences change no value here."""

    return run
