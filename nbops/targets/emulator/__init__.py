"""A GPU without a GPU: executes the PTX that Numba compiled, every thread at once in NumPy, and checks it."""

from nbops.targets.emulator import instructions as instructions
from nbops.targets.emulator.device import Device, Launch
from nbops.targets.emulator.errors import (
    EmulatorError,
    InitcheckError,
    MemcheckError,
    RacecheckError,
    SynccheckError,
    UnknownInstructionError,
)
from nbops.targets.emulator.syntax import Program

__all__ = [
    "Device",
    "EmulatorError",
    "InitcheckError",
    "Launch",
    "MemcheckError",
    "Program",
    "RacecheckError",
    "SynccheckError",
    "UnknownInstructionError",
]
