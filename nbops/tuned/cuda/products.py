"""The plans of the ops that are matrix products: matmul, gemm, the dense layer, and its weights' gradient.

A plan may be made of another op's launches, which then get this op's words by other names: the softmax layer
ends with softmax's kernel on its own result, and the bias's gradient is the sum of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nbops.targets.cuda.kernels import Call, Plan
from nbops.tuned.cuda import rows, sums
from nbops.tuned.cuda.gemm import Names, product_plan

__all__ = ["dense_plan", "gemm_plan", "matmul_plan", "weight_gradient_plan"]

OUT = "out", "out_m", "out_n"
MATMUL = Names("m", "n", "k", ("a", "a_m", "a_k"), ("b", "b_n", "b_k"), OUT)
GEMM = replace(MATMUL, addend=("c", "c_m", "c_n"), factor=("alpha",))
DENSE = Names("m", "n", "k", ("x", "x_m", "x_k"), ("w", "w_n", "w_k"), OUT, ("b", "b_n"))
WEIGHT_GRADIENT = Names("k", "n", "m", ("x", "x_k", "x_m"), ("dz", "dz_n", "dz_m"), ("dw", "dw_k", "dw_n"))

#: The words of softmax, on the rows of a layer's result; those of sum_rows, on the layer's gradient.
SOFTMAX_OF_OUT = {
    "items": "m",
    "n": "n",
    "x": "out",
    "x_batch0": "out_m",
    "out": "out",
    "out_batch0": "out_m",
}
SUM_OF_DZ = {
    "items": "items",
    "m": "m",
    "n": "n",
    "x": "dz",
    "x_batch0": "dz_batch0",
    "out": "db",
    "out_batch0": "db_batch0",
    "workspace": "workspace",
}


def matmul_plan(call: Call) -> Plan | None:
    """``a @ b``, in float32 and float64."""
    return product_plan(call, MATMUL)


def gemm_plan(call: Call) -> Plan | None:
    """``c + alpha a @ b``: what adds up the parts of a sum, one or several, scales it and adds it to `c`."""
    return product_plan(call, GEMM)


def dense_plan(call: Call) -> Plan | None:
    """``activation(x @ w + b)``; bias and activation are applied before a sum is first written."""
    activation = call.kernel.name.removeprefix("dense_")
    if activation != "softmax":
        return product_plan(call, DENSE, activation)
    if call["items"] > 1 or not _contiguous(call, "out_n", 1):
        return None
    by_row = call.renamed(SOFTMAX_OF_OUT, (call.dtypes[0], call.dtypes[-1]), batch_rank=1)
    return _joined(product_plan(call, DENSE), rows.softmax_plan(by_row), SOFTMAX_OF_OUT)


def weight_gradient_plan(call: Call) -> Plan | None:
    """``dw = x.T @ dz`` and ``db = Σ dz``."""
    n = call["n"]
    contiguous = _contiguous(call, "dz_n", 1) and _contiguous(call, "db_n", 1)
    if call.batch_rank > 1 or not contiguous or not (call["m"] == 1 or _contiguous(call, "dz_m", n)):
        return None
    bias = call.renamed(SUM_OF_DZ, (call.dtypes[1], call.dtypes[-1]), call.batch_rank)
    return _joined(product_plan(call, WEIGHT_GRADIENT), sums.rows_plan(bias), SUM_OF_DZ)


def _contiguous(call: Call, stride: str, elements: int) -> bool:
    """Whether an operand's stride is that of so many elements, or the axis has one element only."""
    return call[stride] == elements * call.dtypes[0].itemsize


def _joined(first: Plan | None, then: Plan | None, renamed: Mapping[str, str]) -> Plan | None:
    """One plan after the other, which share scratch memory; None where either has to be a loop."""
    if first is None or then is None:
        return None
    launches = [replace(launch, renamed=renamed) for launch in then.launches]
    return Plan([*first.launches, *launches], max(first.workspace_bytes, then.workspace_bytes))
