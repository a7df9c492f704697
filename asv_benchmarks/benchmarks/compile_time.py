"""What one more kernel costs to compile, when all that kernels share is there."""

from __future__ import annotations

from .common import in_new_process

COMPILE = """
import time
import numpy as np
import nbops
x = np.ones((16, 16), {dtype!r})
nbops.add(x, x, target="serial")
nbops.add(x, x, target="parallel")
start = time.perf_counter()
nbops.{op}(*[x] * nbops.{op}.n_inputs, target={target!r})
print(time.perf_counter() - start)
"""


class Compile:
    """Seconds; an elementwise op and a tuned product."""

    params = (["multiply", "matmul"], ["serial", "parallel"])
    param_names = ("op", "target")
    timeout = 300

    def track_seconds(self, op, target):
        source = COMPILE.format(op=op, target=target, dtype="float64")
        return in_new_process(source, empty_cache=True)

    track_seconds.unit = "seconds"
