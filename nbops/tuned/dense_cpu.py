"""A dense layer whose activation the product's epilogue does not know: the product, then row by row.

``relu`` is applied while a tile of the product is still in registers (`nbops.tuned.gemm_cpu`). The other
activations need an exponential, or the whole row; here they run over each finished row, in place::

    multiply_then_activate ---+--> the linear layer's task
                              +--> activate_rows(words, 0, 1)                     on this core
                              +--> launch --> activate_rows(words, w, w + 1)      on all, worker w
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, types
from numba.np.numpy_support import from_dtype

from nbops import compiler
from nbops.frame import CORE, WIDTH, WORKERS, item_offset
from nbops.targets.tasks import TASK, call_task, frame_pointer
from nbops.tuned.gemm_cpu import LAUNCHER, Tasks, dense_tasks
from nbops.tuned.gemm_tasks import argument_block
from nbops.tuned.pointers import address_of, element_pointer, get, item_bytes, put

__all__ = ["activated_dense_tasks"]

FRAME, ITEM, ROWS = 0, 1, 2  # what a worker is told: worker w has ROWS rows of a batch item from w * ROWS
OUTPUT = 4  # the output's row in the frame


# ---- what is compiled; `activated_dense_tasks` puts something in the place of the functions that raise ----


def linear_address() -> int:
    """The address of the linear layer's task."""
    raise NotImplementedError


def rows_address() -> int:
    """The address of `activate_rows`."""
    raise NotImplementedError


def launcher_address() -> int:
    """The address of `gemm_tasks.launch`."""
    raise NotImplementedError


def activate(row: Any) -> None:
    """The activation of a row."""
    raise NotImplementedError


ELEMENT: Any = types.float64
DTYPE: Any = np.float64


def multiply_then_activate(frame: Any, start: int, stop: int) -> None:
    """The linear layer, then the activation of each row."""
    call_task(linear_address(), address_of(frame), start, stop)
    rows = frame[CORE]
    workers = max(1, min(rows, frame[WORKERS]))
    words = argument_block()
    words[FRAME], words[ROWS] = address_of(frame), (rows + workers - 1) // workers
    for item in range(start, stop):
        words[ITEM] = item
        if workers == 1:
            call_task(rows_address(), address_of(words), 0, 1)
        else:
            call_task(launcher_address(), address_of(words), rows_address(), workers)


def activate_rows(words: Any, start: int, stop: int) -> None:
    """The activation of the rows of workers `start` to `stop`.

    It gets contiguous rows, for which LLVM has vector instructions; others are copied, there and back.
    """
    frame = frame_pointer(words[FRAME])
    columns, step = frame[CORE + 2], frame[OUTPUT * WIDTH + CORE + 1]
    first = frame[OUTPUT * WIDTH] + item_offset(frame, OUTPUT, words[ITEM])
    contiguous = step == item_bytes(element_pointer(ELEMENT, first))
    spare = np.empty(0 if contiguous else columns, DTYPE)
    for i in range(start * words[ROWS], min(stop * words[ROWS], frame[CORE])):
        place = element_pointer(ELEMENT, first + i * frame[OUTPUT * WIDTH + CORE])
        row = carray(place, columns) if contiguous else spare
        if not contiguous:
            for j in range(columns):
                row[j] = get(place, j * step)
        activate(row)
        if not contiguous:
            for j in range(columns):
                put(place, j * step, row[j])


# ---- compiling it -----------------------------------------------------------------------------------


@functools.cache
def activated_dense_tasks(dtype: np.dtype, row: Callable[..., None]) -> Tasks:
    """Tasks for ``out = x @ w + b`` with `row` applied to each row of `out`.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    row : function
        Plain Python; changes a contiguous row in place.
    """
    name = f"{row.__name__}_{dtype}"
    element = {"ELEMENT": from_dtype(dtype), "DTYPE": dtype.type}
    activated = compiler.part(compiler.with_helpers(row), plain=False)
    rows = compiler.native(TASK, compiler.specialise(activate_rows, name, activate=activated, **element))
    compiler.name_task(f"nbops_activate_{name}", rows)
    template = compiler.specialise(
        multiply_then_activate,
        name,
        linear_address=compiler.task_address(f"nbops_dense_linear_{dtype}"),
        rows_address=compiler.task_address(f"nbops_activate_{name}"),
        launcher_address=compiler.task_address(LAUNCHER),
    )
    task = compiler.native(TASK, template)
    return Tasks(task.address, task.address, (dense_tasks(dtype), rows, task))
