"""Numba's threading layers that this machine has."""

from __future__ import annotations

import ctypes.util
import sys
from pathlib import Path

import pytest

LAYERS = ("omp", "tbb", "workqueue")


def need(layer: str) -> None:
    """Skip a test where the layer is not installed; ``pip install tbb`` brings TBB, the system GNU OpenMP."""
    library = {"omp": "gomp", "tbb": "tbb"}.get(layer)
    if library is None or ctypes.util.find_library(library):
        return
    if not list(Path(sys.prefix, "lib").glob(f"lib{library}.so.*")):
        pytest.skip(f"lib{library}, which Numba's layer {layer!r} needs, is not installed")
