"""What the tasks of a graph do: the op on chunks, and the combination of partial results.

Each runs its kernels within the worker's share of the cores, and is pickled to wherever it runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops import compiler
from nbops.dask import workers
from nbops.dask.chunks import Meeting
from nbops.dtypes import compute_dtype
from nbops.ops import elementwise

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["Combination", "Item", "Piece"]


@dataclass(frozen=True)
class Piece:
    """What a task does: the op on one chunk of each operand, within the worker's share of threads.

    Parameters
    ----------
    op : Op
    asked : settings or None
        Those of the innermost `nbops.use` around the call that built the graph.
    partial : bool
        Whether the result is one of several to be combined, and so keeps the dtype that the loop computes in.
    meetings : tuple
        The axes whose lengths are to be compared, since they were unknown; see `nbops.dask.chunks.meetings`.
    """

    op: Op
    asked: Any = None
    partial: bool = False
    meetings: tuple[Meeting, ...] = ()

    def __call__(self, *chunks: Any) -> Any:
        operands = [_only(chunk) for chunk in chunks]
        self._compare_lengths(operands)
        if self.partial:
            operands = [x.astype(compute_dtype(x.dtype), copy=False) if _is_array(x) else x for x in operands]
        if self.asked is None and self.op.signature.is_elementwise:
            elements = math.prod(np.broadcast_shapes(*(getattr(x, "shape", ()) for x in operands)))
            if workers.runs_on_one_core(elements * self.op.nanoseconds):
                return self.op(*operands)
        with workers.within_share(self.asked):
            return self.op(*operands)

    def _compare_lengths(self, operands: list[Any]) -> None:
        """Raise ValueError where chunks of unknown lengths turn out to have different ones."""
        for places in self.meetings:
            lengths = [operands[number].shape[axis] for number, axis in places]
            if len(set(lengths)) > 1:
                names = " and ".join(self.op.arguments[number] for number, _ in places)
                counts = " and ".join(map(str, lengths))
                raise ValueError(
                    f"{self.op.name}: chunks of {names} that meet have {counts} elements along an axis of "
                    "unknown lengths; they must be the same: call compute_chunk_sizes() on the arrays, then "
                    "rechunk() one of them"
                )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.op.name, _digest(self.op), str(self.asked), self.partial, self.meetings)


def _digest(op: Op) -> str:
    """The op's code: another op of the same name gives other keys."""
    written: Any = op.formula or op.loop
    return compiler.digest(written)


def _only(chunk: Any) -> Any:
    """A chunk out of the nested lists in which Dask hands over an axis that the result does not have."""
    while isinstance(chunk, list):
        (chunk,) = chunk
    return chunk


def _is_array(x: Any) -> bool:
    return hasattr(x, "dtype")


@dataclass(frozen=True)
class Item:
    """One of several results."""

    number: int

    def __call__(self, chunk: Any) -> Any:
        return _only(chunk)[self.number]


@dataclass(frozen=True)
class Combination:
    """What a task of the tree does: combine partial results, and with the last ones give them their dtype."""

    op: Op
    asked: Any
    dtypes: tuple[np.dtype[Any], ...] = ()

    def __call__(self, results: list[Any]) -> Any:
        if self.asked is None and self.op.pieces.combine is None and _are_short(results):
            result = self.op.pieces.combine_all(results)
        else:
            with workers.within_share(self.asked):
                result = self.op.pieces.combine_all(results)
        if not self.dtypes:
            return result
        several = result if isinstance(result, tuple) else (result,)
        with np.errstate(over="ignore"):
            several = tuple(x.astype(d, copy=False) for x, d in zip(several, self.dtypes, strict=True))
        return several if isinstance(result, tuple) else several[0]


def _are_short(results: list[Any]) -> bool:
    """Whether these partial results are added on one core anyway."""
    several = results[0] if isinstance(results[0], tuple) else (results[0],)
    return all(workers.runs_on_one_core(math.prod(x.shape) * elementwise.add.nanoseconds) for x in several)
