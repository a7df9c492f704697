"""The plans of the ops that are matrix products: matmul, the dense layer, and its weights' gradient."""

from __future__ import annotations

from nbops.targets.cuda.kernels import Call, Plan
from nbops.tuned.cuda.gemm import Names, product_plan

__all__ = ["dense_plan", "matmul_plan"]

MATMUL = Names("m", "n", "k", ("a", "a_m", "a_k"), ("b", "b_n", "b_k"), ("out", "out_m", "out_n"))
DENSE = Names(
    "m", "n", "k", ("x", "x_m", "x_k"), ("w", "w_n", "w_k"), ("out", "out_m", "out_n"), ("b", "b_n")
)


def matmul_plan(call: Call) -> Plan | None:
    """``a @ b``, in float32 and float64."""
    return product_plan(call, MATMUL)


def dense_plan(call: Call) -> Plan | None:
    """``activation(x @ w + b)``; bias and activation are applied before a sum is first written."""
    activation = call.kernel.name.removeprefix("dense_")
    return None if activation == "softmax" else product_plan(call, DENSE, activation)
