"""What each opcode does, by family. Importing this package registers them all."""

from nbops.targets.emulator.instructions import (
    arithmetic,
    asynchronous,
    atomics,
    bits,
    conversions,
    data,
    floating,
    matrix,
    warp,
)

__all__ = [
    "arithmetic",
    "asynchronous",
    "atomics",
    "bits",
    "conversions",
    "data",
    "floating",
    "matrix",
    "warp",
]
