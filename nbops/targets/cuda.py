"""The seam of the CUDA target: the only module that will import ``numba.cuda``.

The kernels and the emulator that executes their PTX come with a later release. Until then the target is
never chosen by itself, and asking for it says so.
"""

from __future__ import annotations

__all__ = ["available", "require"]


def available() -> bool:
    """Whether a loop can run on a GPU here."""
    return False


def require() -> None:
    """Raise unless a loop can run on a GPU here.

    Raises
    ------
    RuntimeError
        Always, in this release.
    """
    raise RuntimeError(
        "target 'cuda' was asked for, but this release of nbops has no CUDA kernels yet; "
        "use target 'auto' or 'cpu'"
    )
