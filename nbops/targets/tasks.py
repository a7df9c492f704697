"""Tasks: compiled loops behind one C signature, ``void task(int64 *frame, int64 start, int64 stop)``.

A task runs a loop over the batch items ``start`` to ``stop`` of a frame (see `nbops.frame`). Its address
can be called by the launcher below, by a TensorFlow kernel, by anything: no caller is compiled again when a
loop is, and no loop when a caller is. That keeps compile time proportional to the number of loops.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import from_dtype

from nbops import compiler
from nbops.frame import BACKWARDS, CORE, GENERAL, ITEMS, ITEMSIZE, ROW_WIDTH, ROWS, WIDTH, item_offset
from nbops.signature import Signature
from nbops.targets.repeated import Repeated
from nbops.tuned.streaming import CACHE_BYTES, LINE, STRETCH, copy_lines, fence, new_buffer

__all__ = ["TASK", "call_task", "compile_task", "frame_pointer", "operands_intrinsic"]

FRAME = types.CPointer(types.int64)
TASK = types.void(FRAME, types.int64, types.int64)


def run_items(frame: Any, start: int, stop: int) -> None:
    """The task of an op with core axes: one call of the loop per batch item."""
    for item in range(start, stop):
        loop(*operands(frame, item, 0, 0))


def run_elements(frame: Any, start: int, stop: int) -> None:
    """The task of an elementwise op: the loop runs along (parts of) rows; an item is one element."""
    columns = frame[CORE]
    row = start // columns
    first = start - row * columns
    while start < stop:
        count = min(columns - first, stop - start)
        loop(*operands(frame, row, first, count))
        start += count
        first = 0
        row += 1


def run_contiguous_elements(frame: Any, start: int, stop: int) -> None:
    """The same for contiguous outputs, which may be filled through a buffer in the L1 cache.

    A single row is gone through from its end, in pieces of PIECE bytes, where the frame says so.
    """
    columns = frame[CORE]
    row = start // columns
    first = start - row * columns
    itemsize = frame[OUTPUT * WIDTH + ITEMSIZE]
    stretch = STRETCH // itemsize
    in_place = is_in_place(frame)
    bypass = not in_place and bypasses_caches(frame)
    buffer = new_buffer(ELEMENT)
    piece = PIECE // itemsize
    backwards = frame[BACKWARDS] != 0 and stop <= columns and not bypass and not in_place
    while start < stop:
        count = min(columns - first, stop - start)
        if backwards:
            first = max(start, (stop - 1) // piece * piece)
            count = stop - first
        address = frame[OUTPUT * WIDTH] + item_offset(frame, OUTPUT, row) + first * itemsize
        if bypass:  # up to the next line, then in stretches of whole lines
            count = min(count, stretch if address % LINE == 0 else (LINE - address % LINE) // itemsize)
        elif in_place:
            count = min(count, stretch)
        whole_lines = bypass and count == stretch
        arrays = operands(frame, row, first, count)
        out = buffer[:count] if whole_lines or in_place else arrays[-1]
        loop(*(arrays[:-1] + (out,)))  # noqa: RUF005, Numba knows no star in a tuple
        if whole_lines:
            copy_lines(buffer, address)
        elif in_place:
            result = arrays[-1]
            for j in range(count):
                result[j] = out[j]
        if backwards:
            stop -= count
            continue
        start += count
        first += count
        if first == columns:
            first = 0
            row += 1
    if bypass:
        fence()


def is_in_place(frame: Any) -> Any:
    """Whether the output takes an input's place.

    LLVM's vector loop is for an output that overlaps no input; otherwise one element is computed at a time.
    """
    matches = 0
    for row in range(1, OUTPUT):
        matches += frame[row * WIDTH] == frame[OUTPUT * WIDTH]
    return matches > 0


def bypasses_caches(frame: Any) -> Any:
    """Whether the output is larger than the caches and has long rows."""
    out, itemsize = frame[OUTPUT * WIDTH], frame[OUTPUT * WIDTH + ITEMSIZE]
    if frame[CORE] * itemsize < 4 * STRETCH or out % itemsize != 0:
        return False
    return frame[ITEMS] * itemsize > CACHE_BYTES


PIECE = 4096  # bytes of a row: four of them of each of three operands fill a cache of 48 KB
OUTPUT = 0  # the output's row in the frame
ELEMENT: Any = None  # the output's type


def loop(*operands: Any) -> None:
    """Stands in for the op's loop, which `compile_task` puts in its place."""
    raise NotImplementedError


def operands(frame: Any, item: int, first: int, count: int) -> tuple[Any, ...]:
    """Stands in for the intrinsic that makes a batch item's arrays."""
    raise NotImplementedError


def compile_task(
    function: Callable[..., Any],
    signature: Signature,
    dtypes: tuple[np.dtype, ...],
    layout: int,
    name: str,
    parallel: bool = False,
) -> Any:
    """Compile a loop for dtypes and a layout.

    Parameters
    ----------
    function : function
        The loop: takes the core part of every operand, inputs then outputs. Elementwise ops give a loop
        over 1-D rows.
    signature : Signature
    dtypes : tuple of dtype, one per operand
    layout : int
        From the frame's header; see `nbops.frame`.
    name : str
        The op's name; shows up in profilers.
    parallel : bool
        Let the loop's own ``prange`` run on every core.

    Returns
    -------
    cfunc
        Its ``address`` is that of the task. Keep a reference as long as the address is in use.
    """
    import numba

    kind = f"{name}_{'parallel' if parallel else 'serial'}"
    ranges = {"prange": numba.prange if parallel else range, "lanes": range}
    twin = compiler.specialise(function, kind, **ranges, **_modules_with(ranges, function))
    options = {"parallel": True} if parallel else {"forceinline": True}
    compiled_loop = compiler.part(compiler.with_helpers(twin), plain=False, **options)
    names: dict[str, Any] = {"loop": compiled_loop, "operands": operands_intrinsic(signature, dtypes, layout)}
    template = run_items
    if signature.is_elementwise:
        template = run_elements if layout == GENERAL else run_contiguous_elements
        names |= {"OUTPUT": len(dtypes), "ELEMENT": from_dtype(dtypes[-1])}
        for test in is_in_place, bypasses_caches:
            twin = compiler.specialise(test, kind, OUTPUT=len(dtypes))
            names[test.__name__] = compiler.part(twin)
    name = f"{kind}_{'_'.join(d.name for d in dtypes)}_{layout & 0xFF}"
    return compiler.native(TASK, compiler.specialise(template, name, **names))


def _modules_with(ranges: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """What stands in for nbops in a loop that writes ``nbops.prange``: a module with these ranges.

    It is called numba because Numba knows a parallel loop by the name ``numba.prange``.
    """
    stand_in = ModuleType("numba")
    vars(stand_in).update(ranges)
    return {
        name: stand_in
        for name, value in getattr(function, "__globals__", {}).items()
        if isinstance(value, ModuleType) and value.__name__ == "nbops"
    }


def operands_intrinsic(signature: Signature, dtypes: tuple[np.dtype, ...], layout: int) -> Any:
    """An intrinsic ``operands(frame, item, first, count)`` that returns an item's arrays as a tuple."""
    elementwise = signature.is_elementwise
    order = "A" if layout == GENERAL else "C"
    array_types: list[Any] = []
    for index, (names, dtype) in enumerate(zip(signature.operands, dtypes, strict=True)):
        if elementwise and layout != GENERAL and layout >> index & 1:
            array_types.append(Repeated(from_dtype(dtype)))
            continue
        rank = 1 if elementwise else len(names)
        readonly = index < len(signature.inputs)  # a loop that writes an input does not compile
        array_types.append(types.Array(from_dtype(dtype), rank, order, readonly))
    result = types.BaseTuple.from_types(tuple(array_types))
    table = signature.table
    word = ir.IntType(64)

    @intrinsic
    def operands(typingctx: Any, frame: Any, item: Any, first: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            from numba.np.arrayobj import populate_array  # takes long, and only compiling needs it

            frame_, item_, first_, count_ = arguments

            def load(index: int) -> Any:
                return builder.load(builder.gep(frame_, [word(index)]))

            def offset(row: int) -> Any:
                return context.compile_internal(
                    builder,
                    item_offset,
                    types.int64(FRAME, types.int64, types.int64),
                    [frame_, word(row), item_],
                )

            arrays = []
            for index, array_type in enumerate(array_types):
                row = 1 + index
                itemsize = word(dtypes[index].itemsize)
                address = builder.add(load(row * WIDTH), offset(row))
                if isinstance(array_type, Repeated):
                    data = builder.inttoptr(address, context.get_value_type(array_type.dtype).as_pointer())
                    arrays.append(builder.load(data, align=1))
                    continue
                if elementwise:
                    shape = [count_]
                    strides = [itemsize if array_type.layout == "C" else load(row * WIDTH + CORE)]
                    address = builder.add(address, builder.mul(first_, strides[0]))
                else:
                    start = ROWS + ROW_WIDTH * index + 1
                    axes = table[start : start + array_type.ndim].tolist()
                    shape = [load(CORE + axis) for axis in axes]
                    if array_type.layout == "C":
                        strides = [itemsize] * len(shape)
                        for axis in range(len(shape) - 2, -1, -1):
                            strides[axis] = builder.mul(strides[axis + 1], shape[axis + 1])
                    else:
                        strides = [load(row * WIDTH + CORE + c) for c in range(array_type.ndim)]
                array = context.make_array(array_type)(context, builder)
                data = builder.inttoptr(address, context.get_value_type(array_type.dtype).as_pointer())
                populate_array(array, data, shape, strides, itemsize, meminfo=None)
                arrays.append(array._getvalue())
            return context.make_tuple(builder, result, arrays)

        return result(FRAME, types.int64, types.int64, types.int64), codegen

    operands.cache_key = f"operands {signature} {dtypes} {layout} {array_types}"
    return operands


@intrinsic
def call_task(typingctx: Any, address: Any, frame: Any, start: Any, stop: Any) -> Any:
    """Call the task at an address."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word.as_pointer(), word, word])
        pointer = builder.inttoptr(arguments[0], function.as_pointer())
        builder.call(pointer, [frame_pointer_value(builder, arguments[1]), *arguments[2:]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


def frame_pointer_value(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def frame_pointer(typingctx: Any, address: Any) -> Any:
    """The words at an address, as a pointer that can be indexed."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return frame_pointer_value(builder, arguments[0])

    return FRAME(types.int64), codegen
