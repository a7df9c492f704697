"""The check of an op's gradient on a CUDA target."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbops
from tests.cases import Case
from tests.test_gradients import upstreams_of


def check_in_float32(case: Case, shapes: Any, rng: np.random.Generator, target: str, **settings: Any) -> None:
    """In float32, against the CPU's in float64, which tests/test_gradients.py compares to differences."""
    assert case.op is not None
    operands = case.draw(rng, shapes, np.float32)
    wide = [x.astype(np.float64) if x.dtype == np.float32 else x for x in operands]
    upstreams = [u.astype(np.float32) for u in upstreams_of(case, wide, rng)]
    exact = case.op.vjp(*wide)[1](*[u.astype(np.float64) for u in upstreams])
    with nbops.use(target, strict=True, **settings):
        gradients = case.op.vjp(*operands)[1](*upstreams)
    for gradient, expected in zip(gradients, exact, strict=True):
        assert (gradient is None) == (expected is None)
        if expected is not None:
            assert np.asarray(gradient).dtype == np.float32
            largest = np.abs(expected).max(initial=1)
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=3e-5 * largest)
