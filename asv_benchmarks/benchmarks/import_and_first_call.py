"""Cold start: the import, and the first call of a process with and without a cache."""

from __future__ import annotations

from .common import in_new_process

IMPORT = """
import time
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start)
"""
FIRST_CALL = """
import time
import numpy as np
import nbops
operands = {operands}
start = time.perf_counter()
nbops.{op}(*operands)
print(time.perf_counter() - start)
"""
OPERANDS = {
    "relu": "[np.ones((20, 100), 'float32')]",
    "matmul": "[np.ones((128, 784), 'float32'), np.ones((784, 512), 'float32')]",
    "softmax": "[np.ones((128, 10), 'float32')]",
}


class Import:
    """Seconds, the best of five processes."""

    params = ["nbops", "numba, numpy"]
    param_names = ("modules",)
    timeout = 300

    def track_seconds(self, modules):
        return in_new_process(IMPORT.format(modules=modules), empty_cache=False, times=5)

    track_seconds.unit = "seconds"


class FirstCall:
    """Seconds of a process's first call, after the import."""

    params = (["relu", "matmul", "softmax"], ["cold", "warm"])
    param_names = ("op", "cache")
    timeout = 300

    def track_seconds(self, op, cache):
        source = FIRST_CALL.format(op=op, operands=OPERANDS[op])
        return in_new_process(source, empty_cache=cache == "cold", times=1 if cache == "cold" else 3)

    track_seconds.unit = "seconds"
