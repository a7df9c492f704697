"""nbops runs a plain loop on every core, chooses how, and trains a TensorFlow model through it.

>>> import numpy as np
>>> from nbops import matmul, relu
>>> relu(matmul(np.array([[1.0, -2.0]]), np.eye(2)))
array([[1., 0.]])

The same names take NumPy arrays and TensorFlow tensors. `op` and `elementwise` make new ones. Importing nbops
loads neither TensorFlow nor a CUDA driver.
"""

from nbops import _importing
from nbops.calibration import calibrate
from nbops.dispatch import Decision, last_decision, use
from nbops.explain import explain
from nbops.kernel import lanes, prange
from nbops.ladder import ladder
from nbops.op import Op, elementwise, op
from nbops.ops.dense import dense
from nbops.ops.elementwise import (
    add,
    add_relu,
    divide,
    exp,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    relu,
    sigmoid,
    sqrt,
    subtract,
    tanh,
)
from nbops.ops.gemm import gemm
from nbops.ops.losses import sparse_categorical_crossentropy
from nbops.ops.products import dot, matmul, matvec, vecdot, vecmat
from nbops.ops.reductions import mean, sum
from nbops.ops.shapes import broadcast_to, expand_dims, matrix_transpose, reshape, transpose
from nbops.ops.softmax import log_softmax, softmax
from nbops.warming import warmup

__version__ = "0.1.0"

__all__ = [
    "Decision",
    "Op",
    "add",
    "add_relu",
    "broadcast_to",
    "calibrate",
    "dense",
    "divide",
    "dot",
    "elementwise",
    "exp",
    "expand_dims",
    "explain",
    "gemm",
    "ladder",
    "lanes",
    "last_decision",
    "log",
    "log_softmax",
    "matmul",
    "matrix_transpose",
    "matvec",
    "maximum",
    "mean",
    "minimum",
    "multiply",
    "negative",
    "op",
    "prange",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "sparse_categorical_crossentropy",
    "sqrt",
    "subtract",
    "sum",
    "tanh",
    "transpose",
    "use",
    "vecdot",
    "vecmat",
    "warmup",
]

_importing.done()
