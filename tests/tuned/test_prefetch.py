"""Asking for memory: an instruction for each cache line, and no harm past the end of an array."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest
from numba import njit

import nbops
from nbops.tuned.prefetch import prefetch, prefetch_to_write

SIZE = 256


def read(x: Any, distance: int) -> None:
    prefetch(x, SIZE, distance)


def write(x: Any, distance: int) -> None:
    prefetch_to_write(x, SIZE, distance)


@pytest.mark.parametrize("ask", [read, write])
def test_one_instruction_for_each_line(ask: Any) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("counts instructions of x86")
    compiled: Any = njit(ask)
    compiled(np.zeros(64), 0)
    (assembly,) = compiled.inspect_asm().values()
    body = assembly[: assembly.index(".Lfunc_end0")]
    kinds = re.findall(r"^\s+(prefetch\w+)\s", body, re.MULTILINE)
    assert len(kinds) == SIZE // 64
    assert set(kinds) <= ({"prefetcht0"} if ask is read else {"prefetchw", "prefetcht0"})  # some x86 lack w


@pytest.mark.parametrize("ask", [read, write])
@pytest.mark.parametrize("distance", [-(1 << 62), -64, 64, 1 << 40, 1 << 62])
def test_memory_that_is_not_there_may_be_asked_for(ask: Any, distance: int) -> None:
    x = np.arange(64.0)
    njit(ask)(x, distance)
    assert np.array_equal(x, np.arange(64.0))


@pytest.mark.parametrize("step", [1, 3, -1])
def test_rows_at_the_end_of_memory(step: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 700 * abs(step))).astype(np.float32)[:, ::step]
    powers = np.exp(x.astype(np.float64))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(nbops.softmax(x), expected, rtol=1e-5)
