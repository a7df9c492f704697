"""Two seconds of what `make stress` does for minutes, and thousands of calls that leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests import layers

STRESS = """
    import sys
    from tests import stress
    sys.argv = ["stress", "--seconds", "2", *sys.argv[1:]]
    sys.exit(stress.main())
"""


@pytest.mark.parametrize("arguments", [(), ("--tensorflow",)])
@pytest.mark.parametrize("layer", layers.LAYERS)
def test_many_threads(run_python: Any, layer: str, arguments: tuple[str, ...]) -> None:
    layers.need(layer)
    output = run_python(STRESS, *arguments, NUMBA_THREADING_LAYER=layer, PYTHONWARNINGS="ignore").stdout
    assert output.startswith(f"{layer}: ")
    assert arguments or "after fork" in output


GROWTH = """
    import gc, os, sys, tracemalloc
    import numpy as np, nbops

    calls = int(sys.argv[1])
    x, w, small = np.ones((20, 30), "f4"), np.ones((30, 8), "f4"), np.ones(5)
    if len(sys.argv) > 2:
        import tensorflow as tf
        x, w, small = map(tf.constant, (x, w, small))

    def round_():
        nbops.matmul(x, w)
        nbops.add(small, small)
        nbops.softmax(x)
        nbops.sum(x, 0)
        nbops.dense(x, w, w[0], "relu")

    def measure():
        gc.collect()
        resident = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return tracemalloc.get_traced_memory()[0], resident, len(os.listdir("/proc/self/fd"))

    for _ in range(calls // 20):  # what is remembered once, such as compiled code, comes first
        round_()
    tracemalloc.start()
    for _ in range(50):
        round_()
    before = measure()
    for _ in range(calls // 5):
        round_()
    after = measure()
    print(*(b - a for a, b in zip(before, after)))
"""


@pytest.mark.parametrize(
    ("calls", "arguments"),
    [(10_000, ()), (10_000, ("tensorflow",)), pytest.param(100_000, (), marks=pytest.mark.slow)],
)
def test_calls_leave_nothing_behind(run_python: Any, calls: int, arguments: tuple[str, ...]) -> None:
    """Less than ten bytes a call, and no file: a leak of one object would be fifty."""
    traced, resident, files = map(int, run_python(GROWTH, str(calls), *arguments).stdout.split())
    assert traced < 10 * calls
    assert resident < 2**20 + 50 * calls  # the allocator's own pages
    assert files == 0
