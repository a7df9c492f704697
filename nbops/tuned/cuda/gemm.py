"""A product of a call's operands as launches of `gemm_kernel` and, for sums in parts, `gemm_parts`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops.op import registry
from nbops.targets.cuda import loops
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.toolchain import array_type, device_function
from nbops.tuned.cuda import gemm_kernel, gemm_parts, tensor_cores
from nbops.tuned.cuda.helpers import helper
from nbops.tuned.cuda.tiles import TF32_TILES, TILES, Tile, choose
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = ["Names", "product_plan"]

LARGEST_GRID = 2**31 - 1
#: Elements along an axis: they are counted in 32 bits, and a tile may reach past the end.
LARGEST_AXIS = 2**31 - 2**10
PART_THREADS = 128


@dataclass(frozen=True)
class Names:
    """The words of an op's frame that a product reads, by what they are to it.

    Parameters
    ----------
    m, n, k : str
        Sizes: rows, columns, and the axis that is summed over.
    a, b, out : tuple of 3 str
        Address, stride along rows (columns, for b), and stride along k (columns, for out).
    bias : tuple of 2 str, optional
        Address and stride of what is added to every row.
    addend : tuple of 3 str, optional
        Address and strides of what the product, times the factor, is added to.
    factor : tuple of 1 str, optional
        Its address.
    """

    m: str
    n: str
    k: str
    a: tuple[str, str, str]
    b: tuple[str, str, str]
    out: tuple[str, str, str]
    bias: tuple[str, ...] = ()
    addend: tuple[str, ...] = ()
    factor: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """How an operand's slabs are read: `width` elements at once, along p or along its rows."""

    width: int
    along_depth: bool


def product_plan(call: Call, names: Names, activation: str = "linear") -> Plan | None:
    """What computes ``activation(a @ b + bias)``, or ``addend + factor a @ b``; None where the loop has to.

    Parameters
    ----------
    call : Call
    names : Names
    activation : str
        "linear", or the name of an elementwise op.
    """
    dtype = call.dtypes[0]
    m, n, k, items = (call[name] for name in (names.m, names.n, names.k, "items"))
    if dtype not in (np.float32, np.float64) or max(m, n, k, items * m * n) > LARGEST_AXIS:
        return None
    tf32 = call.tf32 and dtype == np.float32 and call.compute_capability >= tensor_cores.LEAST_CAPABILITY
    tiles = TF32_TILES if tf32 else TILES[dtype.itemsize]
    tile, parts = choose(tiles, dtype.itemsize, items, m, n, k, call.multiprocessors)
    blocks = math.ceil(m / tile.m) * math.ceil(n / tile.n) * items
    a, b = _reading(call, names.a, m, k), _reading(call, names.b, n, k)
    rank = call.batch_rank
    apart = parts > 1 or bool(names.addend)  # the sums go to the workspace, and another launch finishes them
    multiply = Launch(
        product_kernel(dtype, tile, names, a, b, rank, "part" if apart else activation),
        (blocks, parts, 1),
        (tile.threads, 1, 1),
    )
    if not apart:
        return Plan([multiply])
    width = VECTOR_BYTES // dtype.itemsize
    by_element = [operand for operand in (names.out, names.addend) if operand]
    if n % width or not all(_in_vectors(call, *operand) for operand in by_element):
        width = 1
    threads = items * m * n // width
    add = Launch(
        parts_kernel(dtype, parts, width, names, rank, activation),
        (math.ceil(threads / PART_THREADS), 1, 1),
        (PART_THREADS, 1, 1),
    )
    return Plan([multiply, add], workspace_bytes=parts * items * m * n * dtype.itemsize)


def _reading(call: Call, operand: tuple[str, str, str], rows: int, depth: int) -> Reading:
    address, row, step = operand
    itemsize = call.dtypes[0].itemsize
    width = VECTOR_BYTES // itemsize
    if call[step] == itemsize or depth == 1:
        wide = depth % width == 0 and _aligned(call, address, call[row])
        return Reading(width if wide else 1, True)
    if call[row] == itemsize and rows % width == 0 and _aligned(call, address, call[step]):
        return Reading(width, False)
    return Reading(1, abs(call[row]) > abs(call[step]))


def _aligned(call: Call, address: str, stride: int) -> bool:
    """Whether an operand's rows, in every batch item, start at multiples of 16 bytes."""
    strides = [stride] + [call[f"{address}_batch{axis}"] for axis in range(call.batch_rank)]
    return not any(value % VECTOR_BYTES for value in [call[address], *strides])


def _in_vectors(call: Call, address: str, row: str, column: str) -> bool:
    """Whether the rows of a matrix are made of aligned vectors."""
    return call[column] == call.dtypes[0].itemsize and _aligned(call, address, call[row])


def _words(names: Names, rank: int, *operands: tuple[str, ...]) -> tuple[list[str], dict[str, int]]:
    """The words that a kernel takes, and where in them it finds batch sizes and strides."""
    parameters = [names.m, names.n, names.k, "items", "workspace"]
    parameters += [word for operand in operands for word in operand]
    places = {"BATCH_RANK": rank, "BATCH": len(parameters)}
    parameters += [f"batch{axis}" for axis in range(rank)]
    for name, operand in zip(("A", "B", "OUT", "BIAS", "ADDEND", "FACTOR"), operands, strict=False):
        places[f"{name}_BATCH"] = len(parameters)
        parameters += [f"{operand[0]}_batch{axis}" for axis in range(rank)] if operand else []
    return parameters, places


def _finish(activation: str, has_bias: bool) -> Any:
    """What is done to each sum: the bias, and an elementwise op's formula."""
    activate = _formula(activation)
    function = gemm_kernel.add_and_activate if has_bias else gemm_kernel.activate_only
    return helper(function, {"activate": activate})


@functools.cache
def _formula(activation: str) -> Any:
    if activation in ("linear", "part"):
        return device_function(gemm_kernel.activate)
    formula = registry[activation].formula
    assert formula is not None
    return device_function(loops.on_device(formula, loops.SERIAL))


@functools.cache
def parts_kernel(
    dtype: np.dtype[Any], parts: int, width: int, names: Names, rank: int, activation: str
) -> CudaKernel:
    """The kernel that adds the parts of each sum."""
    parameters, places = _words(names, rank, (), (), names.out, names.bias, names.addend, names.factor)
    constants: dict[str, Any] = {
        **places,
        "ELEMENT": array_type(dtype, 1, "C", False).dtype,
        "ITEMSIZE": dtype.itemsize,
        "PARTS": parts,
        "WIDTH": width,
        "HAS_BIAS": bool(names.bias),
        "HAS_ADDEND": bool(names.addend),
        "finish": _finish(activation, bool(names.bias)),
    }
    constants["item_offset"] = helper(gemm_kernel.item_offset, constants)
    name = f"add_{parts}_parts_{dtype.name}_{'scaled' if names.addend else activation}"
    return CudaKernel(gemm_parts.add_parts, parameters, name=name, max_threads=PART_THREADS, **constants)


@functools.cache
def product_kernel(
    dtype: np.dtype[Any],
    tile: Tile,
    names: Names,
    left: Reading,
    right: Reading,
    rank: int,
    activation: str = "linear",
) -> CudaKernel:
    """The kernel for one way to cut and read a product, and to finish its sums.

    Parameters
    ----------
    dtype : dtype
    tile : Tile
    names : Names
    left, right : Reading
    rank : int
        Batch axes.
    activation : str
        "linear", the name of an elementwise op, or "part" for one of several parts of the sums.
    """
    vector = VECTOR_BYTES // dtype.itemsize
    split = activation == "part"
    tf32 = tile in TF32_TILES
    # So many banks apart are rows of shared memory that neighbouring threads read in one wavefront.
    padding = tensor_cores.PADDING if tf32 else vector
    has_bias = bool(names.bias) and not split
    bias = names.bias if has_bias else ()
    parameters, places = _words(names, rank, names.a, names.b, names.out, bias)
    constants: dict[str, Any] = {
        **places,
        "ELEMENT": array_type(dtype, 1, "C", False).dtype,
        "ITEMSIZE": dtype.itemsize,
        "VECTOR": vector,
        "DEPTH": tile.depth,
        "THREADS": tile.threads,
        "TILE_M": tile.m,
        "TILE_N": tile.n,
        "THREAD_M": tile.thread_m,
        "THREAD_N": tile.thread_n,
        "SUMS": tile.thread_m * tile.thread_n,
        "LANES_M": tile.lanes_m,
        "LANES_N": tile.lanes_n,
        "WARPS_N": tile.warps_n,
        "GROUP_M": tile.group_m or vector,
        "GROUP_N": tile.group_n or vector,
        "PITCH_M": tile.m + padding,
        "PITCH_N": tile.n + padding,
        "LEFT_SIZE": 2 * tile.depth * (tile.m + padding),
        "RIGHT_SIZE": 2 * tile.depth * (tile.n + padding),
        "SPLIT": split,
        "HAS_BIAS": has_bias,
        "finish": _finish(activation, has_bias),
    }
    multiplier = tensor_cores if tf32 else gemm_kernel
    for name, module in (
        ("prepare", multiplier),
        ("add_step", multiplier),
        ("add_up", multiplier),
        ("item_offset", gemm_kernel),
        ("write_row", gemm_kernel),
    ):
        constants[name] = helper(getattr(module, name), constants)
    constants |= _operand(constants, "left", left, tile.m) | _operand(constants, "right", right, tile.n)
    kind = "tf32" if tf32 else dtype.name
    name = f"product_{kind}_{tile.m}x{tile.n}_{_letters(left)}{_letters(right)}_{activation}"
    return CudaKernel(
        gemm_kernel.multiply_tiles, parameters, name=name, max_threads=tile.threads, **constants
    )


def _operand(constants: dict[str, Any], side: str, reading: Reading, rows: int) -> dict[str, Any]:
    """What the kernel needs to read one operand."""
    chunks = rows * constants["DEPTH"] // (reading.width * constants["THREADS"])
    own = {
        **constants,
        "ROWS": rows,
        "PITCH": constants["PITCH_M" if side == "left" else "PITCH_N"],
        "WIDTH": reading.width,
        "ALONG_DEPTH": reading.along_depth,
        "CHUNKS": chunks,
    }
    own["places"] = helper(gemm_kernel.places, own)
    made = {f"{side.upper()}_CHUNKS": chunks, f"{side.upper()}_STAGED": chunks * reading.width}
    for name in ("start", "fetch", "stage"):
        made[f"{name}_{side}"] = helper(getattr(gemm_kernel, name), own)
    return made


def _letters(reading: Reading) -> str:
    return f"{'p' if reading.along_depth else 'r'}{reading.width}"
