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
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops.compiler import helper
from nbops.tuned.pointers import WORD
from nbops.tuned.streaming import LINE
from nbops.tuned.vectors import INDEX, broadcast

__all__ = ["LANES", "fold_largest", "fold_sum", "inlined", "new_lanes"]

LANES = 64

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


def _fold(combine: Any) -> Any:
    """An intrinsic that combines the upper half of the lanes with the lower half until one is left.

    `combine` takes LLVM's builder and the two halves as vectors, and returns a vector.
    """

    @intrinsic
    def fold(typingctx: Any, lanes: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            data = context.make_array(lanes)(context, builder, arguments[0]).data
            kind = ir.VectorType(context.get_data_type(lanes.dtype), LANES)
            vector = builder.load(builder.bitcast(data, kind.as_pointer()), align=1)
            width = LANES // 2
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

        return lanes.dtype(lanes), codegen

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
