"""Asking for memory: an instruction for each cache line, and no harm past the end of an array."""

from __future__ import annotations

import platform
import re
from typing import Any

import numpy as np
import pytest
from numba import njit

import nbops
from nbops.compiler import part
from nbops.tuned.lanes import LANES
from nbops.tuned.prefetch import (
    prefetch,
    prefetch_line,
    prefetch_line_to_l2,
    prefetch_line_to_write,
    prefetch_to_l2,
    prefetch_to_write,
)
from nbops.tuned.streaming import LINE
from nbops.tuned.sums_cpu import block_dot, block_sum

SIZE = 256


def read(x: Any, distance: int) -> None:
    prefetch(x, SIZE, distance)


def write(x: Any, distance: int) -> None:
    prefetch_to_write(x, SIZE, distance)


def read_to_l2(x: Any, distance: int) -> None:
    prefetch_to_l2(x, SIZE, distance)


KINDS = {
    read: {"prefetcht0"},
    read_to_l2: {"prefetcht1"},
    write: {"prefetchw", "prefetcht0"},  # some x86 lack w
}


@pytest.mark.parametrize("ask", KINDS)
def test_one_instruction_for_each_line(ask: Any) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("counts instructions of x86")
    compiled: Any = njit(ask)
    compiled(np.zeros(64), 0)
    (assembly,) = compiled.inspect_asm().values()
    body = assembly[: assembly.index(".Lfunc_end0")]
    kinds = re.findall(r"^\s+(prefetch\w+)\s", body, re.MULTILINE)
    assert len(kinds) == SIZE // 64
    assert set(kinds) <= KINDS[ask]


def line(address: int) -> None:
    prefetch_line(address)


def line_to_l2(address: int) -> None:
    prefetch_line_to_l2(address)


def line_to_write(address: int) -> None:
    prefetch_line_to_write(address)


LINES = {
    line: {"prefetcht0"},
    line_to_l2: {"prefetcht1"},
    line_to_write: {"prefetchw", "prefetcht0"},
}


@pytest.mark.parametrize("ask", LINES)
def test_a_line_is_one_instruction_and_need_not_exist(ask: Any) -> None:
    compiled: Any = njit(ask)
    for address in (0, 1, 1 << 40, -1):
        compiled(address)
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("knows the instructions of x86 alone")
    (assembly,) = compiled.inspect_asm().values()
    kinds = re.findall(r"^\s+(prefetch\w+)\s", assembly[: assembly.index(".Lfunc_end0")], re.MULTILINE)
    assert len(kinds) == 1
    assert set(kinds) <= LINES[ask]


@pytest.mark.parametrize("ask", KINDS)
@pytest.mark.parametrize("distance", [-(1 << 62), -64, 64, 1 << 40, 1 << 62])
def test_memory_that_is_not_there_may_be_asked_for(ask: Any, distance: int) -> None:
    x = np.arange(64.0)
    njit(ask)(x, distance)
    assert np.array_equal(x, np.arange(64.0))


dot, total = part(block_dot, forceinline=True), part(block_sum, forceinline=True)

FAR_AHEAD = {  # and how many arrays are asked for in L2
    "dot, near": (lambda x, y: dot(x, y), 0),
    "dot, from memory": (lambda x, y: dot(x, y, True), 2),
    "sum, near": (lambda x, y: total(x), 0),
    "sum, from memory": (lambda x, y: total(x, True), 1),
}


@pytest.mark.parametrize("case", FAR_AHEAD)
def test_a_row_from_memory_is_asked_for_far_ahead(case: str) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("knows the instructions of x86 alone")
    reduce, arrays = FAR_AHEAD[case]
    compiled: Any = njit(reduce)
    x = np.ones(1000, np.float32)
    assert compiled(x, x) == 1000
    (assembly,) = compiled.inspect_asm().values()
    asked = re.findall(r"^\s+prefetcht1\s", assembly, re.MULTILINE)
    # A loop over a block's lines, or one instruction for each of them.
    assert len(asked) in (arrays, arrays * LANES * x.itemsize // LINE)


@pytest.mark.parametrize("step", [1, 3, -1])
def test_rows_at_the_end_of_memory(step: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 700 * abs(step))).astype(np.float32)[:, ::step]
    powers = np.exp(x.astype(np.float64))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(nbops.softmax(x), expected, rtol=1e-5)
