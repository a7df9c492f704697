"""On a GPU: the emulator's cases once more, and timings beside CuPy (cuBLAS) where it is installed.

``pytest -m gpu -s`` prints the timings; without a GPU every test here is skipped, and the reason printed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets import cuda
from nbops.targets.cuda import driver
from tests.cases import CASES_AND_SHAPES, Case, assert_close, describe
from tests.targets.cuda import needs_compiler

pytestmark = [
    pytest.mark.gpu,
    needs_compiler,
    pytest.mark.skipif(not cuda.available(), reason=driver.missing() or "the CUDA target can't be used"),
]


@pytest.mark.parametrize(("case", "shapes"), CASES_AND_SHAPES, ids=describe)
def test_values(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes, np.float32)
    with nbops.use("cuda"):
        assert_close(case.function(*operands), case.expected(operands), case, shapes)


TIMED: dict[str, tuple[Callable[..., Any], str, tuple[tuple[int, ...], ...]]] = {
    "matmul 2048": (nbops.matmul, "matmul", ((2048, 2048), (2048, 2048))),
    "add 16 Mi": (nbops.add, "add", ((2**24,), (2**24,))),
    "exp 16 Mi": (nbops.exp, "exp", ((2**24,),)),
}


@pytest.mark.parametrize("name", TIMED)
def test_times_beside_cupy(name: str, rng: np.random.Generator) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    ours, theirs, shapes = TIMED[name]
    operands = [cupy.asarray(rng.random(shape, np.float32)) for shape in shapes]

    def milliseconds(call: Callable[..., Any]) -> float:
        times = []
        for _ in range(10):
            cupy.cuda.get_current_stream().synchronize()
            start = time.perf_counter()
            call(*operands)
            cupy.cuda.get_current_stream().synchronize()
            times.append(time.perf_counter() - start)
        return min(times) * 1e3

    expected = getattr(cupy, theirs)(*operands)
    cupy.testing.assert_allclose(ours(*operands), expected, rtol=1e-3, atol=1e-3)
    print(f"\n{name}: nbops {milliseconds(ours):.3f} ms, CuPy {milliseconds(getattr(cupy, theirs)):.3f} ms")
