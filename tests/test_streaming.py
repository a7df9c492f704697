"""Results larger than the caches: written past them, and the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets import tasks
from nbops.tuned import streaming


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat everything over 4 KiB as larger than the caches, in an op compiled within the test."""
    monkeypatch.setattr(tasks, "CACHE_BYTES", 4096)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("offset", [0, 1, 5, 16])
@pytest.mark.parametrize("shape", [(3000,), (7, 1023), (2, 4096)])
def test_every_element_is_written(
    small_caches: None, dtype: type, offset: int, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Whatever the first address and the row's length: the start, the whole lines and the rest."""

    def streamed_add(x: Any, y: Any) -> Any:
        return x + y

    own = nbops.elementwise(name=f"streamed_add_{np.dtype(dtype)}")(streamed_add)
    size = int(np.prod(shape))
    x, y = ((100 * rng.normal(size=size)).astype(dtype).reshape(shape) for _ in range(2))
    memory = np.full(size + 64, 77, dtype)
    out = memory[offset : offset + size].reshape(shape)
    for target in ("serial", "parallel"):
        memory[:] = 77
        own(x, y, out=out, target=target)
        np.testing.assert_array_equal(out, x + y)
        assert (memory[:offset] == 77).all()
        assert (memory[offset + size :] == 77).all()


def test_the_cache_size_is_a_number_of_bytes() -> None:
    assert streaming.CACHE_BYTES >= 1 << 18
