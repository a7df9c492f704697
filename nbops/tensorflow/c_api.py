"""TensorFlow's C kernel API, reached from Python, and called from compiled code by address.

The functions are exported by ``libtensorflow_framework`` and declared in the headers ``tensorflow/c/ops.h``,
``kernels.h`` and ``tf_tensor.h`` that the wheel ships. A header comment calls the API alpha, so every symbol
is probed once, and where one is missing nbops falls back to ``tf.numpy_function``.

Compiled code gets the addresses through a table in memory (`address_table`), not as constants: it can then be
cached on disk.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["INDEX", "address_table", "function", "missing_symbols"]

INVALID_ARGUMENT, RESOURCE_EXHAUSTED, INTERNAL = 3, 8, 13  # TF_Code

#: What compiled code calls, in the order of the address table.
CALLED_BY_KERNELS = (
    "TF_NewStatus",
    "TF_DeleteStatus",
    "TF_GetCode",
    "TF_SetStatus",
    "TF_GetInput",
    "TF_AllocateOutput",
    "TF_AllocateTemp",
    "TF_TensorData",
    "TF_TensorType",
    "TF_NumDims",
    "TF_Dim",
    "TF_DeleteTensor",
    "TF_OpKernelContext_Failure",
    "TF_NewShapeHandle",
    "TF_DeleteShapeHandle",
    "TF_ShapeInferenceContextGetInput",
    "TF_ShapeInferenceContextRankKnown",
    "TF_ShapeInferenceContextRank",
    "TF_ShapeInferenceContextDim",
    "TF_NewDimensionHandle",
    "TF_DeleteDimensionHandle",
    "TF_DimensionHandleValueKnown",
    "TF_DimensionHandleValue",
    "TF_ShapeInferenceContextScalar",
    "TF_ShapeInferenceContextVectorFromSize",
    "TF_ShapeInferenceContextConcatenateShapes",
    "TF_ShapeInferenceContextSetOutput",
    "TF_ShapeInferenceContextSetUnknownShape",
)
CALLED_BY_PYTHON = (
    "TF_Message",
    "TF_NewOpDefinitionBuilder",
    "TF_OpDefinitionBuilderAddAttr",
    "TF_OpDefinitionBuilderAddInput",
    "TF_OpDefinitionBuilderAddOutput",
    "TF_OpDefinitionBuilderSetShapeInferenceFunction",
    "TF_RegisterOpDefinition",
    "TF_NewKernelBuilder",
    "TF_RegisterKernelBuilder",
)
INDEX = {name: index for index, name in enumerate(CALLED_BY_KERNELS)}


@functools.cache
def _library() -> ctypes.CDLL | None:
    folder = Path(tf.sysconfig.get_lib())
    for name in ("libtensorflow_framework.so.2", "libtensorflow_framework.2.dylib"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    return None


@functools.cache
def missing_symbols() -> tuple[str, ...]:
    """The symbols that this TensorFlow does not export; all of them where the library isn't found."""
    library = _library()
    names = CALLED_BY_KERNELS + CALLED_BY_PYTHON
    if library is None or sys.platform == "win32":
        return names
    return tuple(name for name in names if not hasattr(library, name))


@functools.cache
def function(name: str, result: Any, *arguments: Any) -> Any:
    """A C function with its types declared, for calls from Python."""
    found = getattr(_library(), name)
    found.restype, found.argtypes = result, list(arguments)
    return found


@functools.cache
def _addresses() -> np.ndarray:
    library = _library()
    return np.array(
        [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in CALLED_BY_KERNELS],
        np.int64,
    )


def address_table() -> int:
    """Where the table of the kernels' functions lies."""
    return int(_addresses().ctypes.data)
