"""Matrix products on the CPU, behind nbops's task signature.

The work is done by one task per dtype, `nbops.tuned.gemm_kernel.multiply`, which knows neither batches
nor frames. What this file compiles is thin: for each kind of product a task, which writes an argument block
for every batch item and calls that task by its name::

    product, row   ---+                                             +--> multiply(block, 0, pieces)
    dense, gemm    ---+-- frame --> argument block of one item --->-+       on this core, all pieces
    sums, …        ---+                                             +--> launch --> multiply(block, p, p + 1)
                                                                            on any core, piece p

Numba optimises a callee again inside each caller. A call by name keeps the micro-kernel and the
parallel loop (the two that take long to compile) compiled once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from nbops import compiler
from nbops.targets import cpu
from nbops.targets.tasks import TASK
from nbops.tuned import gemm_tasks, scratch
from nbops.tuned.gemm_kernel import multiply
from nbops.tuned.vectors import host_tile
from nbops.turns import TakenError, without_waiting

__all__ = [
    "Tasks",
    "dense_tasks",
    "gemm_tasks_of",
    "product_tasks",
    "row_tasks",
    "sums_tasks",
    "weight_gradient_tasks",
]


class Tasks(NamedTuple):
    """Addresses of compiled tasks, ``void task(int64 *frame, int64 start, int64 stop)``.

    Parameters
    ----------
    serial : int
        Computes the batch items start to stop on the calling thread.
    parallel : int
        The same, with each item shared between as many cores as the frame's header says; a product's task is
        the same one. Only `nbops.targets.cpu` may call it.
    owners : tuple
        Keeps the code alive.
    """

    serial: int
    parallel: int
    owners: tuple[Any, ...]


def product_tasks(dtype: Any) -> Tasks:
    """Tasks for ``out = a @ b``, signature ``"(m,k),(k,n)->(m,n)"``.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.

    Notes
    -----
    Compiles on the first call for a dtype, or loads from the disk cache. An element's bits depend on its row
    of `a` and its column of `b` alone, not on the other rows or columns, the strides or how many threads.
    """
    return _tasks(np.dtype(dtype), "product", gemm_tasks.run_products)


def row_tasks(dtype: Any) -> Tasks:
    """Tasks for ``out = x @ a``, signature ``"(m),(m,n)->(n)"``, with the bits of a row of `product_tasks`.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    """
    return _tasks(np.dtype(dtype), "row", gemm_tasks.run_row)


def sums_tasks(dtype: Any) -> Tasks:
    """Tasks for ``out = x.sum(axis=0)``, signature ``"(m,n)->(n)"``.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    """
    return _tasks(np.dtype(dtype), "sums", gemm_tasks.run_sums)


def dense_tasks(dtype: Any, activation: str = "linear") -> Tasks:
    """Tasks for ``out = activation(x @ w + b)``, signature ``"(m,k),(k,n),(n)->(m,n)"``.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    activation : {"linear", "relu"}
        ``relu`` is ``0 if x < 0 else x`` and so keeps NaN.
    """
    if activation not in ("linear", "relu"):
        raise ValueError(f"activation {activation!r}: only 'linear' and 'relu' are fused into the product")
    return _tasks(
        np.dtype(dtype), f"dense_{activation}", gemm_tasks.run_dense, RELU=int(activation == "relu")
    )


def gemm_tasks_of(dtype: Any) -> Tasks:
    """Tasks for ``out = c + alpha a @ b``, signature ``"(m,k),(k,n),(m,n),()->(m,n)"``; out may be c.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    """
    return _tasks(np.dtype(dtype), "gemm", gemm_tasks.run_gemm)


def weight_gradient_tasks(dtype: Any) -> Tasks:
    """Tasks for ``x.T @ dz, dz.sum(axis=0)``, signature ``"(m,k),(m,n)->(k,n),(n)"``.

    Parameters
    ----------
    dtype : dtype
        float32 or float64, of all operands.
    """
    return _tasks(np.dtype(dtype), "weight_gradient", gemm_tasks.run_weight_gradients)


# Compiling them ---------------------------------------------------------------------------------------------

BATCH, LAUNCHER = "nbops_gemm_batch", "nbops_gemm_launch"


def _tasks(dtype: np.dtype, name: str, template: Callable[..., None], **names: Any) -> Tasks:
    with global_compiler_lock:  # a second thread must not compile the same
        return _compile_tasks(dtype, name, template, **names)


@functools.cache
def _compile_tasks(dtype: np.dtype, name: str, template: Callable[..., None], **names: Any) -> Tasks:
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: dtype is {dtype}; only float32 and float64 have a tuned product")

    def compile_callers() -> tuple[Any, ...]:
        return (_task(template, f"{name}_{dtype}", dtype, **names), *_batch())

    try:
        with without_waiting():
            kernel = _kernel(dtype)
    except TakenError:  # it takes long; meanwhile its callers can be compiled
        callers = compile_callers()
        kernel = _kernel(dtype)
    else:
        callers = compile_callers()
    address = callers[0].address
    return Tasks(address, address, (kernel, *callers))


def _task(template: Callable[..., None], name: str, dtype: np.dtype, **names: Any) -> Any:
    tile = host_tile()
    one, nr = np.ones(8 // dtype.itemsize, dtype).view(np.int64)[0], tile.nr(dtype.itemsize)
    names |= {
        "TILE": (tile.mr, nr, nr // tile.vectors, dtype.itemsize, int(one)),
        "kernel_address": compiler.task_address(_kernel_name(dtype)),
        "batch_address": compiler.task_address(BATCH),
    }
    submit = _helper(gemm_tasks.submit, name, **names)
    task = compiler.native(TASK, compiler.specialise(template, name, submit=submit, **names))
    return compiler.name_task(f"nbops_{name}", task)


def _helper(function: Callable[..., Any], name: str, **names: Any) -> Any:
    """A function to be compiled into its callers."""
    return compiler.part(compiler.specialise(function, name, **names))


@functools.cache
def _kernel(dtype: np.dtype) -> Any:
    """The compiled `multiply` for a dtype."""
    twin = compiler.specialise(multiply, dtype.name, ELEMENT=from_dtype(dtype))
    return compiler.name_task(_kernel_name(dtype), compiler.native(TASK, twin))


@functools.cache
def _batch() -> tuple[Any, ...]:
    """The compiled `run_batch`, and `launch`, which it calls."""
    twin = compiler.specialise(gemm_tasks.launch, "gemm", spread=cpu.spread_compiled())
    launcher = compiler.name_task(LAUNCHER, compiler.native(TASK, twin))
    borrow, give_back = scratch.lending()
    names = {
        "launcher_address": compiler.task_address(LAUNCHER),
        "borrow": borrow,
        "give_back": give_back,
    }
    batch = compiler.native(TASK, compiler.specialise(gemm_tasks.run_batch, "gemm", **names))
    return compiler.name_task(BATCH, batch), launcher


def _kernel_name(dtype: np.dtype) -> str:
    return f"nbops_multiply_{dtype}"
