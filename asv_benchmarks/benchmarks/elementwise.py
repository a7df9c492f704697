"""Elementwise ops: one pass over memory against two, on a small pair of arrays and on large ones."""

from __future__ import annotations

from .common import IMPLEMENTATIONS, Compared, array, public, ratio_to_best_peer


class AddRelu(Compared):
    """relu(x + y) into an array that exists."""

    kind = "add_relu"
    params = ([(20, 100), (1000, 1000)], ["float32", "float64"], IMPLEMENTATIONS)
    param_names = ("shape", "dtype", "implementation")

    def setup(self, shape, dtype, implementation):
        self.prepare(implementation, shape=shape, dtype=dtype, form="out")

    def time_add_relu(self, shape, dtype, implementation):
        self.case.run()


class AddReluError(Compared):
    """Its error against float64."""

    kind = "add_relu"
    params = (["float32", "float64"], ["serial", "nbops", "numpy"])
    param_names = ("dtype", "implementation")

    def setup(self, dtype, implementation):
        self.prepare(implementation, shape=(1000, 1000), dtype=dtype, form="out")

    def track_error(self, dtype, implementation):
        return self.error()


class Interpreted:
    """The loop as written, by the Python interpreter."""

    params = ["relu", "exp"]
    param_names = ("op",)

    def setup(self, name):
        self.op, self.x = public(name), array(20, 100)

    def time_interpreted(self, name):
        self.op(self.x, target="python")


class Memory:
    """The most memory that a fused call takes."""

    params = ["nbops", "numpy"]
    param_names = ("implementation",)

    def setup(self, implementation):
        import numpy as np

        self.x, self.y, add_relu = array(2000, 2000), array(2000, 2000, seed=1), public("add_relu")
        self.run = add_relu if implementation == "nbops" else lambda x, y: np.maximum(x + y, 0)

    def peakmem_add_relu(self, implementation):
        return self.run(self.x, self.y)


class BestPeer:
    """The best peer's time over nbops's: above 1, nbops is faster."""

    timeout = 300

    def track_ratio_small_pair(self):
        return ratio_to_best_peer("add+relu, out= 20x100 float64")

    track_ratio_small_pair.unit = "times"
