"""Ops along rows: softmax, cross-entropy with its gradient, and sums over each axis."""

from __future__ import annotations

import numpy as np

from .common import IMPLEMENTATIONS, Compared, array, public


class Softmax(Compared):
    """softmax along the last axis."""

    kind = "softmax"
    params = ([(128, 10), (1024, 1024)], IMPLEMENTATIONS)
    param_names = ("shape", "implementation")

    def setup(self, shape, implementation):
        self.prepare(implementation, shape=shape, axis=-1, dtype="float32")

    def time_softmax(self, shape, implementation):
        self.case.run()


class SoftmaxError(Compared):
    """Its error against float64."""

    kind = "softmax"
    params = ["nbops", "numpy"]
    param_names = ("implementation",)

    def setup(self, implementation):
        self.prepare(implementation, shape=(1024, 1024), axis=-1, dtype="float32")

    def track_error(self, implementation):
        return self.error()


class Crossentropy(Compared):
    """The mean loss and its gradient by the logits."""

    kind = "crossentropy"
    params = IMPLEMENTATIONS
    param_names = ("implementation",)

    def setup(self, implementation):
        self.prepare(implementation, shape=(1024, 1000), dtype="float32")

    def time_loss_and_gradient(self, implementation):
        self.case.run()


class Sum:
    """The sum over an axis, or all."""

    params = (["all", "first", "last"], ["nbops", "numpy"])
    param_names = ("axis", "implementation")

    def setup(self, axis, implementation):
        x, own = array(1000, 1000), {"all": None, "first": 0, "last": 1}[axis]
        total = np.sum if implementation == "numpy" else public("sum")
        self.run = lambda: total(x, axis=own)
        self.run()

    def time_sum(self, axis, implementation):
        self.run()
