"""vecdot, matvec and vecmat as launches of `vector_kernels` and, for long vectors, of `sum_kernels`.

A matrix is read along its rows or along its columns, whichever lie next to each other: a transposed matrix
times a vector is a vector times a matrix.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.loops import NARROW
from nbops.targets.cuda.toolchain import array_type, types
from nbops.tuned.cuda import sums, vector_kernels, warps
from nbops.tuned.cuda.helpers import add_helpers
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = ["matvec_plan", "vecdot_plan", "vecmat_plan"]

#: The words of `vector_kernels`' functions, by op. A matrix is read along rows, or along columns.
VECDOT = "items n x x_batch0 x_n y y_batch0 y_n out out_batch0 workspace"
MATVEC_ROWS = "items m n a a_batch0 a_m a_n x x_batch0 x_n out out_batch0 out_m workspace"
MATVEC_COLUMNS = "n m x x_batch0 x_n a a_batch0 a_n out out_batch0 out_m workspace"
VECMAT_ROWS = "items n m a a_batch0 a_n a_m x x_batch0 x_m out out_batch0 out_n workspace"
VECMAT_COLUMNS = "m n x x_batch0 x_m a a_batch0 a_m out out_batch0 out_n workspace"


def vecdot_plan(call: Call) -> Plan | None:
    """``Σ x[i] y[i]``."""
    if not _is_simple(call):
        return None
    contiguous = all(call[name] == call.dtypes[0].itemsize for name in ("x_n", "y_n"))
    aligned = contiguous and _aligned(call, "x", "x_batch0", "y", "y_batch0")
    totals = {"out": "out", "out_batch0": "out_batch0", "items": "items", "n": "n"}
    function = vector_kernels.vector_times_vector
    return _along_rows(call, function, VECDOT, call["n"], call["items"], aligned, totals)


def matvec_plan(call: Call) -> Plan | None:
    """``Σ a[i, j] x[j]``."""
    return _matrix_plan(call, ("m", "n"), ("a_m", "a_n"), "x_n", "out_m", (MATVEC_ROWS, MATVEC_COLUMNS))


def vecmat_plan(call: Call) -> Plan | None:
    """``Σ x[i] a[i, j]``: a transposed matrix times a vector."""
    return _matrix_plan(call, ("n", "m"), ("a_n", "a_m"), "x_m", "out_n", (VECMAT_ROWS, VECMAT_COLUMNS))


def _matrix_plan(
    call: Call,
    sizes: tuple[str, str],
    strides: tuple[str, str],
    x_step: str,
    out_step: str,
    words: tuple[str, str],
) -> Plan | None:
    """Along rows or columns; `sizes` and `strides` are those of the axis that stays and of the summed one."""
    if not _is_simple(call):
        return None
    dtype, (stays, summed) = call.dtypes[0], (call[name] for name in sizes)
    if call[strides[0]] == dtype.itemsize != call[strides[1]] and stays > 1:
        aligned = _aligned(call, "a", "a_batch0", strides[1])
        return _along_columns(call, words[1], summed, stays, aligned, out_step)
    contiguous = call[strides[1]] == dtype.itemsize == call[x_step]
    aligned = contiguous and _aligned(call, "a", "a_batch0", strides[0], "x", "x_batch0")
    totals = {"out": "out", "out_batch0": out_step, "items": sizes[0], "n": sizes[1]}
    function = vector_kernels.matrix_times_vector
    return _along_rows(call, function, words[0], summed, stays * call["items"], aligned, totals)


def _is_simple(call: Call) -> bool:
    """Whether the dtype and the batch are ones that the kernels know."""
    dtype = call.dtypes[0]
    return (
        dtype in (np.float32, np.float64)
        and call.batch_rank <= 1
        and all(0 < call[name] < NARROW for name in call.kernel.signature.axis_names)
    )


def _aligned(call: Call, *names: str) -> bool:
    """Whether addresses and strides are multiples of 16 bytes; a single item's stride does not matter."""
    return not any(call[n] % VECTOR_BYTES for n in names if call.batch_rank or not n.endswith("_batch0"))


def _along_rows(
    call: Call, function: Any, words: str, n: int, rows: int, aligned: bool, totals: dict[str, str]
) -> Plan | None:
    """Each row by some threads; a long one in parts, unless there are batch items of several rows."""
    dtype = call.dtypes[0]
    cut = n > sums.LONG_ROW and (call["items"] == 1 or totals["items"] == "items")
    parts = -(-n // sums.ROW_PART) if cut else 1
    threads = 8 if n <= 32 else warps.WARP if n <= 1024 else sums.BLOCK
    block = max(threads, sums.SMALL_BLOCK)
    blocks = -(-rows * parts * threads // block)
    if blocks > sums.LARGEST_GRID:
        return None
    kernel = row_kernel(function, dtype, tuple(words.split()), threads, aligned, not cut)
    launches = [Launch(kernel, (blocks, 1, 1), (block, 1, 1))]
    if not cut:
        return Plan(launches)
    renamed = {**totals, "x": "workspace", "x_batch0": "workspace"}
    aligned = rows == 1 or parts * 8 % VECTOR_BYTES == 0
    launches.append(replace(sums.row_launch(dtype, sums.Stage.TOTALS, parts, rows, aligned), renamed=renamed))
    return Plan(launches, rows * parts * sums.total_dtype(dtype).itemsize)


def _along_columns(
    call: Call, words: str, rows: int, columns: int, aligned: bool, out_step: str
) -> Plan | None:
    """Blocks of columns; long ones in parts, where their totals can be added to where they belong."""
    dtype, items = call.dtypes[0], call["items"]
    cut = rows > sums.LONG_COLUMN and call[out_step] == dtype.itemsize
    parts = -(-rows // sums.COLUMN_PART) if cut else 1
    width = VECTOR_BYTES // dtype.itemsize if aligned else 1
    blocks = -(-columns // (warps.WARP * width)) * items * parts
    if blocks > sums.LARGEST_GRID:
        return None
    kernel = column_kernel(dtype, tuple(words.split()), aligned, not cut)
    launches = [Launch(kernel, (blocks, 1, 1), (sums.BLOCK, 1, 1))]
    if not cut:
        return Plan(launches)
    summed, stays, *_ = words.split()
    renamed = {"m": summed, "n": stays, "x": "workspace", "x_batch0": "workspace"}
    whole = columns * dtype.itemsize % VECTOR_BYTES == 0 and _aligned(call, "out", "out_batch0")
    launches.append(
        replace(sums.rows_launch(dtype, sums.Stage.TOTALS, columns, items, whole), renamed=renamed)
    )
    return Plan(launches, items * parts * columns * sums.total_dtype(dtype).itemsize)


# ---- kernels ------------------------------------------------------------------------------------------


@functools.cache
def row_kernel(
    function: Any, dtype: np.dtype[Any], words: tuple[str, ...], threads: int, aligned: bool, whole: bool
) -> CudaKernel:
    """The kernel by which `threads` threads multiply a row.

    Parameters
    ----------
    function : function
        Of `vector_kernels`.
    dtype : dtype
    words : tuple of str
        What the function is given.
    threads : int
    aligned : bool
        Whether rows and vectors can be read 16 bytes at a time.
    whole : bool
        Whether rows are not cut into parts.
    """
    block = max(threads, sums.SMALL_BLOCK)
    constants = _constants(dtype, aligned, whole)
    constants |= {
        "THREADS": threads,
        "BLOCK": block,
        "SCRATCH": max(threads // warps.WARP, 1),
        "PART": NARROW if whole else sums.ROW_PART,
    }
    own = vector_kernels.read, vector_kernels.dot, vector_kernels.put_total
    add_helpers(constants, sums.ROW_HELPERS + own)
    name = f"{function.__name__}_{dtype.name}_{_letters(aligned, whole)}_{threads}"
    return CudaKernel(function, words, name=name, max_threads=block, **constants)


@functools.cache
def column_kernel(dtype: np.dtype[Any], words: tuple[str, ...], aligned: bool, whole: bool) -> CudaKernel:
    """The kernel that adds up a matrix's weighted rows.

    Parameters
    ----------
    dtype : dtype
    words : tuple of str
        What the function is given.
    aligned : bool
        Whether rows can be read 16 bytes at a time.
    whole : bool
        Whether columns are not cut into parts.
    """
    constants = _constants(dtype, aligned, whole)
    width = constants["WIDTH"]
    constants |= {
        "WARPS": sums.BLOCK // warps.WARP,
        "WARP_COLUMNS": warps.WARP * width,
        "SCRATCH": sums.BLOCK * width,
        "PART": NARROW if whole else sums.COLUMN_PART,
    }
    add_helpers(constants, (*sums.COLUMN_HELPERS, vector_kernels.put_total))
    name = f"vector_times_matrix_{dtype.name}_{_letters(aligned, whole)}"
    return CudaKernel(
        vector_kernels.vector_times_matrix, words, name=name, max_threads=sums.BLOCK, **constants
    )


def _letters(aligned: bool, whole: bool) -> str:
    return f"{'vectors' if aligned else 'elements'}_{'whole' if whole else 'parts'}"


def _constants(dtype: np.dtype[Any], aligned: bool, whole: bool) -> dict[str, Any]:
    total = sums.total_dtype(dtype)
    width = VECTOR_BYTES // dtype.itemsize if aligned else 1
    return {
        "ELEMENT": array_type(dtype, 1, "C", False).dtype,
        "TOTAL": array_type(total, 1, "C", False).dtype,
        "ITEMSIZE": dtype.itemsize,
        "TOTAL_SIZE": total.itemsize,
        "VECTOR": width,
        "WIDTH": width,
        "ALIGNED": aligned,
        "WHOLE": whole,
        "index": types.uint32,
        "word": types.int64,
    }
