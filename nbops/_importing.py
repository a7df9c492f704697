"""Imported first by nbops: no garbage collection while nbops is imported, until `done`.

What an import makes lives on, so there is nothing to collect; but a collection walks through all that Numba
has just made, which takes half as long as the rest of ``import nbops``. Numba is imported before the pause:
should it be missing, nothing has been paused.
"""

from __future__ import annotations

import gc

import numba  # noqa: F401

__all__ = ["done"]

_was_enabled = gc.isenabled()
gc.disable()


def done() -> None:
    """Let the collector go on, if it was on."""
    if _was_enabled:
        gc.enable()
