"""Elementwise ops: one pass over memory against NumPy's two."""

from __future__ import annotations

import numpy as np

import nbops

from .common import IMPLEMENTATIONS, array, implementation


class AddRelu:
    """relu(x + y) into a preallocated array."""

    params = ([(20, 100), (1000, 1000)], ["float32", "float64"], IMPLEMENTATIONS)
    param_names = ("shape", "dtype", "implementation")

    def setup(self, shape, dtype, name):
        self.x, self.y = array(*shape, dtype=dtype), array(*shape, dtype=dtype, seed=1)
        self.out = np.empty_like(self.x)
        self.run = implementation(
            name, nbops.add_relu, lambda x, y, out: np.maximum(np.add(x, y, out=out), 0, out=out)
        )
        self.run(self.x, self.y, out=self.out)

    def time_add_relu(self, shape, dtype, name):
        self.run(self.x, self.y, out=self.out)
