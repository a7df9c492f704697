"""Vectors of the width that the processor has, and the shape of the register tile that is made of them.

Everything in this package follows `host_tile`; no width is written down anywhere else.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

from nbops.tuned.pointers import WORD, advance

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

    def rows(self, vectors: int) -> int:
        """Rows of a tile of so many vectors: twice mr in half the width, to have enough additions under way.

        Not with NEON, where LLVM would keep elements of A in memory; see `tile_shape`.
        """
        return 2 * self.mr if 2 * vectors <= self.vectors and self.vector_bytes > 16 else self.mr


def tile_shape(triple: str, features: str) -> TileShape:
    """The tile for a processor, by LLVM's name of the target and its list of features."""
    has = set(features.split(","))
    fused = "+fma" in has
    if "+avx512f" in has:  # 32 registers: 24 accumulators, 4 of B, 1 of A; 10 loads for 24 multiply-adds
        return TileShape(64, 6, 4, True)
    if "+avx" in has and fused:  # 16 registers: 12 accumulators, 3 of B, 1 of A
        return TileShape(32, 4, 3, True)
    if "+avx" in has:  # an unfused product needs registers of its own
        return TileShape(32, 4, 2, False)
    if triple.startswith(("aarch64", "arm64")):
        # 32 registers. LLVM loads elements of A well ahead: with 8 rows, 13 of them went to memory and back.
        return TileShape(16, 6, 3, True)
    return TileShape(16, 4, 2, fused)


@functools.cache
def host_tile() -> TileShape:
    """The tile for the processor that Numba compiles for (which ``NUMBA_CPU_NAME`` may override)."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return tile_shape(triple, features)


def vector_type(element: types.Float) -> ir.VectorType:
    scalar = ir.FloatType() if element.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(scalar, host_tile().vector_bytes * 8 // element.bitwidth)


def vector_pointer(builder: Any, pointer: Any, element: types.Float, offset: Any, index: int) -> Any:
    """Where vector number `index` of a row starts, when the row is `offset` bytes after `pointer`."""
    offset = builder.add(offset, WORD(index * host_tile().vector_bytes))
    return builder.bitcast(advance(builder, pointer, offset), vector_type(element).as_pointer())


def load_vector(builder: Any, pointer: Any, element: types.Float, offset: Any, index: int) -> Any:
    return builder.load(vector_pointer(builder, pointer, element, offset, index), align=1)


def store_vector(
    builder: Any, value: Any, pointer: Any, element: types.Float, offset: Any, index: int
) -> None:
    builder.store(value, vector_pointer(builder, pointer, element, offset, index), align=1)


def broadcast(builder: Any, value: Any, kind: ir.VectorType) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, INDEX(0))
    lanes = ir.Constant(ir.VectorType(INDEX, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, lanes)


def fused_multiply_add(builder: Any, a: Any, b: Any, c: Any, bits: int) -> Any:
    """``a * b + c``: in one rounding where the processor has it, otherwise in two, but never in software."""
    if not host_tile().fused:
        return builder.fadd(builder.fmul(a, b), c)
    lanes = f"v{a.type.count}" if isinstance(a.type, ir.VectorType) else ""
    signature = ir.FunctionType(a.type, [a.type] * 3)
    fma = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fma.{lanes}f{bits}")
    return builder.call(fma, [a, b, c])


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


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of one vector register of `element`."""

    def __init__(self, element: types.Float) -> None:
        self.element = element
        super().__init__(name=f"Vector({element}, {host_tile().vector_bytes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, vector_type(kind.element))


def _part(builder: Any, pointer: Any, offset: Any, count: Any, element: types.Float) -> tuple[Any, Any, str]:
    """The address, the mask and LLVM's name of a vector's first `count` elements."""
    kind = vector_type(element)
    places = ir.Constant(ir.VectorType(WORD, kind.count), list(range(kind.count)))
    mask = builder.icmp_signed("<", places, broadcast(builder, count, places.type))
    address = vector_pointer(builder, pointer, element, offset, 0)
    return address, mask, f"v{kind.count}f{element.bitwidth}.p0"


def _load_part(builder: Any, pointer: Any, offset: Any, count: Any, element: types.Float) -> Any:
    address, mask, name = _part(builder, pointer, offset, count, element)
    kind = vector_type(element)
    signature = ir.FunctionType(kind, [address.type, INDEX, mask.type, kind])
    load = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.load.{name}")
    return builder.call(load, [address, INDEX(1), mask, ir.Constant(kind, None)])


@intrinsic
def get_vector(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The vector `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return load_vector(builder, arguments[0], pointer.dtype, arguments[1], 0)

    return Vector(pointer.dtype)(pointer, types.int64), codegen


@intrinsic
def put_vector(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Write a vector `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        store_vector(builder, arguments[2], arguments[0], pointer.dtype, arguments[1], 0)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, value), codegen


@intrinsic
def get_part(typingctx: Any, pointer: Any, offset: Any, count: Any) -> Any:
    """A vector whose first `count` elements are read, and no others; those are 0."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        pointer_, offset_, count_ = arguments
        return _load_part(builder, pointer_, offset_, count_, pointer.dtype)

    return Vector(pointer.dtype)(pointer, types.int64, types.int64), codegen


@intrinsic
def put_part(typingctx: Any, pointer: Any, offset: Any, count: Any, value: Any) -> Any:
    """Write the first `count` elements of a vector, and no others."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        pointer_, offset_, count_, value_ = arguments
        address, mask, name = _part(builder, pointer_, offset_, count_, pointer.dtype)
        kind = vector_type(pointer.dtype)
        signature = ir.FunctionType(ir.VoidType(), [kind, address.type, INDEX, mask.type])
        store = cgutils.get_or_insert_function(builder.module, signature, f"llvm.masked.store.{name}")
        builder.call(store, [value_, address, INDEX(1), mask])
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64, value), codegen


@intrinsic
def repeat(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """A vector whose elements are all the one `offset` bytes after a pointer."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        value = builder.load(advance(builder, *arguments), align=1)
        return broadcast(builder, value, vector_type(pointer.dtype))

    return Vector(pointer.dtype)(pointer, types.int64), codegen


@intrinsic
def add_vectors(typingctx: Any, a: Any, b: Any) -> Any:
    """``a + b``."""
    return a(a, a), lambda context, builder, call, arguments: builder.fadd(*arguments)


@intrinsic
def scale_vector(typingctx: Any, pointer: Any, vector: Any) -> Any:
    """``alpha * v`` for each element v, where `pointer` is that of alpha."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        alpha = broadcast(builder, builder.load(arguments[0], align=1), arguments[1].type)
        return builder.fmul(alpha, arguments[1])

    return vector(pointer, vector), codegen


@intrinsic
def rectify_vector(typingctx: Any, vector: Any) -> Any:
    """``0 if v < 0 else v`` for each element v: keeps NaN, because NaN < 0 is false."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        zero = ir.Constant(arguments[0].type, None)
        return builder.select(builder.fcmp_ordered("<", arguments[0], zero), zero, arguments[0])

    return vector(vector), codegen


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c`` of numbers or of vectors, rounded as the tile rounds it."""
    element = a.element if isinstance(a, Vector) else a

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        a_, b_, c_ = arguments
        return fused_multiply_add(builder, a_, b_, c_, element.bitwidth)

    return a(a, a, a), codegen


@intrinsic
def copy_row(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy nr elements."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        for j in range(host_tile().vectors):
            value = load_vector(builder, arguments[0], source.dtype, WORD(0), j)
            store_vector(builder, value, arguments[1], source.dtype, WORD(0), j)
        return context.get_dummy_value()

    return types.void(source, source), codegen


@intrinsic
def copy_column(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy mr elements."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        kind = ir.VectorType(vector_type(source.dtype).element, host_tile().mr).as_pointer()
        value = builder.load(builder.bitcast(arguments[0], kind), align=1)
        builder.store(value, builder.bitcast(arguments[1], kind), align=1)
        return context.get_dummy_value()

    return types.void(source, source), codegen


@intrinsic
def copy_transposed(
    typingctx: Any, source: Any, stride: Any, target: Any, target_stride: Any, count: Any
) -> Any:
    """Copy as many rows as a vector has lanes, `count` elements of each: [q, k] becomes [k, q] of the target.

    Stage s exchanges bit s of the row number with bit s of the lane number, for all elements at once; after
    log2(width) stages rows and lanes have changed places.
    """

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        source_, stride_, target_, target_stride_, count_ = arguments
        element = source.dtype
        width = vector_type(element).count
        starts = [builder.mul(stride_, WORD(q)) for q in range(width)]

        def exchange(rows: list[Any]) -> list[Any]:
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
            return rows

        def put(row: Any, k: int) -> None:
            store_vector(builder, row, target_, element, builder.mul(target_stride_, WORD(k)), 0)

        with builder.if_else(builder.icmp_signed("==", count_, WORD(width))) as (all_of_them, some):
            with all_of_them:
                for k, row in enumerate(
                    exchange([load_vector(builder, source_, element, s, 0) for s in starts])
                ):
                    put(row, k)
            with some:
                for k, row in enumerate(
                    exchange([_load_part(builder, source_, s, count_, element) for s in starts])
                ):
                    with builder.if_then(builder.icmp_signed("<", WORD(k), count_)):
                        put(row, k)
        return context.get_dummy_value()

    return types.void(source, types.int64, source, types.int64, types.int64), codegen
