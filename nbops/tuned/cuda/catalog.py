"""Every tuned kernel, each by a call that uses it: what the tests and the static bounds walk.

A kernel is compiled for a call: its dtype, how its operands lie, how many multiprocessors there are. So an
entry is such a call, and the kernels are those of its plan. A call is described, not made: nothing is
allocated, and nothing runs.

Examples
--------
>>> from nbops.tuned.cuda.catalog import CATALOG, launches
>>> launch = launches(CATALOG["matmul NN"], "float32", (9, 0))[0]
>>> launch.kernel.name, launch.block
('product_float32_128x128_p4r4_linear', (256, 1, 1))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from nbops import frame
from nbops.dtypes import COMPUTED
from nbops.op import registry
from nbops.targets.cuda.execution import plan_frame
from nbops.targets.cuda.kernels import Launch

__all__ = ["CATALOG", "Example", "launches", "naive"]

#: What device memory is aligned to at least.
ALIGNMENT = 256


@dataclass(frozen=True)
class Example:
    """A call.

    Parameters
    ----------
    op : str
        The op's name in `nbops.op.registry`.
    shapes : sequence of tuple of int
        Of the inputs.
    transposed : sequence of int, optional
        Inputs whose last two axes are exchanged in memory.
    dtypes : sequence of str, optional
    multiprocessors : int, optional
        Of the GPU; the plan depends on it.
    tf32 : bool, optional
        See `nbops.use`.
    strided : bool, optional
        Whether every operand is every other element of a larger array.
    """

    op: str
    shapes: Sequence[tuple[int, ...]]
    transposed: Sequence[int] = ()
    dtypes: Sequence[str] = ("float32", "float64")
    multiprocessors: int = 132
    tf32: bool = False
    strided: bool = False


LARGE = 4096, 4096

CATALOG = {
    "matmul NN": Example("matmul", (LARGE, LARGE)),
    "matmul NT": Example("matmul", (LARGE, LARGE), transposed=(1,)),
    "matmul TN": Example("matmul", (LARGE, LARGE), transposed=(0,)),
    "matmul TT": Example("matmul", (LARGE, LARGE), transposed=(0, 1)),
    "matmul of odd sizes": Example("matmul", ((1023, 1025), (1025, 1027))),
    "matmul, small": Example("matmul", ((512, 512), (512, 512))),
    "matmul, smaller": Example("matmul", ((128, 512), (512, 128))),
    "matmul in parts": Example("matmul", ((128, 65536), (65536, 128))),
    "matmul, tf32": Example("matmul", (LARGE, LARGE), dtypes=("float32",), tf32=True),
    "matmul, tf32, small": Example("matmul", ((512, 512), (512, 512)), dtypes=("float32",), tf32=True),
    "vecdot": Example("vecdot", ((2**26,), (2**26,))),
    "vecdot of a batch": Example("vecdot", ((4096, 512), (4096, 512))),
    "matvec": Example("matvec", (LARGE, (4096,))),
    "matvec of long rows": Example("matvec", ((100, 100_000), (100_000,))),
    "matvec, transposed": Example("matvec", (LARGE, (4096,)), transposed=(0,)),
    "vecmat": Example("vecmat", ((4096,), LARGE)),
    "vecmat, transposed": Example("vecmat", ((4096,), LARGE), transposed=(1,)),
    "dense, linear": Example("dense_linear", ((4096, 784), (784, 512), (512,))),
    "dense, relu": Example("dense_relu", ((4096, 784), (784, 512), (512,))),
    "dense, sigmoid": Example("dense_sigmoid", ((4096, 784), (784, 512), (512,))),
    "dense, tanh": Example("dense_tanh", ((4096, 784), (784, 512), (512,))),
    "dense, softmax": Example("dense_softmax", ((4096, 512), (512, 10), (10,))),
    "dense weight gradient": Example("dense_weight_gradient", ((4096, 784), (4096, 512))),
    "dense weight gradient in parts": Example("dense_weight_gradient", ((5000, 512), (5000, 10))),
    "dense in parts": Example("dense_relu", ((64, 8192), (8192, 128), (128,))),
    "gemm": Example("gemm", (LARGE, LARGE, LARGE, ())),
    "gemm in parts": Example("gemm", ((512, 5000), (5000, 512), (512, 512), ()), transposed=(0,)),
    "add": Example("add", (LARGE, LARGE), dtypes=("float32", "float64", "int8")),
    "add a bias": Example("add", (LARGE, (4096,))),
    "relu": Example("relu", (LARGE,)),
    "relu_gradient": Example("relu_gradient", (LARGE, LARGE)),
    "divide": Example("divide", (LARGE, LARGE)),
    "exp": Example("exp", (LARGE,)),
    "tanh": Example("tanh", (LARGE,)),
    "softmax of 10": Example("softmax", ((4096, 10),)),
    "softmax of 512": Example("softmax", ((4096, 512),)),
    "softmax of 4096": Example("softmax", (LARGE,)),
    "softmax of 4095": Example("softmax", ((4096, 4095),)),
    "softmax of 50000": Example("softmax", ((64, 50000),)),
    "log_softmax": Example("log_softmax", (LARGE,)),
    "softmax's gradient": Example("softmax_gradient", (LARGE, LARGE)),
    "softmax's gradient, 10": Example("softmax_gradient", ((4096, 10), (4096, 10))),
    "softmax's gradient, 50000": Example("softmax_gradient", ((64, 50000), (64, 50000))),
    "log_softmax's gradient": Example("log_softmax_gradient", (LARGE, LARGE)),
    "cross-entropy": Example("crossentropy_from_logits", ((4096,), LARGE)),
    "cross-entropy of 50000": Example("crossentropy_from_logits", ((64,), (64, 50000))),
    "cross-entropy's gradient": Example("crossentropy_from_logits_gradient", ((4096,), LARGE, (4096,))),
    "cross-entropy and gradient": Example("crossentropy_and_gradient", ((4096,), LARGE, (4096,))),
    "cross-entropy and gradient, 50000": Example("crossentropy_and_gradient", ((64,), (64, 50000), (64,))),
    "cross-entropy of probabilities": Example("crossentropy_from_probabilities", ((4096,), LARGE)),
    "its gradient": Example("crossentropy_from_probabilities_gradient", ((4096,), LARGE, (4096,))),
    "sum of rows of 4096": Example("sum_row", (LARGE,)),
    "sum of everything": Example("sum_row", ((1 << 24,),)),
    "sum over 512 rows": Example("sum_rows", ((512, 4096),)),
    "sum over 4096 rows": Example("sum_rows", (LARGE,)),
}


def naive(name: str, strided: bool = False) -> Example:
    """A call of an op with sizes that don't matter, in every dtype that its own loop computes in."""
    op = registry[name]
    dtypes = [d for d in COMPUTED if op.types.integers == "keep" or np.dtype(d).kind == "f"]
    return Example(
        name, [(8, *(64 for _ in axes)) for axes in op.signature.inputs], (), dtypes, strided=strided
    )


def launches(
    example: Example, dtype: str, compute_capability: tuple[int, int] = (9, 0), as_written: bool = False
) -> Sequence[Launch]:
    """The launches that a call is made of.

    Parameters
    ----------
    example : Example
    dtype : str
        One of the example's.
    compute_capability : tuple of 2 int, optional
    as_written : bool
        Run the op's own loop, not a tuned kernel.
    """
    op = registry[example.op]
    kernel, signature = op.kernel.as_written() if as_written else op.kernel, op.signature
    operands = len(signature.operands)
    dtypes = tuple(np.dtype(dtype if name == "T" else name) for name in (*op.types.inputs, *op.types.outputs))
    geometry = frame.new_geometry(operands)
    for row, own in zip(geometry, dtypes, strict=True):
        row[frame.POINTER], row[frame.ITEMSIZE] = ALIGNMENT, own.itemsize
    for row, shape in zip(geometry, example.shapes, strict=False):
        frame.set_shape(row, shape)
    error = frame.infer(signature.table, geometry)
    if error:
        raise ValueError(f"{example.op}: shapes {example.shapes} don't match")
    for operand, row in enumerate(geometry):
        frame.set_contiguous(geometry, operand)
        if operand in example.transposed:
            shape = frame.get_shape(row)
            last = frame.STRIDES + len(shape) - 1
            itemsize = dtypes[operand].itemsize
            row[last - 1], row[last] = itemsize, shape[-2] * itemsize
        if example.strided:
            row[frame.STRIDES : frame.STRIDES + len(frame.get_shape(row))] *= 2
    table = frame.new_frame(operands)
    frame.build(signature.table, geometry, table)
    gpu: Any = SimpleNamespace(compute_capability=compute_capability, multiprocessors=example.multiprocessors)
    plan, _ = plan_frame(kernel, table, dtypes, gpu, example.tf32)
    return plan.launches
