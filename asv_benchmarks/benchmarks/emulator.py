"""The emulated GPU: how long it takes to execute a kernel's PTX. Without it, no point is drawn."""

from __future__ import annotations

import nbops

from .common import array, module, public

SHAPES = {"relu": [(64, 64)], "matmul": [(32, 32), (32, 32)], "softmax": [(16, 64)]}


class Emulated:
    """A small call, compiled before."""

    params = list(SHAPES)
    param_names = ("op",)
    timeout = 300

    def setup(self, name):
        module("nbops.targets.emulator")
        self.op, self.operands = public(name), [array(*shape) for shape in SHAPES[name]]
        try:
            self.time_call(name)
        except (ImportError, RuntimeError, ValueError) as error:  # no numba-cuda, or no such target
            raise NotImplementedError(str(error)) from None

    def time_call(self, name):
        with nbops.use("cuda-emulator"):
            self.op(*self.operands)
