"""From an `Op` to a TensorFlow op: its definition, its kernel, its Python wrapper and its gradient.

The op's name in a graph is ``Nbops`` and its own in camel case, `matmul` is ``NbopsMatmul``. An op whose
inputs are all matrices is registered in every combination of transposed inputs too (``NbopsMatmulTN`` reads
its first matrix transposed), so that gradients need no copy of a transposed tensor.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import tensorflow as tf
from llvmlite import ir
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.framework import _pywrap_python_op_gen as op_gen
from tensorflow.python.framework import op_def_registry

from nbops import frame
from nbops.execution import item_nanoseconds
from nbops.labels import WrongLabelError
from nbops.op import Op
from nbops.targets import cpu
from nbops.tensorflow import gpu, native
from nbops.tensorflow.c_api import INTERNAL, INVALID_ARGUMENT, address_table, function
from nbops.tensorflow.registered import Registered, address_of, dtypes_of, set_status, variants

__all__ = ["Registered", "register", "registered_name"]

FLOATS = (tf.float32, tf.float64)
NUMBERS = (tf.float32, tf.float64, tf.int32, tf.int64)

_pointer, _int, _text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p

_registering = threading.RLock()


def allowed_dtypes(op: Op) -> tuple[tf.DType, ...]:
    """What T can be: an op that promotes integers on arrays takes floating point only, as TensorFlow's do."""
    return NUMBERS if op.types.integers == "keep" else FLOATS


def registered_name(op: Op, swapped: tuple[bool, ...]) -> str:
    """The op's name in a graph."""
    words = re.findall("[A-Za-z0-9]+", op.name)  # what TensorFlow takes in a name
    base = "Nbops" + "".join(word[0].upper() + word[1:] for word in words)
    return base + ("".join("NT"[swap] for swap in swapped) if any(swapped) else "")


def variants_of(op: Op) -> list[tuple[bool, ...]]:
    """Which inputs each registered variant reads transposed.

    Every choice of the matrices, where all inputs are matrices or numbers; otherwise none.
    """
    ranks = [len(names) for names in op.signature.inputs]
    if set(ranks) <= {0, 2}:
        return list(itertools.product(*((False, True) if rank == 2 else (False,) for rank in ranks)))
    return [(False,) * op.n_inputs]


def register(ops: list[Op]) -> dict[tuple[Op, tuple[bool, ...]], Registered]:
    """Register ops and all their variants with TensorFlow.

    Returns
    -------
    dict
        By the op and the inputs that are read transposed.
    """
    with _registering:
        found = [_define(op, swapped) for op in ops for swapped in variants_of(op)]
        _make_wrappers(found)
        for entry in found:
            tf.RegisterGradient(entry.name)(_gradient(entry))
    return {(entry.op, entry.swapped): entry for entry in found}


# ---- definition and kernel --------------------------------------------------------------------------


def _define(op: Op, swapped: tuple[bool, ...]) -> Registered:
    name = registered_name(op, swapped)
    serial = 2
    while op_def_registry.get(name) is not None:  # a notebook cell that is run again
        name = f"{registered_name(op, swapped)}V{serial}"
        serial += 1
    entry = Registered(op, swapped, name)
    entry.descriptor = _descriptor(entry)
    variants.append(entry)
    create, infer = _trampolines(entry)
    status = function("TF_NewStatus", _pointer)()
    builder = function("TF_NewOpDefinitionBuilder", _pointer, _text)(name.encode())
    add = {
        part: function(f"TF_OpDefinitionBuilderAdd{part}", None, _pointer, _text)
        for part in ("Attr", "Input", "Output")
    }
    names = ", ".join(_ATTRIBUTE_NAMES.get(dtype, dtype.name) for dtype in allowed_dtypes(op))
    if "T" in op.types.inputs:
        add["Attr"](builder, f"T: {{{names}}}".encode())
    # Numbered, not named: TensorFlow aborts the process over a name that it does not take.
    for index, kind in enumerate(op.types.inputs):
        add["Input"](builder, f"x{index}: {_spell(kind)}".encode())
    for index, kind in enumerate(op.types.outputs):
        add["Output"](builder, f"out{index}: {_spell(kind)}".encode())
    function("TF_OpDefinitionBuilderSetShapeInferenceFunction", None, _pointer, _pointer)(builder, infer)
    function("TF_RegisterOpDefinition", None, _pointer, _pointer)(builder, status)
    _raise_on_error(status, name)
    new_kernel = function("TF_NewKernelBuilder", _pointer, _text, _text, _pointer, _pointer, _pointer)
    for device, compute in _kernels().items():
        kernel = new_kernel(name.encode(), device.encode(), create, compute().address, None)
        # takes ownership of the builder
        function("TF_RegisterKernelBuilder", None, _text, _pointer, _pointer)(name.encode(), kernel, status)
        _raise_on_error(status, name)
    function("TF_DeleteStatus", None, _pointer)(status)
    return entry


def _kernels() -> dict[str, Callable[[], Any]]:
    """What makes the compute function for each of TensorFlow's devices."""
    kernels: dict[str, Callable[[], Any]] = {"CPU": native.compute_native}
    if gpu.available():
        kernels["GPU"] = gpu.compute_native
    return kernels


def _spell(kind: str) -> str:
    """An operand's type as an op definition writes it."""
    return kind if kind == "T" else _ATTRIBUTE_NAMES.get(tf.as_dtype(kind), kind)


_ATTRIBUTE_NAMES = {tf.float32: "float", tf.float64: "double"}


def _raise_on_error(status: Any, name: str) -> None:
    if function("TF_GetCode", _int, _pointer)(status):
        message = function("TF_Message", _text, _pointer)(status).decode()
        raise RuntimeError(f"TensorFlow refused to register {name}: {message}")


def _descriptor(entry: Registered) -> np.ndarray:
    op = entry.op
    table = op.signature.table
    layouts = (1 << op.n_inputs) + 1
    entry.slots = np.zeros(2 * native.SLOT_TYPES * layouts, np.int64)
    message = np.frombuffer(
        f"{op.name}: the operands' shapes do not fit the signature {op.signature}\0".encode(), np.uint8
    )
    kinds = op.types.inputs + op.types.outputs
    words = np.zeros(native.OPERANDS + native.OPERAND_WIDTH * len(kinds), np.int64)
    words[native.API] = address_table()
    words[native.STATE] = cpu.state_address
    words[native.TABLE] = table.ctypes.data
    words[native.SLOTS] = entry.slots.ctypes.data
    words[native.RUN] = cpu.run_native().address
    words[native.REQUEST] = address_of(_request)
    words[native.FAIL] = address_of(_fail)
    words[native.PICOSECONDS] = max(int(op.nanoseconds * 1000), 1)
    words[native.ITEM_NANOSECONDS] = item_nanoseconds(op.signature)
    words[native.GRAIN] = 64 if op.signature.is_elementwise else 1
    words[native.MESSAGE] = message.ctypes.data
    words[native.LEADER] = op.types.inputs.index("T") if "T" in op.types.inputs else 0
    words[native.NUMBER] = len(variants)
    labels = op.labels
    words[native.LABELS], words[native.ROWS] = (
        (native.NO_LABELS, 0) if labels is None else (labels.operand, labels.rows)
    )
    for index, kind in enumerate(kinds):
        row = native.OPERANDS + native.OPERAND_WIDTH * index
        words[row + native.TYPE] = native.GENERIC if kind == "T" else tf.as_dtype(kind).as_datatype_enum
        words[row + native.SWAPPED] = index < op.n_inputs and entry.swapped[index]
    entry.keep += [table, message]
    if gpu.available():
        entry.keep.append(gpu.describe(words))
    return words


def _trampolines(entry: Registered) -> tuple[int, int]:
    """Two small machine functions that add the descriptor: TensorFlow passes no user data.

    ``create(construction) -> descriptor`` and ``infer(context, status)``.
    """
    word = ir.IntType(64)
    descriptor = word(int(entry.descriptor.ctypes.data))
    module = ir.Module(entry.name)
    create = ir.Function(module, ir.FunctionType(word, [word]), f"create_{entry.name}")
    ir.IRBuilder(create.append_basic_block()).ret(descriptor)
    infer = ir.Function(module, ir.FunctionType(ir.VoidType(), [word, word]), f"infer_{entry.name}")
    builder = ir.IRBuilder(infer.append_basic_block())
    target = ir.FunctionType(ir.VoidType(), [word] * 3).as_pointer()
    address = word(native.infer_native().address)
    builder.call(builder.inttoptr(address, target), [descriptor, *infer.args])
    builder.ret_void()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=1, jit=True)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()
    entry.keep.append(engine)
    return (
        engine.get_function_address(create.name),
        engine.get_function_address(infer.name),
    )


# ---- what compiled code asks Python for --------------------------------------------------------------


@ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 5)
def _request(number: int, dtype: int, layout: int, parallel: int, status: int) -> int:
    """Compile a task and put its address into its slot."""
    entry = variants[number]
    try:
        op = entry.op
        address = op.kernel.task(dtypes_of(op, dtype), layout, parallel=bool(parallel))
        layouts = (1 << op.n_inputs) + 1
        column = layouts - 1 if layout == frame.GENERAL else layout
        slot = 2 * (dtype * layouts + column) + parallel
        entry.slots[slot] = address or native.NO_PARALLEL_TASK
    except Exception:
        set_status(status, INTERNAL, f"{entry.op.name}: compiling failed\n{traceback.format_exc()}")
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)
def _fail(number: int, status: int, geometry: int, code: int) -> int:
    """Turn an error code of `frame.infer_shapes` into a status with the message that arrays get."""
    op = variants[number].op
    n_operands = len(op.signature.operands)
    words = (ctypes.c_int64 * (n_operands * frame.GEOMETRY_WIDTH)).from_address(geometry)
    rows = np.ctypeslib.as_array(words).reshape(n_operands, frame.GEOMETRY_WIDTH)
    if code == native.WRONG_LABEL:
        message = _wrong_label(op, rows)
    else:
        message = op.signature.explain(code, rows, op.name, op.arguments)
    set_status(status, INVALID_ARGUMENT, message)
    return 0


def _wrong_label(op: Op, geometry: np.ndarray) -> str:
    assert op.labels is not None
    shapes = [frame.get_shape(row) for row in geometry[: op.n_inputs]]
    operands: list[Any] = [np.broadcast_to(0, shape) for shape in shapes]
    own = shapes[op.labels.operand]
    address = int(geometry[op.labels.operand, frame.POINTER])
    values = (ctypes.c_int64 * math.prod(own)).from_address(address)
    operands[op.labels.operand] = np.ctypeslib.as_array(values).reshape(own)
    try:
        op.labels.check(op.name, operands)
    except WrongLabelError as error:
        return str(error)
    return f"{op.name}: a label was out of range"  # and has changed since


# ---- Python wrapper and gradient ---------------------------------------------------------------------


def _make_wrappers(entries: list[Registered]) -> None:
    """Give each entry its Python function, made by the generator that ``tf.load_op_library`` uses."""
    definitions = op_def_pb2.OpList(op=[op_def_registry.get(entry.name) for entry in entries])
    module = types.ModuleType("nbops_registered_ops")
    exec(op_gen.GetPythonWrappers(definitions.SerializeToString()), module.__dict__)
    # the module has nbops_matmul, and NbopsMatmul for tf.raw_ops, which takes keywords only
    exported = {_plain(name): value for name, value in vars(module).items() if name[0].islower()}
    for entry in entries:
        entry.wrapper = exported[_plain(entry.name)]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _gradient(entry: Registered) -> Any:
    def gradient(node: Any, *douts: Any) -> Any:
        inputs = [
            tf.linalg.matrix_transpose(x) if swap else x
            for x, swap in zip(node.inputs, entry.swapped, strict=True)
        ]
        outputs = list(node.outputs)
        given = [
            tf.zeros_like(out) if dout is None else dout for out, dout in zip(outputs, douts, strict=True)
        ]
        gradients = entry.op.pull_back(inputs, outputs, given)
        return [
            tf.linalg.matrix_transpose(x) if swap and x is not None else x
            for x, swap in zip(gradients, entry.swapped, strict=True)
        ]

    return gradient
