"""Lanes: where they lie."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from nbops.tuned.lanes import new_lanes
from nbops.tuned.streaming import LINE


@numba.njit
def place(value: Any, depth: int) -> int:
    """The address of new lanes, so many calls down the stack."""
    if depth > 0:
        return place(value, depth - 1)  # type: ignore[no-any-return]
    lanes = new_lanes(value)
    return int(lanes.ctypes.data)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lanes_begin_on_a_cache_line(dtype: type) -> None:
    """Wherever the stack was: a vector across two pages takes many times as long to write and to read."""
    assert {place(dtype(1), depth) % LINE for depth in range(30)} == {0}
