"""Lanes: a fixed number of running totals, so that a reduction fills vectors and keeps one order.

A single running total is a chain: each addition waits for the one before, and LLVM may not reorder it. With
`LANES` totals, lane j takes the elements j, j + LANES, j + 2 LANES, …, and at the end the lanes are added in
pairs::

    x   [0 1 2 3 … 63][64 65 66 … 127][128 …       for each block of LANES elements:
         | | | |        |  |  |                         for j in range(LANES):
         v v v v        v  v  v                             totals[j] += block[j]
      [  totals, LANES of them         ]
         0+32 1+33 … -> 0+16 1+17 … -> … -> one     fold

The inner loop has independent iterations, so LLVM vectorises it, whatever the width of the machine's vectors.
The number of lanes is the same on every machine, and so is the order of the additions.

`new_lanes` is an array on the stack, for such loops. `Lanes` are the same as one value, which stays in
registers from block to block where the machine has enough of them; what is left of a row is read into it
under a mask, without a loop.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from nbops.compiler import helper
from nbops.tuned.pointers import BYTE, WORD
from nbops.tuned.streaming import LINE
from nbops.tuned.vectors import INDEX, broadcast, fused_multiply_add

__all__ = [
    "FEW",
    "LANES",
    "add_lanes",
    "add_products",
    "equal_few_lanes",
    "equal_lanes",
    "fold_largest",
    "fold_sum",
    "inlined",
    "new_lanes",
    "read_few_lanes",
    "read_first_lanes",
    "read_lanes",
]

LANES = 64
FEW = 16  # of a row that is no longer, the other lanes are 0, and need not be computed

#: Compile a helper into its callers.
inlined = functools.partial(helper, forceinline=True)


@intrinsic
def new_lanes(typingctx: Any, value: Any) -> Any:
    """An array of LANES copies of a number, on the stack: its caller must not return it."""
    result = types.Array(value, 1, "C")

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        from numba.np.arrayobj import populate_array  # takes long, and only compiling needs it

        element = context.get_data_type(value)
        place = cgutils.alloca_once(builder, ir.ArrayType(element, LANES))
        place.align = LINE  # a vector across two pages of the stack made softmax take three times as long
        copies = broadcast(builder, arguments[0], ir.VectorType(element, LANES))
        builder.store(copies, builder.bitcast(place, copies.type.as_pointer()), align=1)
        array = context.make_array(result)(context, builder)
        data = builder.bitcast(place, element.as_pointer())
        size = WORD(context.get_abi_sizeof(element))
        populate_array(array, data, [WORD(LANES)], [size], size, meminfo=None)
        return array._getvalue()

    return result(value), codegen


class Lanes(types.Type):  # type: ignore[misc]
    """Numba's type of so many numbers as one value."""

    def __init__(self, element: types.Type, count: int = LANES) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"Lanes({element}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        element = manager.lookup(kind.element).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def _equal(count: int, doc: str) -> Any:
    def equal(typingctx: Any, value: Any) -> Any:
        result = Lanes(value, count)

        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            return broadcast(builder, arguments[0], context.get_value_type(result))

        return result(value), codegen

    equal.__doc__ = doc
    return intrinsic(equal)


equal_lanes = _equal(LANES, "Lanes that are all the same number.")
equal_few_lanes = _equal(FEW, "FEW lanes that are all the same number.")


def _read(context: Any, builder: Any, kind: types.Array, array: Any, lanes: int, whole: bool) -> Any:
    """An array's first elements as lanes: where it isn't `whole`, as many as there are, and else 0."""
    view = context.make_array(kind)(context, builder, array)
    result = context.get_value_type(Lanes(kind.dtype, lanes))
    adjacent = kind.layout == "C"
    pointer = builder.bitcast(view.data, result.as_pointer())
    if adjacent and whole:
        return builder.load(pointer, align=1)
    numbers = ir.VectorType(WORD, lanes)
    places = ir.Constant(numbers, list(range(lanes)))
    mask = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [1] * lanes)
    if not whole:  # in bytes: one comparison of one vector
        narrow = ir.VectorType(BYTE, lanes)
        count = builder.trunc(builder.extract_value(view.shape, 0), BYTE)
        mask = builder.icmp_signed("<", builder.trunc(places, narrow), broadcast(builder, count, narrow))
    kinds = f"v{lanes}{_llvm_name(result.element)}"
    if adjacent:
        where, name = pointer, f"llvm.masked.load.{kinds}.p0"
    else:
        stride = broadcast(builder, builder.extract_value(view.strides, 0), numbers)
        start = broadcast(builder, builder.ptrtoint(view.data, WORD), numbers)
        address = builder.add(start, builder.mul(places, stride))
        where = builder.inttoptr(address, ir.VectorType(result.element.as_pointer(), lanes))
        name = f"llvm.masked.gather.{kinds}.v{lanes}p0"
    signature = ir.FunctionType(result, [where.type, INDEX, mask.type, result])
    read = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(read, [where, INDEX(1), mask, ir.Constant(result, None)])


def _llvm_name(element: Any) -> str:
    return f"i{element.width}" if isinstance(element, ir.IntType) else f"f{_bits(element)}"


def _bits(element: Any) -> int:
    return 32 if isinstance(element, ir.FloatType) else 64


def _reading(count: int, whole: bool, doc: str) -> Any:
    def read(typingctx: Any, array: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            return _read(context, builder, array, arguments[0], count, whole)

        return Lanes(array.dtype, count)(array), codegen

    read.__doc__ = doc
    return intrinsic(read)


read_lanes = _reading(LANES, True, "The first LANES elements of an array, which has as many.")
read_first_lanes = _reading(
    LANES, False, "The elements of an array, which has fewer than LANES; the other lanes are 0."
)
read_few_lanes = _reading(
    FEW, False, "The elements of an array, which has no more than FEW; the others are 0."
)


def _as(builder: Any, lanes: Any, like: Any) -> Any:
    """float32 lanes as float64, where others are."""
    return lanes if lanes.type == like.type else builder.fpext(lanes, like.type)


@intrinsic
def add_lanes(typingctx: Any, totals: Any, x: Any) -> Any:
    """``totals + x``, in the totals' type."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        totals_, x_ = arguments
        return _sum(builder, totals_, _as(builder, x_, totals_))

    return totals(totals, x), codegen


@intrinsic
def add_products(typingctx: Any, totals: Any, x: Any, y: Any) -> Any:
    """``totals + x * y``, in the totals' type; rounded once where the processor does."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        totals_, x_, y_ = arguments
        if isinstance(totals_.type.element, ir.IntType):
            return builder.add(totals_, builder.mul(x_, y_))
        x_, y_ = _as(builder, x_, totals_), _as(builder, y_, totals_)
        return fused_multiply_add(builder, x_, y_, totals_, _bits(totals_.type.element))

    return totals(totals, x, y), codegen


def _fold(combine: Any) -> Any:
    """An intrinsic that combines the upper half of the lanes with the lower half until one is left.

    `combine` takes LLVM's builder and the two halves as vectors, and returns a vector.
    """

    @intrinsic
    def fold(typingctx: Any, lanes: Any) -> Any:
        element = lanes.element if isinstance(lanes, Lanes) else lanes.dtype

        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            vector = arguments[0]
            if not isinstance(lanes, Lanes):
                vector = _read(context, builder, lanes, vector, LANES, True)
            width = vector.type.count // 2
            while width > 0:
                lower, upper = (
                    builder.shuffle_vector(
                        vector,
                        vector,
                        ir.Constant(ir.VectorType(INDEX, width), list(range(first, first + width))),
                    )
                    for first in (0, width)
                )
                vector = combine(builder, lower, upper)
                width //= 2
            return builder.extract_element(vector, INDEX(0))

        return element(lanes), codegen

    return fold


def _sum(builder: Any, lower: Any, upper: Any) -> Any:
    whole = isinstance(lower.type.element, ir.IntType)
    return (builder.add if whole else builder.fadd)(lower, upper)


def _largest(builder: Any, lower: Any, upper: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", upper, lower), upper, lower)


fold_sum = _fold(_sum)
fold_sum.__doc__ = """The sum of the lanes, in pairs."""
fold_largest = _fold(_largest)
fold_largest.__doc__ = """The largest of the lanes; a NaN may be passed over."""
