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
from nbops.op import registry
from nbops.targets.cuda.execution import plan_frame
from nbops.targets.cuda.kernels import Launch

__all__ = ["CATALOG", "Example", "launches"]

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
    """

    op: str
    shapes: Sequence[tuple[int, ...]]
    transposed: Sequence[int] = ()
    dtypes: Sequence[str] = ("float32", "float64")
    multiprocessors: int = 132
    tf32: bool = False


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
}


def launches(example: Example, dtype: str, compute_capability: tuple[int, int] = (9, 0)) -> Sequence[Launch]:
    """The launches that a call is made of.

    Parameters
    ----------
    example : Example
    dtype : str
        One of the example's.
    compute_capability : tuple of 2 int, optional
    """
    kernel = registry[example.op].kernel
    signature = kernel.signature
    operands = len(signature.operands)
    itemsize = np.dtype(dtype).itemsize
    geometry = frame.new_geometry(operands)
    for row in geometry:
        row[frame.POINTER], row[frame.ITEMSIZE] = ALIGNMENT, itemsize
    for row, shape in zip(geometry, example.shapes, strict=False):
        frame.set_shape(row, shape)
    error = frame.infer_shapes(signature.table, geometry)
    if error:
        raise ValueError(f"{example.op}: shapes {example.shapes} don't match")
    for operand, row in enumerate(geometry):
        frame.set_contiguous(geometry, operand)
        if operand in example.transposed:
            shape = frame.get_shape(row)
            last = frame.STRIDES + len(shape) - 1
            row[last - 1], row[last] = itemsize, shape[-2] * itemsize
    table = frame.new_frame(operands)
    frame.build_frame(signature.table, geometry, table)
    dtypes = (np.dtype(dtype),) * operands
    gpu: Any = SimpleNamespace(compute_capability=compute_capability, multiprocessors=example.multiprocessors)
    plan, _ = plan_frame(kernel, table, dtypes, gpu, example.tf32)
    return plan.launches
