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
into the 16 or 32 vector registers. Of the shapes that fit, the one with the fewest loads is best, because
loads are what a core has least to spare of. A tile of half the width has twice the rows, because there would
be too few multiply-adds that do not wait for one another. (In the literature: Goto & van de Geijn, *Anatomy
of High-Performance Matrix Multiplication*, 2008; Van Zee & van de Geijn, *BLIS: A Framework for Rapidly
Instantiating BLAS Functionality*, 2015, whose names mr, nr, kc, mc and nc this package uses.)

Numba has no vector type, so this file adds what the micro-kernel's plain Python loop needs: a `Tile`
value and the operations on it. Each is an ``@intrinsic``, a function for which we write the LLVM
instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from nbops.tuned.pointers import WORD, advance
from nbops.tuned.streaming import LINE
from nbops.tuned.vectors import (
    broadcast,
    fused_multiply_add,
    host_tile,
    load_vector,
    store_vector,
    vector_type,
)


class TileWidth(types.Type):  # type: ignore[misc]
    """Numba's type of a tile's width in vectors; it has no value, so each width is compiled by itself."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        super().__init__(name=f"TileWidth({vectors})")


class Tile(types.Type):  # type: ignore[misc]
    """Numba's type of a register tile of `element`; in LLVM, an array of ``rows * vectors`` vectors."""

    def __init__(self, element: types.Float, vectors: int) -> None:
        self.element = element
        self.vectors = vectors
        self.rows = host_tile().rows(vectors)
        super().__init__(name=f"Tile({element}, {self.rows}, {vectors}, {host_tile().vector_bytes})")


class RowOffsets(types.Type):  # type: ignore[misc]
    """Numba's type of the byte offsets of a tile's rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(name=f"RowOffsets({rows})")


@register_model(Tile)
class _TileModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Tile) -> None:
        count = kind.rows * kind.vectors
        super().__init__(manager, kind, ir.ArrayType(vector_type(kind.element), count))


@register_model(RowOffsets)
class _RowOffsetsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: RowOffsets) -> None:
        super().__init__(manager, kind, ir.ArrayType(WORD, kind.rows))


register_model(TileWidth)(models.OpaqueModel)


def _places(tile: Tile) -> list[tuple[int, int, int]]:
    """``(row, vector, place in the tile)`` of each accumulator."""
    return [(i, j, i * tile.vectors + j) for i in range(tile.rows) for j in range(tile.vectors)]


@intrinsic(prefer_literal=True)
def tile_width(typingctx: Any, narrower: Any) -> Any:
    """The width of the whole tile, or of one that is so many vectors narrower; at least one vector."""
    width = TileWidth(max(1, host_tile().vectors - narrower.literal_value))
    return width(narrower), lambda context, builder, call, arguments: context.get_dummy_value()


@intrinsic
def zero_tile(typingctx: Any, width: Any, like: Any) -> Any:
    """A tile of zeros, for a pointer's element type."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(call.return_type), None)

    return Tile(like.dtype, width.vectors)(width, like), codegen


@intrinsic
def tile_height(typingctx: Any, width: Any) -> Any:
    """The rows of a tile of that width."""
    rows = host_tile().rows(width.vectors)
    return types.intp(width), lambda context, builder, call, arguments: WORD(rows)


@intrinsic
def row_offsets(typingctx: Any, width: Any, stride: Any, rows: Any) -> Any:
    """The offsets of a tile's rows; past the last valid row they repeat it, so that reading is harmless."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        _, stride_, rows_ = arguments
        last = builder.sub(rows_, WORD(1))
        offsets = ir.Constant(context.get_value_type(call.return_type), ir.Undefined)
        for i in range(call.return_type.rows):
            row = builder.select(builder.icmp_signed("<", WORD(i), rows_), WORD(i), last)
            offsets = builder.insert_value(offsets, builder.mul(row, stride_), i)
        return offsets

    offsets = RowOffsets(host_tile().rows(width.vectors))
    return offsets(width, types.int64, types.int64), codegen


@intrinsic
def add_outer_product(typingctx: Any, tile: Any, offsets: Any, a: Any, b: Any) -> Any:
    """``tile + outer(column of A at a, row of B at b)``."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, offsets_, a_, b_ = arguments
        vector = vector_type(tile.element)
        row = [load_vector(builder, b_, tile.element, WORD(0), j) for j in range(tile.vectors)]
        for i, j, place in _places(tile):
            if j == 0:
                column = builder.load(advance(builder, a_, builder.extract_value(offsets_, i)), align=1)
                repeated = broadcast(builder, column, vector)
            old = builder.extract_value(tile_, place)
            new = fused_multiply_add(builder, repeated, row[j], old, tile.element.bitwidth)
            tile_ = builder.insert_value(tile_, new, place)
        return tile_

    return tile(tile, offsets, a, b), codegen


@intrinsic
def tile_lines(typingctx: Any, width: Any) -> Any:
    """How many cache lines a row of the tile may touch."""
    lines = width.vectors * host_tile().vector_bytes // LINE + 1
    return types.intp(width), lambda context, builder, call, arguments: WORD(lines)


@intrinsic
def store_tile(typingctx: Any, tile: Any, pointer: Any, stride: Any) -> Any:
    """Write the tile to a matrix with the given row stride."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, pointer_, stride_ = arguments
        for i, j, place in _places(tile):
            value = builder.extract_value(tile_, place)
            store_vector(builder, value, pointer_, tile.element, builder.mul(stride_, WORD(i)), j)
        return context.get_dummy_value()

    return types.void(tile, pointer, types.int64), codegen
