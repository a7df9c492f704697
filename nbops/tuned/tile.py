"""The register tile: a small block of the result that stays in the processor's registers.

A product ``C = A @ B`` reads 2 numbers for each multiply-add when it is computed one element at a time, and a
core can load far fewer numbers than it can multiply. So a *micro-kernel* computes ``mr x nr`` elements of C at
once. Step k adds the outer product of a column of A and a row of B::

                      B[k, j : j+nr]      one row, read as `vectors` vectors
                     [b b b b|b b b b]
      A[i, k]    [a] [t t t t|t t t t]
      A[i+1, k]  [a] [t t t t|t t t t]    t += a * b, everywhere, and t never leaves the registers
      A[i+2, k]  [a] [t t t t|t t t t]

That loads ``mr + nr`` numbers for ``mr * nr`` multiply-adds. The larger the tile the better, until it no longer
fits: ``mr * vectors`` accumulators, `vectors` vectors of B and one broadcast element of A must fit into the 16
or 32 vector registers. (In the literature: Goto & van de Geijn, *Anatomy of High-Performance Matrix
Multiplication*, 2008; Van Zee & van de Geijn, *BLIS: A Framework for Rapidly Instantiating BLAS
Functionality*, 2015, whose names mr, nr, kc, mc and nc this package uses.)

Numba has no vector type, so this file adds what the micro-kernel's plain Python loop needs: a `Tile` value,
the operations on it, and typed pointers that move by bytes. Each is an ``@intrinsic``, a function for which we
write the LLVM instructions. All of them follow the pointer's element type and `host_tile`; no width is
written down anywhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

WORD, BIT, BYTE = ir.IntType(64), ir.IntType(1), ir.IntType(8)
INDEX = ir.IntType(32)


class TileShape(NamedTuple):
    """What the micro-kernel is generated for.

    Parameters
    ----------
    vector_bytes : int
        The width of a vector register.
    mr : int
        Rows of the tile.
    vectors : int
        Vectors in a row of the tile.
    fused : bool
        Whether the processor rounds ``a * b + c`` once, with one instruction.
    """

    vector_bytes: int
    mr: int
    vectors: int
    fused: bool

    def nr(self, itemsize: int) -> int:
        """Columns of the tile, in elements of `itemsize` bytes."""
        return self.vectors * self.vector_bytes // itemsize


def tile_shape(triple: str, features: str) -> TileShape:
    """The tile for a processor, by LLVM's name of the target and its list of features."""
    has = set(features.split(","))
    fused = "+fma" in has
    if "+avx512f" in has:  # 32 registers: 24 accumulators, 3 of B, 1 of A
        return TileShape(64, 8, 3, True)
    if "+avx" in has and fused:  # 16 registers: 12 accumulators, 3 of B, 1 of A
        return TileShape(32, 4, 3, True)
    if "+avx" in has:  # an unfused product needs registers of its own
        return TileShape(32, 4, 2, False)
    if triple.startswith(("aarch64", "arm64")):  # NEON has 32 registers
        return TileShape(16, 8, 3, True)
    return TileShape(16, 4, 2, fused)


def host_tile() -> TileShape:
    """The tile for the processor that Numba compiles for (which ``NUMBA_CPU_NAME`` may override)."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return tile_shape(triple, features)


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


# LLVM instructions for one element type ---------------------------------------------------------------------


def vector_type(element: types.Float) -> ir.VectorType:
    scalar = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, host_tile().vector_bytes * 8 // element.bitwidth)


def _advance(builder: Any, pointer: Any, offset: Any) -> Any:
    """`pointer`, `offset` bytes further on."""
    start = builder.bitcast(pointer, BYTE.as_pointer())
    return builder.bitcast(builder.gep(start, [offset]), pointer.type)


def _vector_pointer(builder: Any, pointer: Any, element: types.Float, offset: Any, index: int) -> Any:
    """Where vector number `index` of a row starts, when the row is `offset` bytes after `pointer`."""
    offset = builder.add(offset, WORD(index * host_tile().vector_bytes))
    return builder.bitcast(_advance(builder, pointer, offset), vector_type(element).as_pointer())


def _load(builder: Any, pointer: Any, element: types.Float, offset: Any, index: int) -> Any:
    return builder.load(_vector_pointer(builder, pointer, element, offset, index), align=1)


def _store(builder: Any, value: Any, pointer: Any, element: types.Float, offset: Any, index: int) -> None:
    builder.store(value, _vector_pointer(builder, pointer, element, offset, index), align=1)


def _broadcast(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, INDEX(0))
    lanes = ir.Constant(ir.VectorType(INDEX, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, lanes)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any, bits: int) -> Any:
    """``a * b + c``: in one rounding where the processor has it, otherwise in two, but never in software."""
    if not host_tile().fused:
        return builder.fadd(builder.fmul(a, b), c)
    lanes = f"v{a.type.count}" if isinstance(a.type, ir.VectorType) else ""
    signature = ir.FunctionType(a.type, [a.type] * 3)
    fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{lanes}f{bits}")
    return builder.call(fma, [a, b, c])


def _places() -> list[tuple[int, int, int]]:
    """``(row, vector, place in the tile)`` of each accumulator."""
    shape = host_tile()
    return [(i, j, i * shape.vectors + j) for i in range(shape.mr) for j in range(shape.vectors)]


# Pointers and constants -------------------------------------------------------------------------------------


@intrinsic
def tile_rows(typingctx: Any) -> Any:
    """mr."""
    return types.intp(), lambda context, builder, call, arguments: WORD(host_tile().mr)


@intrinsic
def tile_columns(typingctx: Any, like: Any) -> Any:
    """nr, for a pointer's element type."""
    nr = host_tile().nr(like.dtype.bitwidth // 8)
    return types.intp(like), lambda context, builder, call, arguments: WORD(nr)


@intrinsic
def vector_lanes(typingctx: Any, like: Any) -> Any:
    """How many elements of a pointer's type a vector holds."""
    lanes = host_tile().vector_bytes * 8 // like.dtype.bitwidth
    return types.intp(like), lambda context, builder, call, arguments: WORD(lanes)


@intrinsic
def item_bytes(typingctx: Any, like: Any) -> Any:
    """The size of a pointer's element."""
    size = like.dtype.bitwidth // 8
    return types.intp(like), lambda context, builder, call, arguments: WORD(size)


@intrinsic
def zero_of(typingctx: Any, like: Any) -> Any:
    """0, as a pointer's element."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return ir.Constant(context.get_value_type(call.return_type), None)

    return like.dtype(like), codegen


@intrinsic
def element_pointer(typingctx: Any, element: Any, address: Any) -> Any:
    """An address as a pointer to elements of a type (``element_pointer(types.float32, address)``)."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(call.return_type))

    return types.CPointer(element.instance_type)(element, types.int64), codegen


@intrinsic
def address_of(typingctx: Any, pointer: Any) -> Any:
    """A pointer as an integer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], WORD)

    return types.int64(pointer), codegen


@intrinsic
def shift(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """A pointer moved by bytes. Strides are bytes everywhere, as in NumPy, so any view can be read."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return _advance(builder, *arguments)

    return pointer(pointer, types.int64), codegen


@intrinsic
def get(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The element `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.load(_advance(builder, *arguments), align=1)

    return pointer.dtype(pointer, types.int64), codegen


@intrinsic
def put(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Write the element `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _advance(builder, *arguments[:2]), align=1)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, pointer.dtype), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded as the tile rounds it."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return _multiply_add(builder, *arguments, a.bitwidth)

    return a(a, a, a), codegen


@intrinsic
def never_inline(typingctx: Any) -> Any:
    """Keep the calling function out of line, so that its registers are allocated for it alone."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


# The tile ---------------------------------------------------------------------------------------------------


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
        row = [_load(builder, b_, tile.element, WORD(0), j) for j in range(tile.shape.vectors)]
        for i, j, place in _places():
            if j == 0:
                column = builder.load(_advance(builder, a_, builder.extract_value(offsets_, i)), align=1)
                repeated = _broadcast(builder, column, vector)
            old = builder.extract_value(tile_, place)
            new = _multiply_add(builder, repeated, row[j], old, tile.element.bitwidth)
            tile_ = builder.insert_value(tile_, new, place)
        return tile_

    return tile(tile, offsets, a, b), codegen


@intrinsic
def add_matrix(typingctx: Any, tile: Any, pointer: Any, stride: Any) -> Any:
    """``matrix + tile``, for an mr x nr matrix; with stride 0, the one row is added to each of the tile's."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        tile_, pointer_, stride_ = arguments
        for i, j, place in _places():
            other = _load(builder, pointer_, tile.element, builder.mul(stride_, WORD(i)), j)
            total = builder.fadd(other, builder.extract_value(tile_, place))
            tile_ = builder.insert_value(tile_, total, place)
        return tile_

    return tile(tile, pointer, types.int64), codegen


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
            _store(builder, value, pointer_, tile.element, builder.mul(stride_, WORD(i)), j)
        return context.get_dummy_value()

    return types.void(tile, pointer, types.int64), codegen


@intrinsic
def copy_row(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy nr elements."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        for j in range(host_tile().vectors):
            value = _load(builder, arguments[0], source.dtype, WORD(0), j)
            _store(builder, value, arguments[1], source.dtype, WORD(0), j)
        return context.get_dummy_value()

    return types.void(source, source), codegen


@intrinsic
def copy_transposed(typingctx: Any, source: Any, stride: Any, target: Any, target_stride: Any) -> Any:
    """Copy a square block as wide as a vector: element [q, k] of the source becomes [k, q] of the target.

    Stage s exchanges bit s of the row number with bit s of the lane number, for all elements at once; after
    log2(width) stages rows and lanes have changed places.
    """

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        source_, stride_, target_, target_stride_ = arguments
        element = source.dtype
        width = vector_type(element).count
        rows = [_load(builder, source_, element, builder.mul(stride_, WORD(q)), 0) for q in range(width)]
        step = 1
        while step < width:
            low = [q if not q & step else width + q - step for q in range(width)]
            high = [q + step if not q & step else width + q for q in range(width)]
            for q in range(width):
                if not q & step:
                    pair = rows[q], rows[q + step]
                    for place, lanes in (q, low), (q + step, high):
                        mask = ir.Constant(ir.VectorType(INDEX, width), lanes)
                        rows[place] = builder.shuffle_vector(*pair, mask)
            step *= 2
        for k in range(width):
            _store(builder, rows[k], target_, element, builder.mul(target_stride_, WORD(k)), 0)
        return context.get_dummy_value()

    return types.void(source, types.int64, source, types.int64), codegen
