"""How a loop may be shared out between blocks and threads, and that it computes the same either way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops import lanes, op, prange
from nbops.targets.cuda.structure import Structure, structure_of
from tests.targets.cuda import needs_compiler


def both(x: Any, out: Any) -> None:
    for i in prange(x.shape[0]):
        for j in nbops.lanes(x.shape[1]):
            total = out.dtype.type(0)
            for k in range(3):
                total += x[i, j] * (k + 1)
            out[i, j] = total


def adds_in_lanes(x: Any, out: Any) -> None:
    for i in prange(x.shape[0]):
        total = x[i, 0] - x[i, 0]
        for j in lanes(x.shape[1]):
            total += x[i, j]
        for j in lanes(x.shape[1]):
            out[i, j] = total


def reads_what_it_wrote(x: Any, out: Any) -> None:
    for i in prange(x.shape[0]):
        for j in lanes(x.shape[1]):
            out[i, j] = x[i, j]
        first = out[i, 0]
        for j in lanes(x.shape[1]):
            out[i, j] *= first


def writes_outside(x: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        for j in lanes(x.shape[1]):
            out[i, j] = x[i, j]
        out[i, 0] = out[i, 0] * 2


def shifts_in_two_steps(x: Any, out: Any) -> None:
    """The second lanes loop reads what other threads wrote in the first."""
    for i in prange(x.shape[0]):
        for j in lanes(x.shape[1]):
            out[i, j] = x[i, j]
        for j in lanes(1, x.shape[1], 2):
            out[i, j] += out[i, j - 1]


def strided_prange(x: Any, out: Any) -> None:
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = 0
    for i in prange(1, x.shape[0], 2):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j]


def one_strided_prange(x: Any, out: Any) -> None:
    for i in prange(0, x.shape[0], 1):
        for j in range(x.shape[1]):
            out[i, j] = x[i, j] + i


LOOPS = {
    both: Structure(True, True),
    adds_in_lanes: Structure(True, False),
    reads_what_it_wrote: Structure(True, False),
    writes_outside: Structure(False, False),
    shifts_in_two_steps: Structure(True, True),
    strided_prange: Structure(False, False),
    one_strided_prange: Structure(True, False),
}


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_structure(loop: Any) -> None:
    assert structure_of(loop, 1) == LOOPS[loop]


def test_matmul_uses_blocks_and_threads() -> None:
    assert structure_of(nbops.matmul.loop, 2) == Structure(True, True)


@needs_compiler
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_users_loop_computes_what_the_interpreter_does(loop: Any, rng: np.random.Generator) -> None:
    made = op("(m,n)->(m,n)", name=f"cuda_{loop.__name__}")(loop)
    for shape in ((5, 7), (2, 3, 300), (1, 1)):
        x = rng.uniform(1, 2, shape)
        with nbops.use("cuda-emulator"):
            result = made(x)
        np.testing.assert_allclose(result, made(x, target="python"), rtol=1e-12)
