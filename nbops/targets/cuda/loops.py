"""An op's own loop as a CUDA kernel, from the same source as everywhere.

The loop's copy gets other meanings for two names, according to its structure
(`nbops.targets.cuda.structure`):

================  =========================  =============================  =======================
the loop          `prange`                   `lanes`                        batch items
================  =========================  =============================  =======================
elementwise       -                          one element a thread           threads of the grid
both shared       blocks                     threads of the block           a second grid axis
lanes only        `range`                    threads of the block           blocks
prange only       threads of the grid        `range`                        a second grid axis
neither           `range`                    `range`                        threads of the grid
================  =========================  =============================  =======================

All are strided by the grid, so any grid computes the right result. A shared lanes loop begins with a barrier.

Items and elements are counted in unsigned 32-bit numbers where there are fewer than 2³¹: a GPU divides in
32 bits, and makes a 64-bit division from dozens of instructions. What NumPy calls ``np.exp(x)`` is the
device library's function.
"""

from __future__ import annotations

import dis
import functools
import math
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from llvmlite import ir

from nbops import compiler
from nbops import kernel as written
from nbops.frame import CONTIGUOUS, GENERAL
from nbops.kernel import Dtypes, Kernel
from nbops.signature import Signature
from nbops.targets.cuda.kernels import Call, CudaKernel, Dim3, Launch, Plan
from nbops.targets.cuda.structure import Structure, structure_of
from nbops.targets.cuda.toolchain import (
    array_type,
    cuda,
    device_function,
    intrinsic,
    overload,
    populate_array,
    types,
)
from nbops.targets.cuda.words import all_names, places
from nbops.tuned.twins import Twin

__all__ = [
    "NARROW",
    "SERIAL",
    "THREADS",
    "index",
    "loop",
    "most_blocks",
    "on_device",
    "operands",
    "operands_intrinsic",
    "plan",
]

THREADS = 128
#: Blocks per multiprocessor of a strided grid: enough to hide the latency of memory.
WAVES = 16
NARROW = 2**31


def plan(kernel: Kernel, call: Call, operands: tuple[str, ...]) -> Plan:
    """One launch of the loop's own kernel.

    Parameters
    ----------
    kernel : Kernel
    call : Call
    operands : tuple of str
        The operands' names.
    """
    narrow = call["items"] < NARROW and _steps(kernel.signature, call) < NARROW
    compiled = _compiled(kernel, operands, call.dtypes, call.layout, call.batch_rank, narrow)
    return Plan([_launch(compiled, kernel, call)])


def _steps(signature: Signature, call: Call) -> int:
    return math.prod(call[axis] for axis in signature.axis_names) if signature.axis_names else 0


def _launch(compiled: CudaKernel, kernel: Kernel, call: Call) -> Launch:
    structure = _structure(kernel)
    limit = most_blocks(call)
    items = call["items"]
    # What prange runs over is not known without running the loop; the largest axis is as much as it can be
    # in all but odd loops, and the grid's stride makes every grid right.
    iterations = max((call[axis] for axis in kernel.signature.axis_names), default=1)
    threads: Dim3 = (THREADS, 1, 1)
    if kernel.signature.is_elementwise:
        grid = (min(-(-items // THREADS), limit), 1, 1)
    elif structure.prange_shared:
        per_block = 1 if structure.lanes_shared else THREADS
        blocks = min(-(-iterations // per_block), limit)
        grid = (max(blocks, 1), min(items, max(limit // max(blocks, 1), 1)), 1)
    elif structure.lanes_shared:
        grid = (min(items, limit), 1, 1)
    else:
        threads = (32, 1, 1)  # few items are the rule, and more blocks reach more multiprocessors
        grid = (min(-(-items // 32), limit), 1, 1)
    return Launch(compiled, grid, threads)


def most_blocks(call: Call) -> int:
    """The size of a strided grid."""
    return max(call.multiprocessors, 1) * WAVES


@functools.cache
def _structure(kernel: Kernel) -> Structure:
    return structure_of(kernel.loop, len(kernel.signature.inputs))


@functools.cache
def _compiled(
    kernel: Kernel, operands: tuple[str, ...], dtypes: Dtypes, layout: int, batch_rank: int, narrow: bool
) -> CudaKernel:
    signature = kernel.signature
    structure = _structure(kernel)
    template: Callable[..., None]
    if signature.is_elementwise:
        template = run_elements
        ranges = {"prange": range, "lanes": range}
    elif structure.prange_shared:
        template = run_items_of_grid_row
        ranges = (
            {"prange": device_function(blocks_of_grid), "lanes": device_function(threads_of_block)}
            if structure.lanes_shared
            else {"prange": device_function(threads_of_grid), "lanes": range}
        )
    elif structure.lanes_shared:
        template = run_items_of_block
        ranges = {"prange": range, "lanes": device_function(threads_of_block)}
    else:
        template = run_items_of_thread
        ranges = {"prange": range, "lanes": range}
    names = all_names(signature, operands, batch_rank)
    return CudaKernel(
        template,
        parameters=names,
        name=f"{kernel.name}_{'_'.join(d.name for d in dtypes)}",
        formula=kernel.formula,
        loop=device_function(on_device(kernel.loop, ranges)),
        operands=operands_intrinsic(signature, operands, dtypes, layout, batch_rank, narrow),
        index=types.uint32 if narrow else types.int64,
        ITEMS=names.index("items"),
        COLUMNS=names.index("columns") if signature.is_elementwise else 0,
        ROWS=batch_rank > 0,
    )


# ---- what the names mean on a GPU ---------------------------------------------------------------------


def blocks_of_grid(start: int, stop: Any = None, step: int = 1) -> range:
    """`range`, shared out between the blocks along the grid's first axis."""
    if stop is None:
        return range(cuda.blockIdx.x, start, cuda.gridDim.x)
    return range(start + step * cuda.blockIdx.x, stop, step * cuda.gridDim.x)


def threads_of_grid(start: int, stop: Any = None, step: int = 1) -> range:
    """`range`, shared out between the threads along the grid's first axis."""
    if stop is None:
        return range(cuda.grid(1), start, cuda.blockDim.x * cuda.gridDim.x)
    return range(start + step * cuda.grid(1), stop, step * cuda.blockDim.x * cuda.gridDim.x)


def threads_of_block(start: int, stop: Any = None, step: int = 1) -> range:
    """`range`, shared out between a block's threads, once all of them are here."""
    cuda.syncthreads()
    if stop is None:
        return range(cuda.threadIdx.x, start, cuda.blockDim.x)
    return range(start + step * cuda.threadIdx.x, stop, step * cuda.blockDim.x)


#: NumPy's functions of one number whose names the math module does not have.
_RENAMED = {
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "absolute": "fabs",
}
#: Functions whose result in the math module has another type than in NumPy.
_DIFFERENT = {"ceil", "floor", "trunc", "gcd", "lcm", "ldexp", "modf", "frexp", "copysign", "hypot"}


@functools.cache
def _numpy_on_device() -> ModuleType:
    """NumPy with the device library's functions of one number in place of its ufuncs."""
    stand_in = ModuleType("numpy")
    vars(stand_in).update(vars(np))
    for name, value in vars(np).items():
        device_name = _RENAMED.get(name, name)
        if isinstance(value, np.ufunc) and value.nin == 1 and name not in _DIFFERENT:
            setattr(stand_in, name, getattr(math, device_name, value))
    return stand_in


def on_device(function: Callable[..., Any], ranges: dict[str, Any]) -> Callable[..., Any]:
    """A copy of a loop, or of a helper, in which every name means what it does on a GPU."""
    source = getattr(function, "py_func", function)
    assert isinstance(source, FunctionType)
    names = {}
    for name in _globals_read_by(source):
        value = source.__globals__.get(name)
        replaced = _replacement(value, source, ranges)
        if replaced is not value:
            names[name] = replaced
    copy = compiler.specialise(source, "gpu", **names)
    copy.__name__ = source.__name__
    return copy


def _globals_read_by(function: FunctionType) -> set[str]:
    """Names that are global, and not attributes: the ``np`` of ``np.exp``."""
    return {str(i.argval) for i in dis.get_instructions(function) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


def _replacement(value: Any, caller: FunctionType, ranges: dict[str, Any]) -> Any:
    if value is written.prange:
        return ranges["prange"]
    if value is written.lanes:
        return ranges["lanes"]
    if value is np:
        return _numpy_on_device()
    if isinstance(value, ModuleType) and value.__name__ == "nbops":
        stand_in = ModuleType("nbops")
        vars(stand_in).update(ranges)
        return stand_in
    if isinstance(value, Twin):
        return _twin_on_device(value)
    if isinstance(getattr(value, "py_func", value), FunctionType) and value is not caller:
        return device_function(on_device(value, SERIAL))
    return value


SERIAL = {"prange": range, "lanes": range}


@functools.cache
def _twin_on_device(twin: Twin) -> Any:
    sources = {key: device_function(on_device(f, SERIAL)) for key, f in twin.portable.items()}
    if list(sources) == [None]:
        return sources[None]
    return _by_type(twin, sources)


def _by_type(twin: Twin, sources: dict[Any, Any]) -> Any:
    """A function that calls one of several, by its first argument's type."""

    def stand_in(*arguments: Any) -> Any:
        raise NotImplementedError

    def choose(x: Any) -> Any:
        chosen = sources.get(x, sources[None])
        return lambda x: chosen(x)

    overload(stand_in, strict=False)(choose)
    stand_in.cache_key = twin.cache_key  # type: ignore[attr-defined]
    return stand_in


# ---- the kernels around a loop ------------------------------------------------------------------------


def loop(*operands: Any) -> None:
    """Stands in for the op's loop."""
    raise NotImplementedError


def operands(words: Any, item: int, first: int) -> Any:
    """Stands in for the intrinsic that makes a batch item's arrays."""
    raise NotImplementedError


def index(number: int) -> int:
    """Stands in for the type of an index."""
    raise NotImplementedError


ITEMS, COLUMNS, ROWS = 0, 0, False


def run_elements(words: Any) -> None:
    """Each thread takes every so many-th element."""
    columns = index(words[COLUMNS])
    items = index(words[ITEMS])
    stride = index(cuda.blockDim.x * cuda.gridDim.x)
    item = index(cuda.grid(1))
    while item < items:
        if ROWS:
            row = index(item // columns)
            loop(*operands(words, row, index(item - row * columns)))
        else:
            loop(*operands(words, index(0), item))
        item = index(item + stride)


def run_items_of_grid_row(words: Any) -> None:
    """The grid's first axis is the loop's prange; its second takes the items."""
    items = index(words[ITEMS])
    item = index(cuda.blockIdx.y)
    while item < items:
        loop(*operands(words, item, index(0)))
        item = index(item + index(cuda.gridDim.y))


def run_items_of_block(words: Any) -> None:
    """Each block takes every so many-th item."""
    items = index(words[ITEMS])
    item = index(cuda.blockIdx.x)
    while item < items:
        loop(*operands(words, item, index(0)))
        item = index(item + index(cuda.gridDim.x))


def run_items_of_thread(words: Any) -> None:
    """Each thread takes every so many-th item."""
    items = index(words[ITEMS])
    stride = index(cuda.blockDim.x * cuda.gridDim.x)
    item = index(cuda.grid(1))
    while item < items:
        loop(*operands(words, item, index(0)))
        item = index(item + stride)


# ---- a batch item's arrays ----------------------------------------------------------------------------


def operands_intrinsic(
    signature: Signature,
    operand_names: tuple[str, ...],
    dtypes: Dtypes,
    layout: int,
    batch_rank: int,
    narrow: bool,
) -> Any:
    """An intrinsic ``operands(words, item, first)`` that returns an item's arrays as a tuple.

    An elementwise op's arrays have one element, number `first` of row `item`.
    """
    elementwise = signature.is_elementwise
    order = "A" if layout == GENERAL else "C"
    own_axes = [own or (("columns",) if elementwise else ()) for own in signature.operands]
    array_types = [
        array_type(dtype, len(own), order, readonly=number < len(signature.inputs))
        for number, (own, dtype) in enumerate(zip(own_axes, dtypes, strict=True))
    ]
    result = types.BaseTuple.from_types(tuple(array_types))
    names = all_names(signature, operand_names, batch_rank)
    by_place = {place: name for name, place in places(signature, operand_names, batch_rank).items()}
    position = {name: number for number, name in enumerate(names)}
    word = ir.IntType(64)
    counter = ir.IntType(32) if narrow else word

    @intrinsic
    def operands(typingctx: Any, words: Any, item: Any, first: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            def get(name: str) -> Any:
                return builder.extract_value(arguments[0], position[name])

            def widened(value: Any) -> Any:
                return builder.zext(value, word) if narrow else value

            def narrowed(value: Any) -> Any:
                return builder.trunc(value, counter) if narrow else value

            row, column = arguments[1], widened(arguments[2])
            coordinates = []  # of the item along each batch axis
            for axis in range(batch_rank):
                if axis == batch_rank - 1:
                    coordinates.append(widened(row))
                else:
                    size = narrowed(get(f"batch{axis}"))
                    coordinates.append(widened(builder.urem(row, size)))
                    row = builder.udiv(row, size)
            made = []
            for own, operand, array in zip(own_axes, operand_names, array_types, strict=True):
                itemsize = word(array.dtype.bitwidth // 8)
                address = get(operand)
                for axis, coordinate in enumerate(coordinates):
                    step = builder.mul(coordinate, get(f"{operand}_batch{axis}"))
                    address = builder.add(address, step)
                shape = [word(1)] if elementwise else [get(axis) for axis in own]
                if elementwise:
                    # a contiguous or repeated column has a stride that LLVM should see
                    number = operand_names.index(operand)
                    known = itemsize if not layout >> number & 1 else word(0)
                    stride = known if layout != GENERAL else get(f"{operand}_columns")
                    address = builder.add(address, builder.mul(column, stride))
                    strides = [itemsize]
                elif layout == CONTIGUOUS:
                    strides = [itemsize] * len(shape)
                    for axis in range(len(shape) - 2, -1, -1):
                        strides[axis] = builder.mul(strides[axis + 1], shape[axis + 1])
                else:
                    row_number = 1 + operand_names.index(operand)
                    strides = [get(by_place[_core_stride(row_number, axis)]) for axis in range(len(shape))]
                view = context.make_array(array)(context, builder)
                data = builder.inttoptr(address, context.get_value_type(array.dtype).as_pointer())
                populate_array(view, data, shape, strides, itemsize, meminfo=None)
                made.append(view._getvalue())
            return context.make_tuple(builder, result, made)

        return result(words, item, first), codegen

    operands.cache_key = f"cuda operands {signature} {dtypes} {layout} {batch_rank} {narrow} {operand_names}"
    return operands


def _core_stride(row: int, axis: int) -> int:
    from nbops.frame import CORE, WIDTH

    return row * WIDTH + CORE + axis
