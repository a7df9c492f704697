"""Vectors of the width that the processor has, and the shape of the register tile that is made of them.

Everything in this package follows `host_tile`; no width is written down anywhere else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

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


@intrinsic
def multiply_add(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """``a * b + c``, rounded as the tile rounds it."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        a_, b_, c_ = arguments
        return fused_multiply_add(builder, a_, b_, c_, a.bitwidth)

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
def copy_transposed(typingctx: Any, source: Any, stride: Any, target: Any, target_stride: Any) -> Any:
    """Copy a square block as wide as a vector: element [q, k] of the source becomes [k, q] of the target.

    Stage s exchanges bit s of the row number with bit s of the lane number, for all elements at once; after
    log2(width) stages rows and lanes have changed places.
    """

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        source_, stride_, target_, target_stride_ = arguments
        element = source.dtype
        width = vector_type(element).count
        rows = [
            load_vector(builder, source_, element, builder.mul(stride_, WORD(q)), 0) for q in range(width)
        ]
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
            store_vector(builder, rows[k], target_, element, builder.mul(target_stride_, WORD(k)), 0)
        return context.get_dummy_value()

    return types.void(source, types.int64, source, types.int64), codegen
