"""A call on NumPy arrays, from operands to results.

    values -> dtypes -> arrays -> core axes last -> geometry -> shapes -> outputs -> frame -> target -> run

Each step is a few lines below, in this order. `nbops.repeat` skips all of them for a call like the last one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops import arrays, dispatch, frame, remember
from nbops.targets import cpu, cuda

if TYPE_CHECKING:
    from nbops.op import Op
    from nbops.signature import Signature

__all__ = [
    "Axes",
    "call",
    "check_axes",
    "core_axes_last",
    "estimate",
    "infer",
    "item_nanoseconds",
    "normalize_axes",
    "prepared",
    "shape_back",
]

Axes = Sequence[Sequence[int]]
Dtypes = list[np.dtype[Any]]


def call(op: Op, given: Sequence[Any], out: Any, axes: Axes | None, target: str | None) -> Any:
    """Run an op on arrays and numbers.

    Parameters
    ----------
    op : Op
    given : sequence of array_like
    out : ndarray, tuple of ndarray, or None
    axes : optional
        NumPy's keyword: for each operand, where it keeps its core axes.
    target : str, optional

    Raises
    ------
    TypeError
        For operands or dtypes that the op does not take, or an `out` that can't hold the result.
    ValueError
        For shapes that break the signature, or an `out` of another shape or read-only.
    """
    if op.short_way is not None and out is None and axes is None and target is None:
        places_for_results = op.short_way.large_results(given)
        if places_for_results is not None:
            return op.short_way.call(*given, out=places_for_results)
    values = [arrays.as_array(x, op.name, argument) for x, argument in zip(given, op.arguments, strict=True)]
    loop_dtypes, result_dtypes = op.types.resolve(values, op.name, op.arguments)
    inputs = [arrays.native(x, dtype) for x, dtype in zip(values, loop_dtypes, strict=False)]
    places = None if axes is None else normalize_axes(op, axes)
    if places:
        check_axes(op, inputs, places)
        inputs = [core_axes_last(x, own) for x, own in zip(inputs, places, strict=False)]
    geometry, shapes = infer(op, inputs)
    if places:
        shapes = [shape_back(s, own) for s, own in zip(shapes, places[op.n_inputs :], strict=True)]
    results = (
        [
            arrays.allocate(shape, dtype, inputs, op.signature.is_elementwise)
            for shape, dtype in zip(shapes, result_dtypes, strict=True)
        ]
        if out is None
        else arrays.checked_out(op.name, out, shapes, result_dtypes)
    )
    outputs = results
    if places:
        outputs = [core_axes_last(x, own) for x, own in zip(results, places[op.n_inputs :], strict=True)]
    buffers = [
        array
        if array.dtype == dtype and (out is None or _writable_in_place(op, array, inputs, outputs))
        else np.empty(array.shape, dtype)
        for array, dtype in zip(outputs, loop_dtypes[op.n_inputs :], strict=True)
    ]
    again = (given, out is None) if axes is None else None
    _run(op, [*inputs, *buffers], geometry, tuple(loop_dtypes), target, again)
    for array, buffer in zip(outputs, buffers, strict=True):
        if array is not buffer:
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(array, buffer, casting="same_kind")
    if out is None:
        results = [array if array.ndim else array[()] for array in results]
    return results[0] if len(results) == 1 else tuple(results)


# ---- axes -------------------------------------------------------------------------------------------


def along(op: Op, axis: int, axes: Axes | None) -> Axes:
    """``axis=`` as `axes`: of operands with one core axis each, that one.

    Raises
    ------
    TypeError
        When `axes` came too, or an operand has several core axes or none.
    """
    if axes is not None:
        raise TypeError(f"{op.name}: axis= and axes= came; expected one of them")
    if not op.signature.is_of_vectors:
        raise TypeError(
            f"{op.name}: axis= is for operands with one axis each in the signature, which is {op.signature}; "
            "use axes="
        )
    return [(axis,) * len(own) for own in op.signature.operands]


def normalize_axes(op: Op, axes: Axes) -> list[tuple[int, ...]]:
    """`axes` as one tuple per operand; outputs without core axes may be left out.

    Raises
    ------
    TypeError
        For axes that are no integers.
    ValueError
        When there are too few or too many.
    """
    try:
        given = [tuple(map(operator.index, own if isinstance(own, Sequence) else [own])) for own in axes]
    except TypeError:
        raise TypeError(
            f"{op.name}: axes is {axes!r}; expected a list with a tuple of integers each"
        ) from None
    wanted = [len(names) for names in op.signature.operands]
    if len(given) == op.n_inputs and not any(wanted[op.n_inputs :]):
        given += [()] * (len(wanted) - op.n_inputs)
    if [len(own) for own in given] != wanted:
        raise ValueError(
            f"{op.name}: axes is {list(axes)}; the signature {op.signature} needs one tuple per "
            f"operand, with {wanted} axes"
        )
    return given


def check_axes(op: Op, inputs: list[np.ndarray], places: list[tuple[int, ...]]) -> None:
    for x, own, argument in zip(inputs, places, op.arguments, strict=False):
        wrong = [axis for axis in own if not -x.ndim <= axis < x.ndim]
        if wrong:
            raise ValueError(f"{op.name}: axis {wrong[0]} is out of range: {argument} is {x.shape}")
        if len({axis % x.ndim for axis in own}) < len(own):
            raise ValueError(
                f"{op.name}: axes {own} of {argument} name one axis twice; {argument} is {x.shape}"
            )


def core_axes_last(array: np.ndarray, own: tuple[int, ...]) -> np.ndarray:
    return np.moveaxis(array, own, range(-len(own), 0)) if own else array


def shape_back(shape: tuple[int, ...], own: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a result whose core axes move from the end to where they are wanted."""
    stand_in = np.broadcast_to(np.int8(0), shape)
    return np.moveaxis(stand_in, range(-len(own), 0), own).shape if own else shape


# ---- shapes and outputs -----------------------------------------------------------------------------


def infer(op: Op, inputs: list[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, ...]]]:
    geometry = frame.new_geometry(len(op.signature.operands))
    for row, x in zip(geometry, inputs, strict=False):
        frame.describe(row, x)
    code = frame.infer(op.signature.table, geometry)
    op.signature.check(code, geometry, op.name, op.arguments)
    return geometry, [frame.get_shape(row) for row in geometry[op.n_inputs :]]


def _writable_in_place(
    op: Op, output: np.ndarray, inputs: list[np.ndarray], outputs: list[np.ndarray]
) -> bool:
    """Whether the loop may write `output` directly: aligned, and over nothing that is still to be read."""
    if not output.flags.aligned or not output.dtype.isnative:
        return False
    number = next(index for index, x in enumerate(outputs) if x is output)
    overwritten = op.overwritten(number)
    for index, other in enumerate([*inputs, *(x for x in outputs if x is not output)]):
        if np.may_share_memory(output, other):
            same_place = (
                index in overwritten
                and output.__array_interface__["data"][0] == other.__array_interface__["data"][0]
                and output.shape == other.shape
                and output.strides == other.strides
            )
            if not same_place:
                return False
    return True


# ---- running ----------------------------------------------------------------------------------------


def _run(
    op: Op,
    operands: list[np.ndarray],
    geometry: np.ndarray,
    dtypes: tuple[np.dtype[Any], ...],
    target: str | None,
    again: tuple[Sequence[Any], bool] | None,
) -> None:
    """Run the op; `again` has what a repeated call is like: the operands, and whether results are new."""
    table = _build(op, operands, geometry)
    decision = dispatch.decide(estimate(op, table, operands), target)
    if decision.target == "python":
        op.kernel.interpret(operands, op.n_inputs)
        return
    if decision.target in cuda.TARGETS:
        try:
            cuda.run_on_copies(op, operands, dtypes, decision.target)
            return
        except MemoryError as error:
            decision = dispatch.decide_again(estimate(op, table, operands), decision, error)
    tasks, grain = _tasks(op, table, dtypes, decision.workers), _grain(op)
    cpu.launch(*tasks, table, decision.workers, grain)
    if again is not None and target is None and dispatch.may_repeat(decision):
        given, fresh = again
        remember.remember(op, given, operands, table, tasks, grain, decision, fresh)


def _build(op: Op, operands: list[np.ndarray], geometry: np.ndarray) -> np.ndarray:
    """The frame of a call whose outputs are allocated."""
    for row, x in zip(geometry[op.n_inputs :], operands[op.n_inputs :], strict=True):
        frame.describe(row, x)
    table = frame.new_frame(len(operands))
    frame.build(op.signature.table, geometry, table)
    return table


def _tasks(op: Op, table: np.ndarray, dtypes: tuple[np.dtype[Any], ...], workers: int) -> tuple[int, int]:
    """The addresses of the serial and the parallel task; the second is 0 where it is not needed."""
    layout = int(table[0, frame.LAYOUT])
    # With an item for each worker, the serial task is spread over them and no other need be compiled.
    shared = workers > 1 and int(table[0, frame.ITEMS]) < workers
    return op.kernel.task(dtypes, layout), op.kernel.task(dtypes, layout, parallel=True) if shared else 0


def _grain(op: Op) -> int:
    return 64 if op.signature.is_elementwise else 1


def prepared(op: Op, inputs: list[np.ndarray], outputs: list[np.ndarray], target: str) -> Callable[[], None]:
    """A call that is ready to be made, any number of times: the loop alone, without Python around it.

    Parameters
    ----------
    op : Op
    inputs, outputs : list of ndarray
        Of the loop's own dtypes, core axes last. The caller keeps them alive: the frame has their addresses.
    target : {"python", "serial", "parallel"}
    """
    operands = [*inputs, *outputs]
    if target == "python":
        return lambda: op.kernel.interpret(operands, op.n_inputs)
    geometry, _ = infer(op, inputs)
    table = _build(op, operands, geometry)
    workers = dispatch.choose(estimate(op, table, operands), target).workers
    tasks, grain = _tasks(op, table, tuple(x.dtype for x in operands), workers), _grain(op)
    return lambda: cpu.launch(*tasks, table, workers, grain)


#: To find where an item lies, to begin and to end its loop: `sum` of three numbers takes so long, `softmax`
#: of three 55, `matmul` of 3 x 3 85. For an elementwise op an item is one iteration.
ITEM_NANOSECONDS = 30


def item_nanoseconds(signature: Signature) -> int:
    """What an item of an op takes on one core, besides the iterations of its loop."""
    return 0 if signature.is_elementwise else ITEM_NANOSECONDS


def estimate(op: Op, table: np.ndarray, operands: Sequence[np.ndarray]) -> dispatch.Work:
    """What a call has to do, for the dispatcher."""
    items, steps = frame.count_steps(op.signature.table, table)
    moved = sum(x.nbytes for x in operands)
    kernel = op.kernel
    divisible = kernel.divisible
    if kernel.cut_axis is not None and not kernel.is_tuned:
        divisible = bool(table[0, frame.CORE + kernel.cut_axis] > 1)
    return dispatch.Work(items, steps, moved, op.nanoseconds, divisible, item_nanoseconds(op.signature))
