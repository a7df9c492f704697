"""What a call costs beside its loop: one like the last, one unlike it, and the questions one may ask."""

from __future__ import annotations

import numpy as np

import nbops

from .common import array, public


class Call:
    """relu of ten numbers."""

    params = ["relu", "add", "matmul"]
    param_names = ("op",)

    def setup(self, name):
        self.op = public(name)
        shapes = {"relu": [(10,)], "add": [(10,), (10,)], "matmul": [(3, 3), (3, 3)]}[name]
        self.operands = [array(*shape) for shape in shapes]
        self.others = [array(*(n + 1 for n in shape)) for shape in shapes]
        self.out = self.op(*self.operands)
        self.op(*self.others)

    def time_like_the_last(self, name):
        self.op(*self.operands, out=self.out)

    def time_unlike_the_last(self, name):
        self.op(*self.operands)
        self.op(*self.others)

    def time_with_a_target(self, name):
        self.op(*self.operands, target="serial")


class Number:
    """An array and a Python number."""

    def setup(self):
        self.add, self.x = public("add"), array(10)
        self.add(self.x, 2.0)

    def time_add(self):
        self.add(self.x, 2.0)


class Baseline:
    """NumPy's call, to compare with."""

    def setup(self):
        self.x = array(10)
        self.out = np.empty_like(self.x)

    def time_numpy_maximum(self):
        np.maximum(self.x, 0, out=self.out)


class Questions:
    """explain, and entering `use`."""

    def setup(self):
        self.x, self.relu, self.explain = array(10), public("relu"), public("explain")

    def time_explain(self):
        self.explain(self.relu, self.x)

    def time_use(self):
        with nbops.use("serial"):
            pass
