"""The check of an op's gradient on a CUDA target."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbops
from tests.cases import Case, assert_gradients_close
from tests.test_gradients import upstreams_of


def check_gradients(
    case: Case, shapes: Any, dtype: Any, rng: np.random.Generator, target: str, **settings: Any
) -> Any:
    """Against the CPU's in float64, which tests/test_gradients.py compares to differences.

    Returns the device, whose counters name the kernels.
    """
    assert case.op is not None
    operands = case.draw(rng, shapes, dtype)
    wide = [x.astype(np.float64) if x.dtype.kind == "f" else x for x in operands]
    upstreams = [u.astype(dtype) for u in upstreams_of(case, wide, rng)]
    with nbops.use("serial"):
        exact = case.op.vjp(*wide)[1](*[u.astype(np.float64) for u in upstreams])
    with nbops.use(target, strict=True, **settings) as device:
        gradients = case.op.vjp(*operands)[1](*upstreams)
    assert_gradients_close(gradients, exact, case, operands)
    return device
