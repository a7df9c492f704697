"""Promises about values, memory, dtypes and threads, on NumPy arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from nbops import compiler, dispatch
from nbops.kernel import Kernel
from nbops.op import Op
from nbops.targets import cpu
from nbops.testing.layouts import LAYOUTS
from nbops.testing.promises import expect_close, expect_equal, fail, promise
from nbops.testing.subject import Array, Call, Subject

# ---- values -----------------------------------------------------------------------------------------


@promise("oracle")
def oracle(subject: Subject, call: Call) -> None:
    """Values are the oracle's, up to rounding."""
    expected = subject.expected(call.operands())
    if expected is None:
        return
    for target in subject.targets:
        expect_close(subject, call, subject.run(call.operands(), target), expected, f"on {target}")


@promise()
def targets(subject: Subject, call: Call) -> None:
    """Every target gives what the interpreted loop gives."""
    interpreted = subject.run(call.operands(), "python")
    for target in subject.targets:
        expect_close(subject, call, subject.run(call.operands(), target), interpreted, f"on {target}")


@promise(calls="tiny")
def tiny(subject: Subject, call: Call) -> None:
    """Empty operands and axes of length 1 are served."""
    expected = subject.expected(call.operands()) or subject.run(call.operands(), "python")
    for target in subject.targets:
        expect_close(subject, call, subject.run(call.operands(), target), expected, f"on {target}")


@promise()
def layouts(subject: Subject, call: Call) -> None:
    """Strides, byte order and alignment of the operands do not matter."""
    straight = subject.run(call.plain(), "serial")
    for target in subject.targets:
        expect_close(subject, call, subject.run(call.operands(), target), straight, f"on {target}")


@promise()
def repeats(subject: Subject, call: Call) -> None:
    """The same call gives the same bits again, whatever was called in between."""
    for target in ("auto", *subject.targets):
        first = subject.run(call.operands(), target)
        expect_equal(subject.run(call.operands(), target), first, f"a second time on {target}")
        other = [np.ones_like(x) for x in call.operands()]
        subject.run(other, target)
        expect_equal(subject.run(call.operands(), target), first, f"after another call on {target}")


# ---- memory -----------------------------------------------------------------------------------------


@promise()
def inputs(subject: Subject, call: Call) -> None:
    """Inputs are never written, and read-only ones are taken."""
    for target in ("auto", *subject.targets):
        operands = call.operands()
        before = [x.copy() for x in operands]
        subject.run(operands, target)
        for x, copy, argument in zip(operands, before, subject.arguments, strict=True):
            expect_equal([x], [copy], f"{argument} after the call on {target}")
        subject.run([LAYOUTS["read_only"](x) for x in operands], target)


@promise("out")
def written(subject: Subject, call: Call) -> None:
    """Every element of the result is written."""
    for target in subject.targets:
        fresh = subject.run(call.operands(), target)
        for layout in ("contiguous", "sliced"):
            poisoned = [_into(subject, call, fresh, target, layout, poison) for poison in (99, -77)]
            expect_equal(poisoned[0], poisoned[1], f"out= filled with 99 before, on {target}, and with -77")
            expect_equal(poisoned[0], fresh, f"out= ({layout}) on {target}")


def _into(
    subject: Subject, call: Call, like: list[Array], target: str, layout: str, poison: int
) -> list[Array]:
    """The results in arrays that held `poison` before."""
    if layout == "contiguous":
        outs = [np.full(x.shape, poison).astype(x.dtype) for x in like]
    else:
        outs = [LAYOUTS[layout](np.full(x.shape, poison).astype(x.dtype)) for x in like]
    with dispatch.use(target):
        subject.function(*call.operands(), out=outs[0] if len(outs) == 1 else tuple(outs))
    return outs


# ---- dtypes -----------------------------------------------------------------------------------------


@promise(limit=5)
def dtypes(subject: Subject, call: Call) -> None:
    """Results have the dtype of the op's rule, and its values, for integers and floats of any width."""
    kinds = ["float16", "float32", "float64"]
    if not subject.float_only:
        kinds += ["int8", "uint8", "int32", "int64"]
    for kind in kinds:
        operands = call.in_dtype(kind)
        results = subject.run(operands, "serial")
        wanted = _result_dtypes(subject, operands)
        if wanted is None and kind.startswith("float"):
            wanted = [np.dtype(kind)] * len(results)
        if wanted is not None and [x.dtype for x in results] != wanted:
            fail(f"{kind} operands give {', '.join(x.dtype.name for x in results)}; expected {wanted[0]}")
        expected = subject.expected(operands) or subject.run(operands, "python")
        if kind != "float16":  # its values are tested where they are rounded: in float32
            expected = [wrapped(x, y.dtype) for x, y in zip(expected, results, strict=True)]
            expect_close(subject, call, results, expected, f"with {kind} operands")


def _result_dtypes(subject: Subject, operands: list[Array]) -> list[Any] | None:
    if subject.op is None:
        return None
    return list(subject.op.types.resolve(operands, subject.op.name, subject.op.arguments)[1])


def wrapped(x: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers as a dtype holds them: whole ones wrap around in integers; too large ones are inf in floats."""
    if dtype.kind not in "iu":
        with np.errstate(over="ignore"):
            held = x.astype(dtype).astype(np.float64)
        return np.where(np.isinf(held), held, x)
    if x.dtype.kind in "iu" or not np.array_equal(x, np.trunc(x)):
        return x
    return x.astype(np.int64).astype(dtype)


REFUSED: dict[str, Callable[[Array], Any]] = {
    "bool": lambda x: x.astype(bool),
    "complex64": lambda x: x.astype(np.complex64),
    "object": lambda x: np.full(x.shape, None),
    "str": lambda x: np.full(x.shape, "one"),
    "datetime64": lambda x: np.full(x.shape, "2020-01-01", "M8[D]"),
    "longdouble": lambda x: x.astype(np.longdouble),
    "a record": lambda x: np.zeros(x.shape, [("field", "f4")]),
}


@promise(limit=1)
def refuses(subject: Subject, call: Call) -> None:
    """Operands that are no real numbers raise TypeError."""
    for index, argument in enumerate(subject.arguments):
        for name, convert in REFUSED.items():
            operands: list[Any] = call.plain()
            operands[index] = convert(operands[index])
            try:
                subject.function(*operands)
            except TypeError:
                continue
            except Exception as error:
                fail(
                    f"{argument} of dtype {name} raises {type(error).__name__} ({error}); expected TypeError"
                )
            fail(f"{argument} of dtype {name} is taken; expected TypeError")


# ---- threads ----------------------------------------------------------------------------------------


@promise("op", limit=10)
def order(subject: Subject, call: Call) -> None:
    """The iterations of prange and lanes are independent: any order gives the same bits."""
    assert subject.op is not None
    straight = _interpret(subject.op, subject.op.kernel, call, None)
    for name in ("backwards", "shuffled"):
        expect_equal(_interpret(subject.op, subject.op.kernel, call, name), straight, f"iterations {name}")


def _interpret(op: Op, kernel: Kernel, call: Call, order: str | None) -> list[Array]:
    """The loop's results with `prange` and `lanes` running in another order."""
    rng = call.rng

    def iterations(*arguments: int) -> Any:
        straight = range(*arguments)
        return (
            straight[::-1] if order == "backwards" else (straight[i] for i in rng.permutation(len(straight)))
        )

    loop = kernel.loop
    names: dict[str, Any] = {} if order is None else {"prange": iterations, "lanes": iterations}
    stand_in = ModuleType("nbops")
    vars(stand_in).update(names)
    modules = {
        name: stand_in
        for name, value in loop.__globals__.items()
        if isinstance(value, ModuleType) and value.__name__ == "nbops" and names
    }
    reordered = Kernel(compiler.specialise(loop, "reordered", **names, **modules), op.signature, op.name)
    loop_dtypes, _ = op.types.resolve(call.operands(), op.name, op.arguments)
    operands = [x.astype(dtype) for x, dtype in zip(call.operands(), loop_dtypes, strict=False)]
    shapes = op.signature.infer(call.shapes, op.name, op.arguments)
    outputs = [
        np.full(shape, 99).astype(dtype)
        for shape, dtype in zip(shapes, loop_dtypes[op.n_inputs :], strict=True)
    ]
    reordered.interpret([*operands, *outputs], op.n_inputs)
    return outputs


@promise()
def threads(subject: Subject, call: Call) -> None:
    """Results do not depend on the number of threads, bit for bit."""
    dispatch.start()
    alone = subject.run(call.operands(), "serial")
    for workers in sorted({1, 2, int(cpu.STATE[cpu.WORKERS])}):
        expect_equal(subject.run(call.operands(), "parallel", workers), alone, f"with {workers} threads")


@promise(limit=3)
def concurrent(subject: Subject, call: Call) -> None:
    """Concurrent callers each get their own results."""
    calls = [call.operands(), reversed_values(call)]
    for target in ("auto", "serial", "parallel"):
        alone = [subject.run(operands, target) for operands in calls]
        barrier = threading.Barrier(4)

        def caller(index: int, target: str = target, alone: Any = alone, barrier: Any = barrier) -> None:
            barrier.wait()
            for _ in range(20):
                together = subject.run(calls[index % 2], target)
                expect_equal(together, alone[index % 2], f"beside other callers on {target}")

        with ThreadPoolExecutor(barrier.parties) as pool:
            for future in [pool.submit(caller, index) for index in range(barrier.parties)]:
                future.result()


def reversed_values(call: Call) -> list[Array]:
    """The call's operands with their elements in the opposite order: other values, the same shapes."""
    return [x.ravel()[::-1].reshape(x.shape) for x in call.plain()]
