"""Dask arrays: every op, lazily, piece by piece, driven by its signature and its `nbops.pieces` alone.

    operands -> dtypes -> core axes last -> chunks that agree -> one task per output chunk (-> a tree)

Batch axes and independent core axes keep their chunks. Along a reduced axis each chunk gives a partial result
in the dtype that the loop computes in, and partial results are combined in a tree whose order depends on the
number of chunks alone. An axis that can't be cut is either avoided, by the op's piecewise rule, or its
chunks are joined, which is the one case in which a task holds more than a chunk of each operand.

Nothing is computed here: dtypes come from the op's types, shapes from its signature, and unknown lengths stay
unknown. A chunk goes to the op as it is, so a chunk on a GPU is the dispatcher's business, like any array.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.tokenize import tokenize

from nbops import arrays, dispatch
from nbops.dask.chunks import Labels, agree, array_of, joined, meetings, ones_in_one_chunk, pairs
from nbops.dask.lengths import by_chunks, count, positions, reshape
from nbops.dask.tasks import Combination, Item, Piece
from nbops.execution import Axes, normalize_axes
from nbops.targets import cuda

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["arranged", "by_chunks", "call", "count", "ones_in_one_chunk", "positions", "reshape"]

#: Partial results that one task combines: few, because it holds them all.
FAN_IN = 4


# ---- a call -----------------------------------------------------------------------------------------


def call(op: Op, operands: Sequence[Any], axes: Axes | None, target: str | None) -> Any:
    """Run an op on Dask arrays, arrays and numbers, later: what `Op.__call__` does with them.

    Parameters
    ----------
    op : Op
    operands : sequence
        At least one is a Dask array.
    axes, target : optional
        As for `Op.__call__`.

    Returns
    -------
    dask.array.Array or a tuple of them

    Raises
    ------
    TypeError
        For dtypes that the op does not take, or a TensorFlow value among the operands.
    ValueError
        When shapes that are known break the signature.
    """
    values, places = arranged(op, operands, axes)
    if target is None:
        asked = dispatch.chosen_here()
    else:
        with dispatch.use(target):
            asked = dispatch.chosen_here()
    results = _call_last(op, values, asked)
    if places:
        results = tuple(
            _core_axes_back(x, own) for x, own in zip(results, places[op.n_inputs :], strict=True)
        )
    return results[0] if len(results) == 1 else results


def arranged(
    op: Op, operands: Sequence[Any], axes: Axes | None
) -> tuple[list[Any], list[tuple[int, ...]] | None]:
    """The operands as Dask arrays and numbers, their core axes last, and where they were."""
    values = [_as_lazy(x, op, argument) for x, argument in zip(operands, op.arguments, strict=True)]
    _check_residence(op, values)
    places = None if axes is None else normalize_axes(op, axes)
    if places:
        _check_axes(op, values, places)
        values = [_core_axes_last(x, own) for x, own in zip(values, places, strict=False)]
    return values, places


def _check_residence(op: Op, values: Sequence[Any]) -> None:
    """Raise TypeError for chunks on a GPU beside chunks that are not, before anything is computed."""
    chunks = [x._meta if arrays.is_dask(x) and x.ndim else 0 for x in values]
    if any(map(cuda.is_device_array, chunks)):
        cuda.check_residence(op, chunks)


def _as_lazy(value: Any, op: Op, argument: str) -> Any:
    """A Dask array, or a Python number as it is."""
    if arrays.is_dask(value):
        return value
    if cuda.is_device_array(value):
        return da.from_array(value, chunks=-1, asarray=False)
    if arrays.is_tensorflow(value):
        raise TypeError(
            f"{op.name}: {argument} is a TensorFlow value beside a Dask array; convert one of them, with "
            "numpy.asarray(x) or x.compute()"
        )
    array = arrays.as_array(value, op.name, argument)
    return da.from_array(array, chunks=-1) if isinstance(array, np.ndarray) else array


def _check_axes(op: Op, values: Sequence[Any], places: Sequence[tuple[int, ...]]) -> None:
    for x, own, argument in zip(values, places, op.arguments, strict=False):
        for axis in own:
            if not -np.ndim(x) <= axis < np.ndim(x):
                raise ValueError(f"{op.name}: axis {axis} is out of range: {argument} is {np.shape(x)}")


def _core_axes_last(x: Any, own: tuple[int, ...]) -> Any:
    return da.moveaxis(x, own, range(-len(own), 0)) if own else x


def _core_axes_back(x: Any, own: tuple[int, ...]) -> Any:
    return da.moveaxis(x, range(-len(own), 0), own) if own else x


def types_of(op: Op, values: Sequence[Any]) -> tuple[list[np.dtype[Any]], list[np.dtype[Any]]]:
    """In which dtypes the loop runs, and those of the results; from empty arrays of the operands' dtypes."""
    stand_ins = [np.empty((0,) * x.ndim, x.dtype) if arrays.is_dask(x) else x for x in values]
    return op.types.resolve(stand_ins, op.name, op.arguments)


def _call_last(op: Op, values: Sequence[Any], asked: Any) -> tuple[Any, ...]:
    """`call` with every operand's core axes last; always a tuple."""
    loop_dtypes, result_dtypes = types_of(op, values)
    shapes = [[-1 if n != n else int(n) for n in np.shape(x)] for x in values]
    op.signature.infer(shapes, op.name, op.arguments)
    values, index, chunks = agree(op, values)
    whole = [
        name
        for name, label in index.core.items()
        if len(chunks[label]) > 1 and name not in op.pieces.independent + op.pieces.reduced
    ]
    if whole and op.pieces.rule is not None:
        values = [x.astype(d) if arrays.is_dask(x) else x for x, d in zip(values, loop_dtypes, strict=False)]
        with dispatch.in_force(asked):
            results = op.pieces.rule(*values)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(x.astype(dtype) for x, dtype in zip(results, result_dtypes, strict=True))
    for name in whole:
        label = index.core[name]
        values = [
            joined(x, own.index(label)) if label in own else x
            for x, own in zip(values, index.inputs, strict=True)
        ]
    over = [index.core[a] for a in op.pieces.reduced if a in index.core and len(chunks[index.core[a]]) > 1]
    return _on_chunks(op, values, index, over, result_dtypes, asked)


# ---- tasks ------------------------------------------------------------------------------------------


def _on_chunks(
    op: Op,
    values: Sequence[Any],
    index: Labels,
    over: list[int],
    result_dtypes: list[np.dtype[Any]],
    asked: Any,
) -> tuple[Any, ...]:
    """A task per chunk of the result and per chunk along the reduced axes `over`; then the combination."""
    model = next(x for x in values if arrays.is_dask(x))._meta
    metas = [
        meta_from_array(model, len(own), dtype)
        for own, dtype in zip(index.outputs, result_dtypes, strict=True)
    ]
    kept = tuple(dict.fromkeys(label for own in index.outputs for label in own))
    single = len(index.outputs) == 1
    piece = Piece(op, asked, bool(over), meetings(values, index.inputs))
    whole = da.blockwise(
        piece,
        (*kept, *over),
        *pairs(values, index.inputs),
        token=op.name,
        dtype=metas[0].dtype,
        meta=metas[0] if single and not over else meta_from_array(model, len(kept) + len(over), object),
    )
    if over:
        whole = _combined(op, whole, len(kept), metas, asked)
    if single:
        return (whole,)
    return tuple(
        da.blockwise(Item(number), own, whole, kept, token=f"{op.name}-{number}", dtype=meta.dtype, meta=meta)
        for number, (own, meta) in enumerate(zip(index.outputs, metas, strict=True))
    )


def _combined(op: Op, partial: Any, n_kept: int, metas: list[Any], asked: Any) -> Any:
    """The partial results combined along all axes from `n_kept` on, `FAN_IN` neighbours at a time."""
    token = tokenize(partial.name, n_kept)
    name = f"{op.name}-combined-{token}"
    step = Combination(op, asked)
    last = Combination(op, asked, tuple(meta.dtype for meta in metas))
    layer: dict[Any, Any] = {}
    over = list(np.ndindex(*partial.numblocks[n_kept:]))
    for place in np.ndindex(*partial.numblocks[:n_kept]):
        keys: list[Any] = [(partial.name, *place, *block) for block in over]
        level = 0
        while len(keys) > FAN_IN:
            groups = [keys[start : start + FAN_IN] for start in range(0, len(keys), FAN_IN)]
            keys = [(f"{op.name}-partial-{token}", level, number, *place) for number in range(len(groups))]
            layer.update(zip(keys, ((step, group) for group in groups), strict=True))
            level += 1
        layer[(name, *place)] = (last, keys)
    meta = metas[0] if len(metas) == 1 else meta_from_array(metas[0], n_kept, object)
    return array_of(name, layer, [partial], partial.chunks[:n_kept], meta)
