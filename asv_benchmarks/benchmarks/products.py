"""Matrix products at the sizes of the MNIST model and at square ones."""

from __future__ import annotations

import numpy as np

import nbops

from .common import IMPLEMENTATIONS, array, implementation


class Matmul:
    """a @ b, allocating."""

    params = ([(128, 784, 512), (512, 512, 512)], ["float32", "float64"], IMPLEMENTATIONS)
    param_names = ("m, k, n", "dtype", "implementation")

    def setup(self, sizes, dtype, name):
        m, k, n = sizes
        self.a, self.b = array(m, k, dtype=dtype), array(k, n, dtype=dtype, seed=1)
        self.run = implementation(name, nbops.matmul, np.matmul)
        self.run(self.a, self.b)

    def time_matmul(self, sizes, dtype, name):
        self.run(self.a, self.b)

    def track_error(self, sizes, dtype, name):
        """The largest error against float64, relative to the largest element."""
        exact = self.a.astype(np.float64) @ self.b.astype(np.float64)
        return float(np.abs(self.run(self.a, self.b) - exact).max() / np.abs(exact).max())
