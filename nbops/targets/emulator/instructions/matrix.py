"""mma.sync: one warp multiplies small matrices whose elements are spread over its lanes.

Known: m16n8k8 and m16n8k4 of tf32, m16n8k16 and m16n8k8 of f16 and bf16, all into float32. Products are
exact and a row's sum is taken in float64 and rounded once; hardware's own order of summation is not
documented.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbops.targets.emulator import exact
from nbops.targets.emulator.batch import WARP, Batch
from nbops.targets.emulator.decode import Decoder, Step, instruction
from nbops.targets.emulator.lanes import Active, Array, count
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []

_GROUP = np.arange(WARP) >> 2
_WITHIN = np.arange(WARP) & 3


def _wide_elements(bits: Array) -> Array:
    """tf32: the upper 19 bits of each word; one element a register."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)[..., None]


def _narrow_elements(brain: bool) -> Any:
    """f16 or bf16: two elements a register."""

    def split(bits: Array) -> Array:
        halves = np.ascontiguousarray(bits).view(np.uint16).reshape(*bits.shape, 2)
        if brain:
            return exact.from_bfloat16(halves)
        return halves.view(np.float16).astype(np.float32)

    return split


@instruction("mma")
def _multiply(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    shape = parts[3]
    kinds = parts[-4:]
    known = {"tf32": ("m16n8k4", "m16n8k8"), "f16": ("m16n8k8", "m16n8k16"), "bf16": ("m16n8k8", "m16n8k16")}
    if kinds[0] != "f32" or kinds[3] != "f32" or shape not in known.get(kinds[1], ()) or kinds[1] != kinds[2]:
        raise decoder.unknown(ins)
    packed = 1 if kinds[1] == "tf32" else 2
    split = _wide_elements if packed == 1 else _narrow_elements(kinds[1] == "bf16")
    depth = int(shape.split("k")[1])
    d, a, b, c = (decoder.vector(operand) for operand in ins.operands)
    read_a, read_b = [decoder.read(r, "b32") for r in a], [decoder.read(r, "b32") for r in b]
    read_c, writes = [decoder.read(r, "f32") for r in c], [decoder.write(r, "f32") for r in d]

    def gather(batch: Batch, active: Active, reads: list[Any], dtype: Any) -> list[Array]:
        number = count(active)
        return [
            np.broadcast_to(np.asarray(r(batch, active), dtype), (number,)).reshape(-1, WARP) for r in reads
        ]

    def run(batch: Batch, active: Active) -> None:
        if count(active) % WARP:
            raise decoder.unknown(ins)
        warps = count(active) // WARP
        left, right = np.zeros((warps, 16, depth)), np.zeros((warps, depth, 8))
        across = 4 * packed
        for position, bits in enumerate(gather(batch, active, read_a, np.uint32)):
            elements = split(bits)
            for half in range(packed):
                row, column = _GROUP + 8 * (position & 1), packed * _WITHIN + half + across * (position >> 1)
                left[:, row, column] = elements[..., half]
        for position, bits in enumerate(gather(batch, active, read_b, np.uint32)):
            elements = split(bits)
            for half in range(packed):
                right[:, packed * _WITHIN + half + across * position, _GROUP] = elements[..., half]
        product = left @ right
        for position, (start, write) in enumerate(
            zip(gather(batch, active, read_c, np.float32), writes, strict=True)
        ):
            row, column = _GROUP + 8 * (position >> 1), 2 * _WITHIN + (position & 1)
            total = product[:, row, column] + start
            write(batch, active, total.astype(np.float32).reshape(-1))

    return run
