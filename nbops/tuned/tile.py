"""The register tile: a small block of the result that stays in the processor's registers.

A product ``C = A @ B`` reads 2 numbers for each multiply-add when it is computed one element at a time,
and a core can load far fewer numbers than it can multiply. So a *micro-kernel* computes ``mr x nr``
elements of C at once. Step k adds the outer product of a column of A and a row of B::

                      B[k, j : j+nr]      one row, read as `vectors` vectors
                     [b b b b|b b b b]
      A[i, k]    [a] [t t t t|t t t t]
      A[i+1, k]  [a] [t t t t|t t t t]    t += a * b, everywhere, and t never leaves the registers
      A[i+2, k]  [a] [t t t t|t t t t]

That loads ``mr + nr`` numbers for ``mr * nr`` multiply-adds. The larger the tile the better, until it no
longer fits: ``mr * vectors`` accumulators, `vectors` vectors of B and one broadcast element of A must fit
into the 16 or 32 vector registers. (In the literature: Goto & van de Geijn, *Anatomy of High-Performance
Matrix Multiplication*, 2008; Van Zee & van de Geijn, *BLIS: A Framework for Rapidly Instantiating BLAS
Functionality*, 2015, whose names mr, nr, kc, mc and nc this package uses.)

Numba has no vector type, so this file adds what the micro-kernel's plain Python loop needs: a `Tile`
value and the operations on it. Each is an ``@intrinsic``, a function for which we write the LLVM
instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from nbops.tuned.pointers import BYTE, WORD, advance
from nbops.tuned.vectors import (
    INDEX,
    broadcast,
    fused_multiply_add,
    host_tile,
    load_vector,
    store_vector,
    vector_type,
)


class Tile(types.Type):  # type: ignore[misc]
    """Numba's type of a register tile of `element`; in LLVM, an array of ``mr * vectors`` vectors."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        self.shape = host_tile()
        super().__init__(name=f"Tile({element}, {self.shape})")


class RowOffsets(types.Type):  # type: ignore[misc]
    """Numba's type of the byte offsets of a tile's mr rows."""

    def __init__(self) -> None:
        self.mr = host_tile().mr
        super().__init__(name=f"RowOffsets({self.mr})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Tile) -> None:
        count = kind.shape.mr * kind.shape.vectors
        super().__init__(manager, kind, ir.ArrayType(vector_type(kind.element), count))


@register_model(RowOffsets)
class _RowOffsetsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: RowOffsets) -> None:
        super().__init__(manager, kind, ir.ArrayType(WORD, kind.mr))


def _places() -> list[tuple[int, int, int]]:
    """``(row, vector, place in the tile)`` of each accumulator."""
    shape = host_tile()
    return [(i, j, i * shape.vectors + j) for i in range(shape.mr) for j in range(shape.vectors)]


@intrinsic
def zero_tile(typingctx: Any, like: Any) -> Any:
    """A tile of zeros, for a pointer's element type."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(call.return_type), None)

    return Tile(like.dtype)(like), codegen


@intrinsic
def row_offsets(typingctx: Any, stride: Any, rows: Any) -> Any:
    """The offsets of mr rows; those past the last valid row repeat it, so that reading them is harmless."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        stride_, rows_ = arguments
        last = builder.sub(rows_, WORD(1))
        offsets = ir.Constant(context.get_value_type(call.return_type), ir.Undefined)
        for i in range(call.return_type.mr):
            row = builder.select(builder.icmp_signed("<", WORD(i), rows_), WORD(i), last)
            offsets = builder.insert_value(offsets, builder.mul(row, stride_), i)
        return offsets

    return RowOffsets()(types.int64, types.int64), codegen


@intrinsic
def add_outer_product(typingctx: Any, tile: Any, offsets: Any, a: Any, b: Any) -> Any:
    """``tile + outer(column of A at a, row of B at b)``."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, offsets_, a_, b_ = arguments
        vector = vector_type(tile.element)
        row = [load_vector(builder, b_, tile.element, WORD(0), j) for j in range(tile.shape.vectors)]
        for i, j, place in _places():
            if j == 0:
                column = builder.load(advance(builder, a_, builder.extract_value(offsets_, i)), align=1)
                repeated = broadcast(builder, column, vector)
            old = builder.extract_value(tile_, place)
            new = fused_multiply_add(builder, repeated, row[j], old, tile.element.bitwidth)
            tile_ = builder.insert_value(tile_, new, place)
        return tile_

    return tile(tile, offsets, a, b), codegen


@intrinsic
def prefetch_tile(typingctx: Any, pointer: Any, stride: Any) -> Any:
    """Ask for the cache lines of an mr x nr matrix, which a micro-kernel needs only at its end.

    They lie in mr different rows, a pattern that no processor foresees. Asking for memory that does not exist
    is allowed and has no effect.
    """

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        shape = host_tile()
        row_bytes = shape.vectors * shape.vector_bytes
        kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INDEX, INDEX, INDEX])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        write, keep, data = INDEX(1), INDEX(3), INDEX(1)
        start = builder.bitcast(arguments[0], BYTE.as_pointer())
        for i in range(shape.mr):
            row = builder.gep(start, [builder.mul(arguments[1], WORD(i))])
            for offset in [*range(0, row_bytes, 64), row_bytes - 1]:
                builder.call(prefetch, [builder.gep(row, [WORD(offset)]), write, keep, data])
        return context.get_dummy_value()

    return types.void(pointer, types.int64), codegen


@intrinsic
def add_matrix(typingctx: Any, tile: Any, pointer: Any, stride: Any) -> Any:
    """``matrix + tile``, for an mr x nr matrix; with stride 0, the one row is added to each of the tile's."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, pointer_, stride_ = arguments
        for i, j, place in _places():
            other = load_vector(builder, pointer_, tile.element, builder.mul(stride_, WORD(i)), j)
            total = builder.fadd(other, builder.extract_value(tile_, place))
            tile_ = builder.insert_value(tile_, total, place)
        return tile_

    return tile(tile, pointer, types.int64), codegen


@intrinsic
def scale_tile(typingctx: Any, tile: Any, pointer: Any) -> Any:
    """``alpha * t`` for each element t, where `pointer` is that of alpha."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, pointer_ = arguments
        alpha = broadcast(builder, builder.load(pointer_, align=1), vector_type(tile.element))
        for _, _, place in _places():
            value = builder.fmul(alpha, builder.extract_value(tile_, place))
            tile_ = builder.insert_value(tile_, value, place)
        return tile_

    return tile(tile, pointer), codegen


@intrinsic
def rectify(typingctx: Any, tile: Any) -> Any:
    """``0 if t < 0 else t`` for each element t: keeps NaN, because NaN < 0 is false."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_ = arguments[0]
        zero = ir.Constant(vector_type(tile.element), None)
        for _, _, place in _places():
            value = builder.extract_value(tile_, place)
            value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
            tile_ = builder.insert_value(tile_, value, place)
        return tile_

    return tile(tile), codegen


@intrinsic
def store_tile(typingctx: Any, tile: Any, pointer: Any, stride: Any) -> Any:
    """Write the tile to an mr x nr matrix with the given row stride."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, pointer_, stride_ = arguments
        for i, j, place in _places():
            value = builder.extract_value(tile_, place)
            store_vector(builder, value, pointer_, tile.element, builder.mul(stride_, WORD(i)), j)
        return context.get_dummy_value()

    return types.void(tile, pointer, types.int64), codegen
