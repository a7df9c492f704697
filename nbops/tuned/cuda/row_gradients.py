"""The gradients of softmax and log_softmax as launches of `nbops.tuned.cuda.row_gradient_kernels`."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nbops.targets.cuda.kernels import Call, CudaKernel, Plan
from nbops.tuned.cuda import row_gradient_kernels, row_kernels, row_layout, warps
from nbops.tuned.cuda.helpers import add_helpers, helper

__all__ = ["log_softmax_gradient_plan", "softmax_gradient_plan"]

#: What an op adds up, and what it writes.
FORMULAS = {
    "softmax_gradient": (row_gradient_kernels.product, row_gradient_kernels.scaled_difference),
    "log_softmax_gradient": (row_gradient_kernels.itself, row_gradient_kernels.minus_exponential),
}
ROWS = "y", "dy", "dx"
#: In the order in which they call each other.
HELPERS = (
    warps.sum_of_lanes,
    warps.of_every_warp,
    warps.all_sum,
    row_kernels.this_row,
    row_kernels.position,
    row_kernels.read_chunk,
    row_kernels.write_chunk,
    row_kernels.read_row,
)


def softmax_gradient_plan(call: Call) -> Plan | None:
    """``y (dy - Σ y dy)``."""
    return row_layout.plan(call, ROWS, functools.partial(gradient_kernel, "softmax_gradient"))


def log_softmax_gradient_plan(call: Call) -> Plan | None:
    """``dy - exp(y) Σ dy``."""
    return row_layout.plan(call, ROWS, functools.partial(gradient_kernel, "log_softmax_gradient"))


@functools.cache
def gradient_kernel(op: str, dtype: np.dtype[Any], threads: int, count: int, aligned: bool) -> CudaKernel:
    """The kernel of one of `FORMULAS` for one way to share a row; see `row_layout.plan`."""
    constants = row_layout.constants(dtype, threads, count, aligned)
    constants |= {
        name: helper(function, constants)
        for name, function in zip(("term", "finish"), FORMULAS[op], strict=True)
    }
    add_helpers(constants, HELPERS)
    function = row_gradient_kernels.rows_in_registers if count else row_gradient_kernels.streamed_rows
    return CudaKernel(
        function,
        ["items", "n", *(word for row in ROWS for word in (row, f"{row}_batch0"))],
        name=f"{op}_{dtype.name}_{row_layout.shape_name(constants)}",
        max_threads=constants["BLOCK"],
        **constants,
    )
