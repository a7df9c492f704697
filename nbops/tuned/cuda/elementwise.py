"""Elementwise ops on a GPU: 16 bytes of every operand at a time, for every formula.

A thread loads 16 bytes of each input, runs the op's own loop over those elements in its registers, and stores
16 bytes; then it goes on by the grid's stride. What is left at the end of a row, fewer elements than that, is
done one by one::

    columns   [thread 0 | thread 1 | thread 2 | … | rest]
               16 bytes   16 bytes                  one element a thread

Every byte is moved once: the inputs' in, the output's out. Operands of different sizes take as many elements
as the smallest has in 16 bytes, in several loads. A repeated element (stride 0) is loaded by every thread and
comes from the cache.

It is planned where all rows lie contiguous and begin at multiples of 16 bytes. Other layouts run the loop
itself, one element a thread.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from nbops.frame import GENERAL
from nbops.kernel import Dtypes, Kernel
from nbops.targets.cuda import loops
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.toolchain import array_type, cuda, device_function, intrinsic, populate_array, types
from nbops.targets.cuda.words import all_names
from nbops.tuned.cuda.vectors import GLOBAL, VECTOR_BYTES, WORD, read_vector, write_vector

__all__ = ["plan", "vectorised"]


def plan(call: Call) -> Plan | None:
    """One launch with a thread per vector, or None where rows are not aligned."""
    if call.layout == GENERAL:
        return None
    width = elements_per_vector(call.dtypes)
    repeated = [bool(call.layout >> number & 1) for number in range(len(call.operands))]
    for operand, scalar, dtype in zip(call.operands, repeated, call.dtypes, strict=True):
        steps = [call[operand]] + [call[f"{operand}_batch{axis}"] for axis in range(call.batch_rank)]
        if any(step % (dtype.itemsize if scalar else VECTOR_BYTES) for step in steps):
            return None
    if call["columns"] < width or (call.batch_rank and call["columns"] % width):
        return None
    compiled = vectorised(
        call.kernel, call.operands, call.dtypes, call.layout, call.batch_rank, call["items"] < loops.NARROW
    )
    blocks = -(-(call["items"] // width) // loops.THREADS)
    return Plan([Launch(compiled, (min(blocks, loops.most_blocks(call)), 1, 1), (loops.THREADS, 1, 1))])


def elements_per_vector(dtypes: Dtypes) -> int:
    """How many elements a thread takes at a time."""
    return VECTOR_BYTES // min(dtype.itemsize for dtype in dtypes)


@functools.cache
def vectorised(
    kernel: Kernel, operands: tuple[str, ...], dtypes: Dtypes, layout: int, batch_rank: int, narrow: bool
) -> CudaKernel:
    """The kernel of an elementwise op.

    Parameters
    ----------
    kernel : Kernel
    operands : tuple of str
        Their names.
    dtypes : tuple of dtype
    layout : int
        Bit o is set where operand o is one repeated element; see `nbops.frame`.
    batch_rank : int
        How many axes the rows have.
    narrow : bool
        Whether elements can be counted in 32 bits.
    """
    names = all_names(kernel.signature, operands, batch_rank)
    load, store = _vector_intrinsics(dtypes, layout)
    return CudaKernel(
        run_vectors,
        parameters=names,
        name=f"{kernel.name}_vectors_{'_'.join(d.name for d in dtypes)}",
        formula=kernel.formula,
        loop=device_function(loops.on_device(kernel.loop, loops.SERIAL)),
        operands=loops.operands_intrinsic(kernel.signature, operands, dtypes, layout, batch_rank, narrow),
        load=load,
        store=store,
        index=types.uint32 if narrow else types.int64,
        ITEMS=names.index("items"),
        COLUMNS=names.index("columns"),
        ROWS=batch_rank > 0,
        WIDTH=elements_per_vector(dtypes),
    )


# ---- the kernel ---------------------------------------------------------------------------------------

loop, operands, index = loops.loop, loops.operands, loops.index
ITEMS, COLUMNS, ROWS, WIDTH = 0, 0, False, 4


def load(views: Any) -> Any:
    """Stands in for the intrinsic that loads a vector of each input."""
    raise NotImplementedError


def store(views: Any, blocks: Any) -> None:
    """Stands in for the intrinsic that stores a vector of the output."""
    raise NotImplementedError


def run_vectors(words: Any) -> None:
    """Each thread takes every so many-th vector; the first threads take the rest."""
    items = index(words[ITEMS])
    columns = index(words[COLUMNS])
    stride = index(cuda.blockDim.x * cuda.gridDim.x)
    vectors = index(items // index(WIDTH))
    vector = index(cuda.grid(1))
    while vector < vectors:
        item = index(vector * index(WIDTH))
        row = index(item // columns) if ROWS else index(0)
        views = operands(words, row, index(item - row * columns))
        blocks = load(views)
        loop(*blocks)
        store(views, blocks)
        vector = index(vector + stride)
    if not ROWS:
        item = index(vectors * index(WIDTH) + index(cuda.grid(1)))
        if item < items:
            loop(*operands(words, index(0), item))


def _local(context: Any, builder: Any, block: Any, size: int) -> Any:
    """An array of a thread's own; the compiler keeps it in registers, because all indices are constants."""
    element = context.get_data_type(block.dtype)
    place = cgutils.alloca_once(builder, ir.ArrayType(element, size))
    array = context.make_array(block)(context, builder)
    data = builder.bitcast(place, element.as_pointer())
    itemsize = ir.IntType(64)(block.dtype.bitwidth // 8)
    populate_array(array, data, [ir.IntType(64)(size)], [itemsize], itemsize, meminfo=None)
    return array


def _vector_intrinsics(dtypes: Dtypes, layout: int) -> tuple[Any, Any]:
    """``load(views)``, a tuple of arrays in registers, and ``store(views, blocks)``, which writes the last.

    A view is an operand's array from the vector's first element on.
    """
    width = elements_per_vector(dtypes)
    last = len(dtypes) - 1
    block_types = [array_type(dtype, 1, "C", readonly=number < last) for number, dtype in enumerate(dtypes)]
    blocks_type = types.BaseTuple.from_types(tuple(block_types))

    def pointers(context: Any, builder: Any, tuple_type: Any, value: Any, number: int) -> Any:
        """An array's first element; the array is element `number` of a tuple."""
        array = builder.extract_value(value, number)
        return context.make_array(tuple_type[number])(context, builder, array).data

    def in_vectors(builder: Any, pointer: Any, dtype: Any) -> list[Any]:
        """Pointers to each 16 bytes of `width` elements in global memory."""
        shared = builder.addrspacecast(pointer, pointer.type.pointee.as_pointer(GLOBAL))
        per_vector = VECTOR_BYTES // dtype.itemsize
        return [builder.gep(shared, [WORD(first)]) for first in range(0, width, per_vector)]

    @intrinsic
    def load(typingctx: Any, views: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            made = []
            for number, (dtype, block) in enumerate(zip(dtypes, block_types, strict=True)):
                element = context.get_data_type(block.dtype)
                place = _local(context, builder, block, width)
                if number < last:
                    pointer = pointers(context, builder, views, arguments[0], number)
                    if layout >> number & 1:
                        values = [builder.load(pointer)] * width
                    else:
                        places = in_vectors(builder, pointer, dtype)
                        values = [v for p in places for v in read_vector(builder, p, element)]
                    for i, value in enumerate(values):
                        builder.store(value, builder.gep(place.data, [WORD(i)]))
                made.append(place._getvalue())
            return context.make_tuple(builder, blocks_type, made)

        return blocks_type(views), codegen

    @intrinsic
    def store(typingctx: Any, views: Any, blocks: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            source = pointers(context, builder, blocks, arguments[1], last)
            values = [builder.load(builder.gep(source, [WORD(i)])) for i in range(width)]
            target = pointers(context, builder, views, arguments[0], last)
            per_vector = VECTOR_BYTES // dtypes[last].itemsize
            for i, place in enumerate(in_vectors(builder, target, dtypes[last])):
                write_vector(builder, place, values[i * per_vector : (i + 1) * per_vector])
            return context.get_dummy_value()

        return types.void(views, blocks), codegen

    for function in load, store:
        function.cache_key = f"{function.__name__} {dtypes} {layout}"
    return load, store
