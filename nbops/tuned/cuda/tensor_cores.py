"""float32 products on tensor cores: operands rounded to tf32, sums in float32.

tf32 has float32's exponent and 10 of its 23 bits behind the point. A warp's 32 threads together multiply
16 x 8 by 8 x 8 in one instruction, ``mma.sync.m16n8k8``, for which thread ``4 g + t`` (g < 8, t < 4) holds::

    a   rows g and g + 8, columns t and t + 4
    b   rows t and t + 4, column g
    sum rows g and g + 8, columns 2 t and 2 t + 1

`add_up` takes the place of `nbops.tuned.cuda.gemm_kernel`'s; everything around it is the same.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from nbops.targets.cuda.toolchain import cuda, intrinsic, types
from nbops.tuned.cuda.memory import load_shared

__all__ = ["LEAST_CAPABILITY", "PADDING", "add_step", "add_up", "prepare"]

LEAST_CAPABILITY = 8, 0
#: Threads t are then 8 banks apart, which the 8 threads g fill.
PADDING = 8

# What every kernel has its own of: see `nbops.tuned.cuda.gemm`.
THREAD_M, THREAD_N, PITCH_M, PITCH_N = 4, 16, 136, 136
index: Any = types.uint32

FLOAT, WORD = ir.FloatType(), ir.IntType(32)
MMA_M, MMA_N, MMA_K = 16, 8, 8  # of one instruction


@intrinsic
def to_tf32(typingctx: Any, value: Any) -> Any:
    """A float32 rounded to tf32, the nearest, ties away from zero."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(WORD, [FLOAT])
        rounded = builder.asm(kind, "cvt.rna.tf32.f32 $0, $1;", "=r,f", arguments, False)
        return builder.bitcast(rounded, FLOAT)

    return types.float32(types.float32), codegen


@intrinsic
def multiply_add(typingctx: Any, sums: Any, a: Any, b: Any) -> Any:
    """``sums + a @ b`` of a warp, as tuples of 4, 4 and 2 float32."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        def elements(value: Any, count: int) -> list[Any]:
            return [builder.extract_value(value, number) for number in range(count)]

        words = [builder.bitcast(x, WORD) for x in elements(arguments[1], 4) + elements(arguments[2], 2)]
        kind = ir.FunctionType(ir.LiteralStructType([FLOAT] * 4), [WORD] * 6 + [FLOAT] * 4)
        text = (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
        )
        constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
        result = builder.asm(kind, text, constraints, words + elements(arguments[0], 4), True)
        return context.make_tuple(builder, call.return_type, elements(result, 4))

    return sums(sums, a, b), codegen


def prepare(value: Any) -> Any:
    """What multiplies: the operand's elements, rounded before they are written to shared memory."""
    return to_tf32(value)


def add_step(sums: Any, left: Any, right: Any, row: int, column: int, p: int) -> None:
    """Multiply 8 rows of each slab into a warp's sums; a thread's elements begin at `row` and `column`."""
    b = cuda.local.array(THREAD_N, types.float32)
    for j in range(THREAD_N // 2):
        at = p * PITCH_N + j * MMA_N
        b[2 * j] = load_shared(right, column, at)
        b[2 * j + 1] = load_shared(right, column, at + 4 * PITCH_N)
    for i in range(THREAD_M // 2):
        at = p * PITCH_M + i * MMA_M
        below = at + 4 * PITCH_M
        upper = load_shared(left, row, at), load_shared(left, row, at + 8)
        lower = load_shared(left, row, below), load_shared(left, row, below + 8)
        for j in range(THREAD_N // 2):
            up, down = 2 * i * THREAD_N + 2 * j, (2 * i + 1) * THREAD_N + 2 * j
            total = (sums[up], sums[up + 1], sums[down], sums[down + 1])
            total = multiply_add(total, upper + lower, (b[2 * j], b[2 * j + 1]))
            sums[up], sums[up + 1], sums[down], sums[down + 1] = total


def add_up(sums: Any, left: Any, right: Any, half: int, row: int, column: int) -> None:
    """Multiply one half of shared memory, 16 rows of each slab, into a warp's sums."""
    g, t = index(cuda.threadIdx.x % 32 // 4), index(cuda.threadIdx.x % 4)
    step = index(half + t)
    # `column` is that of the sums, 2 t; in b it is g.
    row = index(step * index(PITCH_M) + row)
    column = index(step * index(PITCH_N) + column + g - t - t)
    add_step(sums, left, right, row, column, 0)
    add_step(sums, left, right, row, column, MMA_K)
