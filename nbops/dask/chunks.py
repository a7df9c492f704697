"""Which axis of which operand is which, and chunks that agree along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.tokenize import tokenize

from nbops import arrays

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = [
    "Labels",
    "Meeting",
    "agree",
    "array_of",
    "is_unknown",
    "joined",
    "meetings",
    "ones_in_one_chunk",
    "pairs",
]

Index = tuple[int, ...]
#: Axes that must be as long as one another: each an operand's number and an axis counted from the end.
Meeting = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Labels:
    """A number for each axis: the batch axes first, then the core axes by name."""

    inputs: list[Index]
    outputs: list[Index]
    core: dict[str, int]


def _labels(op: Op, ranks: Sequence[int]) -> Labels:
    batch_rank = max(rank - len(names) for rank, names in zip(ranks, op.signature.inputs, strict=True))
    core = {name: batch_rank + number for number, name in enumerate(op.signature.axis_names)}
    inputs = [
        (*range(batch_rank - rank + len(names), batch_rank), *(core[name] for name in names))
        for rank, names in zip(ranks, op.signature.inputs, strict=True)
    ]
    outputs = [(*range(batch_rank), *(core[name] for name in names)) for names in op.signature.outputs]
    return Labels(inputs, outputs, core)


def agree(op: Op, values: Sequence[Any]) -> tuple[list[Any], Labels, dict[int, tuple[int, ...]]]:
    """The operands with chunks that agree, their axes' labels, and the chunks along each label."""
    index = _labels(op, [np.ndim(x) for x in values])
    values = [ones_in_one_chunk(x) if arrays.is_dask(x) else x for x in values]
    values = _forget_where_unknown(values, index.inputs)
    chunks, agreed = da.core.unify_chunks(*pairs(values, index.inputs), warn=False)
    return list(agreed), index, chunks


def ones_in_one_chunk(x: Any) -> Any:
    """The array without empty chunks along its axes of length 1, which may have to be repeated."""
    axes = {axis: 1 for axis, n in enumerate(x.shape) if n == 1 and x.numblocks[axis] > 1}
    return x.rechunk(axes) if axes else x


def pairs(values: Sequence[Any], indices: Sequence[Index]) -> list[Any]:
    """Values and labels in turn, as Dask takes them; a number has none."""
    return [
        item
        for x, own in zip(values, indices, strict=True)
        for item in (x, own if arrays.is_dask(x) else None)
    ]


def _forget_where_unknown(values: Sequence[Any], indices: Sequence[Index]) -> list[Any]:
    """Where one operand's chunk lengths are unknown and another has as many chunks, trust that they agree.

    They are compared when the op runs: see `meetings`.
    """
    unknown = {
        (label, len(lengths))
        for x, own in zip(values, indices, strict=True)
        if arrays.is_dask(x)
        for label, lengths in zip(own, x.chunks, strict=True)
        if is_unknown(lengths)
    }
    result = []
    for x, own in zip(values, indices, strict=True):
        if arrays.is_dask(x) and unknown:
            chunks = tuple(
                (np.nan,) * len(lengths) if (label, len(lengths)) in unknown and lengths != (1,) else lengths
                for label, lengths in zip(own, x.chunks, strict=True)
            )
            x = da.Array(x.dask, x.name, chunks, meta=x._meta)
        result.append(x)
    return result


def meetings(values: Sequence[Any], indices: Sequence[Index]) -> tuple[Meeting, ...]:
    """The axes whose lengths only the chunks themselves can tell, where several operands' chunks meet.

    The op alone would not notice all that differ: it repeats a chunk that happens to have length 1.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for number, (x, own) in enumerate(zip(values, indices, strict=True)):
        if arrays.is_dask(x):
            for place, (label, lengths) in enumerate(zip(own, x.chunks, strict=True)):
                if len(lengths) > 1 and is_unknown(lengths):
                    found.setdefault(label, []).append((number, place - x.ndim))
    return tuple(tuple(places) for places in found.values() if len(places) > 1)


def is_unknown(lengths: Sequence[float]) -> bool:
    return any(n != n for n in lengths)


def joined(x: Any, axis: int) -> Any:
    """The array with one chunk along an axis."""
    if x.numblocks[axis] == 1:
        return x
    if not is_unknown(x.chunks[axis]):
        return x.rechunk({axis: -1})
    name = "join-" + tokenize(x, axis)
    keys = np.ndindex(*x.numblocks[:axis], *x.numblocks[axis + 1 :])
    layer = {
        (name, *key[:axis], 0, *key[axis:]): (
            _concatenate,
            [(x.name, *key[:axis], block, *key[axis:]) for block in range(x.numblocks[axis])],
            axis,
        )
        for key in keys
    }
    chunks = (*x.chunks[:axis], (np.nan,), *x.chunks[axis + 1 :])
    return array_of(name, layer, [x], chunks, x._meta)


def _concatenate(blocks: list[Any], axis: int) -> Any:
    return np.concatenate(blocks, axis)


def array_of(name: str, layer: dict[Any, Any], inputs: list[Any], chunks: Any, meta: Any) -> Any:
    """A Dask array from the tasks of one layer."""
    graph = HighLevelGraph.from_collections(name, layer, dependencies=inputs)
    return da.Array(graph, name, chunks, meta=meta)
