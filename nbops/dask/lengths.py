"""What the functions around the ops need to know of chunks: how long they are, and where each begins."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.tokenize import tokenize

from nbops.dask.chunks import array_of, is_unknown

__all__ = ["by_chunks", "count", "positions", "reshape"]


def by_chunks(function: Any, x: Any, dtype: Any, *arguments: Any) -> Any:
    """``function(x, *arguments)`` on each chunk; the result's chunks are as long."""
    return x.map_blocks(function, *arguments, dtype=dtype, meta=meta_from_array(x._meta, x.ndim, dtype))


def reshape(x: Any, shape: Any) -> Any:
    """Dask's reshape; where that can't tell which chunks go where, by way of one axis.

    Raises
    ------
    ValueError
        For unknown lengths, or a shape of another size.
    """
    if any(map(is_unknown, x.chunks)):
        raise ValueError(
            f"reshape: x has chunks of unknown lengths, {x.shape}; call x.compute_chunk_sizes() first"
        )
    try:
        return x.reshape(shape)
    except NotImplementedError:
        return x.ravel().reshape(shape)


def count(x: Any, axes: Sequence[int]) -> Any:
    """The number of elements along some axes: an integer, or a 0-d array where a length is unknown."""
    known = [x.shape[axis] for axis in axes if x.shape[axis] == x.shape[axis]]
    unknown = [_length(x, axis) for axis in axes if x.shape[axis] != x.shape[axis]]
    return functools.reduce(operator.mul, unknown, np.prod(known, dtype=np.int64))


def _block_lengths(x: Any, axis: int) -> tuple[str, dict[Any, Any]]:
    """Tasks that tell how long the blocks along an axis are."""
    name = "lengths-" + tokenize(x, axis)
    first = [0] * x.ndim
    layer = {}
    for block in range(x.numblocks[axis]):
        first[axis] = block
        layer[(name, block)] = (_length_of_block, (x.name, *first), axis)
    return name, layer


def _length_of_block(block: Any, axis: int) -> int:
    return int(block.shape[axis])


def _length(x: Any, axis: int) -> Any:
    name, layer = _block_lengths(x, axis)
    total = name.replace("lengths", "length")
    layer[(total,)] = (_total, list(layer))
    return array_of(total, layer, [x], (), np.empty((), np.int64))


def _total(lengths: list[int]) -> Any:
    return np.int64(sum(lengths))


def positions(x: Any) -> Any:
    """0, 1, 2, … along the last axis of `x`, in its chunks and where they are."""
    if not is_unknown(x.chunks[-1]):
        return da.arange(x.shape[-1], chunks=(x.chunks[-1],), dtype=np.int64, like=x._meta)
    lengths, layer = _block_lengths(x, x.ndim - 1)
    name = lengths.replace("lengths", "positions")
    first = (0,) * (x.ndim - 1)
    for block in range(x.numblocks[-1]):
        before = [(lengths, number) for number in range(block + 1)]
        layer[(name, block)] = (_positions, before, (x.name, *first, block))
    return array_of(name, layer, [x], (x.chunks[-1],), meta_from_array(x._meta, 1, np.int64))


def _positions(lengths: list[int], block: Any) -> Any:
    stop = sum(lengths)
    return np.arange(stop - lengths[-1], stop, dtype=np.int64, like=block)
