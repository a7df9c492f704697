"""explain, for Dask arrays: what happens to each chunk, and how many go where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from nbops import arrays, dispatch
from nbops.dask import types_of, workers
from nbops.dask.chunks import agree, is_unknown

if TYPE_CHECKING:
    from nbops.explain import Explanation
    from nbops.op import Op

__all__ = ["ChunkedExplanation", "explain"]

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
    by_rule : bool
        Whether the op is replaced by its piecewise rule because of them; else their chunks are joined.
    threads : int
        A task's share.
    """

    op: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    kinds: list[tuple[int, Explanation]]
    combined: tuple[str, ...]
    whole: tuple[str, ...]
    by_rule: bool
    threads: int

    @property
    def chunks(self) -> int:
        """How many tasks run the op."""
        return sum(count for count, _ in self.kinds)

    @property
    def by_target(self) -> dict[str, int]:
        """How many chunks each target gets."""
        found: Counter[str] = Counter()
        for count, explanation in self.kinds:
            found[explanation.decision.target] += count
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
            how = "by the op's piecewise rule" if self.by_rule else "chunks are joined"
            lines.append(f"  not cut     along {', '.join(self.whole)}: {how}")
        for count, explanation in self.kinds:
            own = " ".join(_shown(shape) for shape in explanation.shapes[: len(self.shapes)])
            lines.append(f"  {count:,} chunks of {own}: {explanation.decision.target}, because")
            lines.append(f"    {explanation.decision.reason}")
        return "\n".join(lines)

    __repr__ = __str__


def _shown(shape: Sequence[int]) -> str:
    return "x".join("?" if n < 0 else str(n) for n in shape) or "()"


def explain(op: Op, operands: Sequence[Any], target: str | None) -> ChunkedExplanation:
    """What `nbops.explain` says of Dask arrays; nothing is computed."""
    from nbops.dask import _as_lazy
    from nbops.explain import explain as explain_arrays

    values = [_as_lazy(x, op, argument) for x, argument in zip(operands, op.arguments, strict=True)]
    loop_dtypes, _ = types_of(op, values)
    shapes = [tuple(-1 if n != n else int(n) for n in np.shape(x)) for x in values]
    op.signature.infer(shapes, op.name, op.arguments)
    values, index, chunks = agree(op, values)
    several = [name for name, label in index.core.items() if len(chunks[label]) > 1]
    combined = tuple(name for name in several if name in op.pieces.reduced)
    whole = tuple(name for name in several if name not in op.pieces.independent + op.pieces.reduced)
    for name in whole:  # shown as they would be, joined
        label = index.core[name]
        own = chunks[label]
        chunks[label] = own[:1] if is_unknown(own) else (sum(own),)
    counts = {label: Counter(UNKNOWN if n != n else int(n) for n in own) for label, own in chunks.items()}
    labels = list(counts)
    kinds = []
    limit = workers.expected_share()
    with dispatch.use(threads=min(limit, dispatch.settings().threads or limit)):
        for lengths in product(*(counts[label] for label in labels)):
            size = dict(zip(labels, lengths, strict=True))
            stand_ins = [
                _stand_in(x, own, size) if arrays.is_dask(x) else x
                for x, own in zip(values, index.inputs, strict=True)
            ]
            number = int(np.prod([counts[label][size[label]] for label in labels], dtype=np.int64))
            kinds.append((number, explain_arrays(op, *stand_ins, target=target)))
    return ChunkedExplanation(
        op.name,
        tuple(shapes),
        loop_dtypes[-1].name,
        sorted(kinds, key=lambda kind: -kind[0]),
        combined,
        whole,
        op.pieces.rule is not None,
        limit,
    )


def _stand_in(x: Any, own: Sequence[int], size: dict[int, int]) -> np.ndarray:
    """An array of a chunk's shape that takes no memory."""
    shape = [1 if n == 1 else size[label] for n, label in zip(x.shape, own, strict=True)]
    return np.broadcast_to(np.zeros((), x.dtype), shape)
