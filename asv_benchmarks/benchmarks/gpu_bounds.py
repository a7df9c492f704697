"""How fast a GPU's kernels can be at most, read from their machine code: a history that needs no GPU.

See `nbops.targets.bounds`. Without numba-cuda's compiler, no point is drawn.
"""

from __future__ import annotations

from .common import module

HOPPER = 9, 0  # always this one, whatever GPU is there: points of one line must mean the same


class Bound:
    """The kernel of a call on float32, compiled for compute capability 9.0."""

    params = ["add", "softmax of 512", "sum of rows of 4096", "matmul NN"]
    param_names = ("call",)
    timeout = 300

    def setup(self, call):
        toolchain = module("nbops.targets.cuda.toolchain")
        if toolchain.failure() is not None:
            raise NotImplementedError(f"numba-cuda can't compile here: {toolchain.failure()}")
        bounds, catalog = module("nbops.targets.bounds"), module("nbops.tuned.cuda.catalog")
        if call not in catalog.CATALOG:
            raise NotImplementedError(f"this commit has no tuned kernel for {call}")
        launch = catalog.launches(catalog.CATALOG[call], "float32", HOPPER)[0]
        self.found = bounds.bound_of(call, launch, HOPPER)

    def track_bound(self, call):
        return self.found.bound

    track_bound.unit = "of the peak"

    def track_registers(self, call):
        return self.found.registers

    track_registers.unit = "registers a thread"
