"""What the emulator raises: one class per checker, each naming the kernel's Python line, block and thread."""

from __future__ import annotations

__all__ = [
    "EmulatorError",
    "InitcheckError",
    "MemcheckError",
    "PTXSyntaxError",
    "RacecheckError",
    "SynccheckError",
    "UnknownInstructionError",
]


class EmulatorError(RuntimeError):
    """Anything that goes wrong in a kernel, or that the emulator can't do."""


class PTXSyntaxError(EmulatorError, ValueError):
    """Text that is not PTX, or PTX that this parser does not read."""


class UnknownInstructionError(EmulatorError, NotImplementedError):
    """An instruction that the emulator does not know; the message names it."""


class MemcheckError(EmulatorError):
    """An access out of bounds, misaligned, or to freed memory."""


class InitcheckError(EmulatorError):
    """A read of memory that nobody has written."""


class RacecheckError(EmulatorError):
    """Two threads access one place, one of them writes, and nothing orders them."""


class SynccheckError(EmulatorError):
    """A barrier or a warp operation that not all of its threads reach."""
