"""The square root as one instruction for a whole vector.

Numba compiles ``np.sqrt`` as a call of the C library, which LLVM does not always see through, and then a loop
with such a call stays scalar. IEEE 754 asks for a correctly rounded root, so the bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nbops.tuned.twins import compiled_as

__all__ = ["sqrt"]


@intrinsic
def square_root(typingctx: Any, x: Any) -> Any:
    """LLVM's own square root of a float32 or float64."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        kind = arguments[0].type
        signature = ir.FunctionType(kind, [kind])
        root = cgutils.get_or_insert_function(builder.module, signature, f"llvm.sqrt.f{x.bitwidth}")
        return builder.call(root, arguments)

    return x(x), codegen


def sqrt_of_float(x: Any) -> Any:
    """√x for one number."""
    return square_root(x)


@compiled_as({types.float32: sqrt_of_float, types.float64: sqrt_of_float})
def sqrt(x: Any) -> Any:
    """The square root of x; NaN below 0."""
    return np.sqrt(x)
