"""Broadcasting without copies: a batch against one matrix, a row, a column, a number."""

from __future__ import annotations

import numpy as np

from .common import array, public

PAIRS = {
    "matrix": ((64, 3, 32, 10), (32, 10)),
    "row": ((1000, 1000), (1000,)),
    "column": ((1000, 1000), (1000, 1)),
    "number": ((1000, 1000), ()),
}


class Broadcast:
    """x + y."""

    params = (list(PAIRS), ["serial", "nbops", "numpy"])
    param_names = ("operand", "implementation")

    def setup(self, operand, implementation):
        add, (x, y) = public("add"), PAIRS[operand]
        self.x, self.y = array(*x), array(*y, seed=1)
        self.out = np.empty_like(self.x)
        target = "serial" if implementation == "serial" else None
        calls = {"numpy": lambda: np.add(self.x, self.y, out=self.out)}
        self.run = calls.get(implementation, lambda: add(self.x, self.y, out=self.out, target=target))
        self.run()

    def time_add(self, operand, implementation):
        self.run()


class Layouts:
    """x + y where x is not contiguous."""

    params = (["transposed", "every other"], ["nbops", "numpy"])
    param_names = ("layout", "implementation")

    def setup(self, layout, implementation):
        add, y = public("add"), array(1000, 1000, seed=1)
        x = array(1000, 1000).T if layout == "transposed" else array(1000, 2000)[:, ::2]
        out = np.empty_like(y)
        self.run = lambda: (np.add if implementation == "numpy" else add)(x, y, out=out)
        self.run()

    def time_add(self, layout, implementation):
        self.run()
