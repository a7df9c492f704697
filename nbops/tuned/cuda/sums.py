"""Sums as launches of `nbops.tuned.cuda.sum_kernels`: one, or two where a row or column is long."""

from __future__ import annotations

import enum
import functools
from typing import Any

import numpy as np

from nbops.frame import CONTIGUOUS
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.loops import NARROW
from nbops.targets.cuda.toolchain import array_type, types
from nbops.tuned.cuda import row_kernels, sum_kernels, warps
from nbops.tuned.cuda.helpers import add_helpers
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = [
    "COLUMN_HELPERS",
    "LONG_COLUMN",
    "LONG_ROW",
    "ROW_HELPERS",
    "Stage",
    "row_kernel",
    "row_launch",
    "row_plan",
    "rows_kernel",
    "rows_launch",
    "rows_plan",
    "total_dtype",
]

#: Lengths up to which one launch sums all, and the parts that longer ones are cut into.
LONG_ROW, ROW_PART = 32768, 16384
LONG_COLUMN, COLUMN_PART = 1024, 512
SMALL_BLOCK, BLOCK = 128, 256
LARGEST_GRID = 2**31 - 1


class Stage(enum.Enum):
    """What a launch sums: all of it, each part into the workspace, or the parts' totals."""

    WHOLE = enum.auto()
    PARTS = enum.auto()
    TOTALS = enum.auto()


def row_plan(call: Call) -> Plan | None:
    """``(n)->()``: the sum of each row."""
    if not _is_simple(call) or not 0 < call["n"] < NARROW:
        return None
    dtype, n, items = _signed(call.dtypes[0]), call["n"], call["items"]
    aligned = not (call["x"] % VECTOR_BYTES or (items > 1 and call["x_batch0"] % VECTOR_BYTES))
    if n <= LONG_ROW:
        return _checked([row_launch(dtype, Stage.WHOLE, n, items, aligned)])
    parts, size = -(-n // ROW_PART), total_dtype(dtype).itemsize
    totals_aligned = items == 1 or parts * size % VECTOR_BYTES == 0
    launches = [
        row_launch(dtype, Stage.PARTS, ROW_PART, items * parts, aligned),
        row_launch(dtype, Stage.TOTALS, parts, items, totals_aligned),
    ]
    return _checked(launches, items * parts * size)


def rows_plan(call: Call) -> Plan | None:
    """``(m,n)->(n)``: the sum of each matrix's rows."""
    if not _is_simple(call) or call["m"] < 1:
        return None
    dtype, m, n, items = _signed(call.dtypes[0]), call["m"], call["n"], call["items"]
    places = [call["x"], call["out"], n * dtype.itemsize]
    places += [call["x_batch0"], call["out_batch0"]] if items > 1 else []
    aligned = not any(place % VECTOR_BYTES for place in places)
    if m <= LONG_COLUMN:
        return _checked([rows_launch(dtype, Stage.WHOLE, n, items, aligned)])
    parts = -(-m // COLUMN_PART)
    launches = [
        rows_launch(dtype, Stage.PARTS, n, items * parts, aligned),
        rows_launch(dtype, Stage.TOTALS, n, items, aligned),
    ]
    return _checked(launches, items * parts * n * total_dtype(dtype).itemsize)


def total_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In which numbers are added up: 64 bits."""
    return np.dtype(np.float64 if dtype.kind == "f" else np.int64)


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A sum of unsigned numbers has the same bits, and shuffles know signed ones only."""
    return np.dtype(f"i{dtype.itemsize}") if dtype.kind == "u" else dtype


def _is_simple(call: Call) -> bool:
    """Whether rows lie contiguous, at one stride, of elements of 4 or 8 bytes."""
    dtype = call.dtypes[0]
    return (
        call.layout == CONTIGUOUS
        and call.batch_rank <= 1
        and dtype.kind in "iuf"
        and dtype.itemsize in (4, 8)
        and call.dtypes[-1] == dtype
    )


def _checked(launches: list[Launch], workspace_bytes: int = 0) -> Plan | None:
    """A plan, unless a grid is larger than a GPU's."""
    fits = all(launch.grid[0] <= LARGEST_GRID for launch in launches)
    return Plan(launches, workspace_bytes) if fits else None


def row_launch(dtype: np.dtype[Any], stage: Stage, n: int, rows: int, aligned: bool) -> Launch:
    """The launch that sums `rows` rows, or the totals of their `n` parts."""
    # depends on the length alone, and so does the order of the additions
    threads = 8 if n <= 32 else warps.WARP if n <= 1024 else BLOCK
    block = max(threads, SMALL_BLOCK)
    kernel = row_kernel(dtype, stage, threads, aligned)
    return Launch(kernel, (-(-rows * threads // block), 1, 1), (block, 1, 1))


def rows_launch(dtype: np.dtype[Any], stage: Stage, n: int, parts: int, aligned: bool) -> Launch:
    """The launch that sums the rows of `parts` parts, or items, of `n` columns."""
    columns = warps.WARP * (VECTOR_BYTES // dtype.itemsize if aligned else 1)
    return Launch(rows_kernel(dtype, stage, aligned), (-(-n // columns) * parts, 1, 1), (BLOCK, 1, 1))


# ---- kernels ------------------------------------------------------------------------------------------

#: What the kernels of rows, and those of columns, have in common with `vector_products`.
ROW_HELPERS = (
    warps.sum_of_lanes,
    warps.of_every_warp,
    warps.all_sum,
    row_kernels.this_row,
    row_kernels.position,
    sum_kernels.part_of_row,
    sum_kernels.read_up_to,
)
COLUMN_HELPERS = sum_kernels.part_of_columns, sum_kernels.part_of_rows, sum_kernels.read_up_to


@functools.cache
def row_kernel(dtype: np.dtype[Any], stage: Stage, threads: int, aligned: bool) -> CudaKernel:
    """The kernel by which `threads` threads sum a row.

    Parameters
    ----------
    dtype : dtype
    stage : Stage
    threads : int
    aligned : bool
        Whether every row begins at a multiple of 16 bytes.
    """
    block = max(threads, SMALL_BLOCK)
    constants = _constants(dtype, stage, aligned)
    constants |= {
        "WIDTH": constants["VECTOR"],
        "THREADS": threads,
        "BLOCK": block,
        "SCRATCH": max(threads // warps.WARP, 1),
        "PART": NARROW if stage is Stage.WHOLE else ROW_PART,
    }
    add_helpers(constants, (*ROW_HELPERS, sum_kernels.sum_part))
    parameters = ["items", "n", "x", "x_batch0", "out", "out_batch0", "workspace"]
    name = f"sum_row_{dtype.name}_{stage.name.lower()}_{threads}_{'vectors' if aligned else 'elements'}"
    return CudaKernel(sum_kernels.sum_row, parameters, name=name, max_threads=block, **constants)


@functools.cache
def rows_kernel(dtype: np.dtype[Any], stage: Stage, aligned: bool) -> CudaKernel:
    """The kernel that sums a matrix's rows.

    Parameters
    ----------
    dtype : dtype
    stage : Stage
    aligned : bool
        Whether every row, and the result, begins at a multiple of 16 bytes.
    """
    constants = _constants(dtype, stage, aligned)
    width = VECTOR_BYTES // dtype.itemsize if aligned else 1
    constants |= {
        "WIDTH": width,
        "WARPS": BLOCK // warps.WARP,
        "WARP_COLUMNS": warps.WARP * width,
        "SCRATCH": BLOCK * width,
        "PART": NARROW if stage is Stage.WHOLE else COLUMN_PART,
    }
    add_helpers(constants, COLUMN_HELPERS)
    parameters = ["m", "n", "x", "x_batch0", "out", "out_batch0", "workspace"]
    name = f"sum_rows_{dtype.name}_{stage.name.lower()}_{'vectors' if aligned else 'elements'}"
    return CudaKernel(sum_kernels.sum_rows, parameters, name=name, max_threads=BLOCK, **constants)


def _constants(dtype: np.dtype[Any], stage: Stage, aligned: bool) -> dict[str, Any]:
    total = total_dtype(dtype)
    element = total if stage is Stage.TOTALS else dtype
    result = total if stage is Stage.PARTS else dtype
    return {
        "ELEMENT": array_type(element, 1, "C", False).dtype,
        "TOTAL": array_type(total, 1, "C", False).dtype,
        "RESULT": array_type(result, 1, "C", False).dtype,
        "ITEMSIZE": element.itemsize,
        "TOTAL_SIZE": total.itemsize,
        "RESULT_SIZE": result.itemsize,
        "VECTOR": VECTOR_BYTES // element.itemsize,
        "RESULT_VECTOR": VECTOR_BYTES // result.itemsize,
        "ALIGNED": aligned,
        "FROM_OPERAND": stage is not Stage.TOTALS,
        "TO_RESULT": stage is not Stage.PARTS,
        "index": types.uint32,
        "word": types.int64,
    }
