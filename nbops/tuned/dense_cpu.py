"""A dense layer whose activation the product's epilogue does not know: the product, then row by row.

``relu`` is applied while a tile of the product is still in registers (`nbops.tuned.gemm_cpu`). The other
activations need an exponential, or the whole row; here they run over each finished row, in place, in the same
task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nbops import compiler
from nbops.frame import GENERAL
from nbops.signature import Signature
from nbops.targets.tasks import TASK, call_task, operands_intrinsic
from nbops.tuned.gemm_cpu import Tasks, dense_tasks
from nbops.tuned.pointers import address_of

__all__ = ["activated_dense_tasks"]


def multiply_then_activate(frame: Any, start: int, stop: int) -> None:
    """The linear layer, then the activation of each row."""
    call_task(linear_address(), address_of(frame), start, stop)
    for item in range(start, stop):
        out = operands(frame, item, 0, 0)[3]
        for i in range(out.shape[0]):
            activate(out[i])


def linear_address() -> int:
    """Stands in for the address of the linear layer's task."""
    raise NotImplementedError


def operands(frame: Any, item: int, first: int, count: int) -> Any:
    """Stands in for the intrinsic that makes a batch item's arrays."""
    raise NotImplementedError


def activate(row: Any) -> None:
    """Stands in for the activation of a row."""
    raise NotImplementedError


@functools.cache
def activated_dense_tasks(dtype: np.dtype, signature: Signature, row: Callable[..., None]) -> Tasks:
    """Tasks for ``out = x @ w + b`` with `row` applied to each row of `out`.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    signature : Signature
        The dense op's.
    row : function
        Plain Python; changes a row in place.
    """
    activate = compiler.part(compiler.with_helpers(row))
    tasks = []
    for kind in "serial", "parallel":
        template = compiler.specialise(
            multiply_then_activate,
            f"{row.__name__}_{kind}_{dtype}",
            linear_address=compiler.task_address(f"nbops_dense_linear_{kind}_{dtype}"),
            operands=operands_intrinsic(signature, (dtype,) * 4, GENERAL),
            activate=activate,
        )
        tasks.append(compiler.native(TASK, template))
    serial, parallel = tasks
    return Tasks(serial.address, parallel.address, (dense_tasks(dtype), serial, parallel))
