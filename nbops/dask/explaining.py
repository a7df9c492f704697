"""explain, for Dask arrays: what happens to each chunk, and how many go where."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops import arrays, dispatch
from nbops.dask import arranged, call, types_of, workers
from nbops.dask.chunks import agree, is_unknown
from nbops.settings import recording
from nbops.targets import cuda

if TYPE_CHECKING:
    from nbops.execution import Axes
    from nbops.explain import Explanation
    from nbops.op import Op

__all__ = ["ChunkedExplanation", "explain", "results"]

UNKNOWN = 1000  # stands in for a length that is not known


@dataclass(frozen=True)
class ChunkedExplanation:
    """The decisions for the chunks of a call, as far as they can be told before it runs.

    Parameters
    ----------
    op : str
    shapes : tuple of shapes
        The operands'; an unknown length is -1.
    dtype : str
        In which the loop runs.
    kinds : list of (int, Explanation)
        For each combination of chunk shapes, how many tasks have it and what each of them would do.
    combined : tuple of str
        The core axes along which partial results are combined.
    whole : tuple of str
        The chunked core axes that the op can't be cut along.
    steps : tuple of ChunkedExplanation
        The calls of the piecewise rule that replaces the op because of them; none where chunks are joined.
    threads : int
        A task's share.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    kinds: list[tuple[int, Explanation]]
    combined: tuple[str, ...]
    whole: tuple[str, ...]
    steps: tuple[ChunkedExplanation, ...]
    threads: int

    @property
    def by_rule(self) -> bool:
        """Whether the op's piecewise rule runs in its place."""
        return bool(self.steps)

    @property
    def chunks(self) -> int:
        """How many tasks run the op, or those of its piecewise rule."""
        return sum(self.by_target.values())

    @property
    def by_target(self) -> dict[str, int]:
        """How many chunks each target gets."""
        found: Counter[str] = Counter()
        for count, explanation in self.kinds:
            found[explanation.decision.target] += count
        for step in self.steps:
            found.update(step.by_target)
        return dict(found)

    def __str__(self) -> str:
        shapes = " ".join(_shown(shape) for shape in self.shapes)
        targets = ", ".join(f"{count:,} {target}" for target, count in self.by_target.items())
        lines = [
            f"{self.op}: {shapes} in {self.dtype}, {self.chunks:,} chunks",
            f"  target      {targets}",
            f"  threads     {self.threads} in each task",
        ]
        if self.combined:
            lines.append(f"  combined    along {', '.join(self.combined)}, in a tree")
        if self.whole:
            how = "by the op's piecewise rule:" if self.by_rule else "chunks are joined"
            lines.append(f"  not cut     along {', '.join(self.whole)}: {how}")
        for step in self.steps:
            lines += [f"    {line}" for line in str(step).splitlines()]
        for count, explanation in self.kinds:
            own = " ".join(_shown(shape) for shape in explanation.shapes[: len(self.shapes)])
            lines.append(f"  {count:,} chunks of {own}: {explanation.decision.target}, because")
            lines.append(f"    {explanation.decision.reason}")
        return "\n".join(lines)

    __repr__ = __str__


def _shown(shape: Sequence[int]) -> str:
    return "x".join("?" if n < 0 else str(n) for n in shape) or "()"


def results(op: Op, operands: Sequence[Any], axes: Axes | None, target: str | None) -> Any:
    """The call's lazy results, for what is to be explained next; no recorder hears of the call."""
    token = recording.set(None)
    try:
        return call(op, operands, axes, target)
    finally:
        recording.reset(token)


def explain(op: Op, operands: Sequence[Any], axes: Axes | None, target: str | None) -> ChunkedExplanation:
    """What `nbops.explain` says of Dask arrays; nothing is computed."""
    from nbops.explain import explain_calls

    values, _ = arranged(op, operands, axes)
    loop_dtypes, _ = types_of(op, values)
    shapes = [tuple(-1 if n != n else int(n) for n in np.shape(x)) for x in values]
    op.signature.infer(shapes, op.name, op.arguments)
    cut, index, chunks = agree(op, values)
    several = [name for name, label in index.core.items() if len(chunks[label]) > 1]
    combined = tuple(name for name in several if name in op.pieces.reduced)
    whole = tuple(name for name in several if name not in op.pieces.independent + op.pieces.reduced)
    kinds: list[tuple[int, Explanation]] = []
    steps: list[ChunkedExplanation] = []
    limit = workers.expected_share()
    if whole and op.pieces.rule is not None:
        steps = explain_calls(op.pieces.rule, cut, {}, target)
    else:
        for name in whole:
            label = index.core[name]
            own = chunks[label]
            chunks[label] = own[:1] if is_unknown(own) else (sum(own),)
        with dispatch.use(threads=min(limit, dispatch.settings().threads or limit)):
            kinds = _kinds(op, cut, index.inputs, chunks, target)
    return ChunkedExplanation(
        op.name, tuple(shapes), loop_dtypes[-1].name, kinds, combined, whole, tuple(steps), limit
    )


def _kinds(
    op: Op,
    values: Sequence[Any],
    indices: Sequence[Sequence[int]],
    chunks: dict[int, Any],
    target: str | None,
) -> list[tuple[int, Explanation]]:
    """The combinations of chunk shapes, those of the most tasks first."""
    from nbops.explain import explain as explain_arrays

    there = next((x._meta for x in values if arrays.is_dask(x) and cuda.is_device_array(x._meta)), None)
    counts = {label: Counter(UNKNOWN if n != n else int(n) for n in own) for label, own in chunks.items()}
    labels = list(counts)
    kinds = []
    for lengths in product(*(counts[label] for label in labels)):
        size = dict(zip(labels, lengths, strict=True))
        stand_ins = [
            _stand_in(x, own, size) if arrays.is_dask(x) else x
            for x, own in zip(values, indices, strict=True)
        ]
        explanation = explain_arrays(op, *stand_ins, target=target)
        if there is not None:
            explanation = replace(explanation, decision=dispatch.on_its_device(type(there).__name__))
        kinds.append((math.prod(counts[label][size[label]] for label in labels), explanation))
    return sorted(kinds, key=lambda kind: -kind[0])


def _stand_in(x: Any, own: Sequence[int], size: dict[int, int]) -> np.ndarray:
    """An array of a chunk's shape that takes no memory."""
    shape = [1 if n == 1 else size[label] for n, label in zip(x.shape, own, strict=True)]
    return np.broadcast_to(np.zeros((), x.dtype), shape)
