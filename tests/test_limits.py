"""The largest shapes: as many axes as NumPy has, and results that no memory can hold."""

from __future__ import annotations

import numpy as np
import pytest

import nbops


@pytest.mark.parametrize("ndim", [0, 1, 9, 32, 33, 64])
def test_as_many_axes_as_numpy_has(ndim: int) -> None:
    x = np.arange(2.0 ** min(ndim, 2)).reshape((2,) * min(ndim, 2) + (1,) * (ndim - 2))
    np.testing.assert_array_equal(nbops.add(x, x.T), x + x.T)
    assert nbops.sum(x) == x.sum()
    if ndim > 1:
        np.testing.assert_array_equal(nbops.matmul(x.T, x.T.swapaxes(-1, -2)), x.T @ x.T.swapaxes(-1, -2))


HUGE = np.broadcast_to(np.float32(1), (2**40, 2**20))


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        (nbops.relu, (HUGE,)),
        (nbops.softmax, (HUGE,)),
        (nbops.add, (np.broadcast_to(1.0, (2**40, 1)), np.broadcast_to(1.0, (1, 2**40)))),
        (nbops.matmul, (np.broadcast_to(1.0, (2**40, 1)), np.broadcast_to(1.0, (1, 2**40)))),
    ],
)
def test_a_result_that_no_address_space_holds(op, operands) -> None:
    with pytest.raises(ValueError, match=r"the result would have more than 2\*\*63 - 1 bytes"):
        op(*operands)
