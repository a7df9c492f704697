"""How an op's results on pieces of its operands make the whole result.

Batch axes can always be cut: their items are independent. Of its core axes an op says what a cut does:

independent
    the results on the pieces lie side by side: m and n of ``(m,k),(k,n)->(m,n)``;
reduced
    the results on the pieces are combined in pairs, in a fixed tree: k, where they are added;
neither
    the axis must stay whole, unless the op has a *piecewise* rule, the same function written with ops that
    can be cut: softmax from its rows' largest elements and sums.

`nbops.dask` reads nothing else of an op, and so could anything that holds an array in pieces. On a CPU, cores
share a batch item along an independent axis; see `nbops.targets.cuts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nbops.signature import Signature

__all__ = ["Combine", "Pieces", "leading_axis"]

#: ``combine(left, right)``: one result from those on two neighbouring pieces; a tuple for several outputs.
Combine = Callable[[Any, Any], Any]


class Pieces(NamedTuple):
    """What a cut along each core axis does.

    Parameters
    ----------
    independent, reduced : tuple of str
        Names of core axes.
    combine : function, optional
        How the results of pieces along the reduced axes become one; their sum unless given.
    rule : function, optional
        The op as a function of its inputs, written with ops that can be cut.
    """

    independent: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()
    combine: Combine | None = None
    rule: Callable[..., Any] | None = None

    @classmethod
    def parse(cls, name: str, signature: Signature, independent: str, reduced: str) -> Pieces:
        """Read the axes, ``"m,n"`` and ``"k"``, and check them.

        Raises
        ------
        ValueError
            For an axis that the signature does not have or an operand has twice, an independent one that an
            output lacks, or a reduced one that an output has.
        """
        beside, over = (
            tuple(axis.strip() for axis in text.split(",") if axis.strip()) for text in (independent, reduced)
        )
        for axis in (*beside, *over):
            if axis not in signature.axis_names:
                raise ValueError(f"{name}: there is no axis {axis!r} in {signature}")
            if any(names.count(axis) > 1 for names in signature.operands):
                raise ValueError(f"{name}: an operand of {signature} has {axis!r} twice; it must stay whole")
        for axis in beside:
            if not all(axis in names for names in signature.outputs):
                raise ValueError(f"{name}: {axis!r} can't be independent: an output of {signature} lacks it")
        for axis in over:
            if any(axis in names for names in signature.outputs):
                raise ValueError(f"{name}: {axis!r} can't be reduced: an output of {signature} has it")
        return cls(beside, over)

    def pair(self, left: Any, right: Any) -> Any:
        """One result from those on two neighbouring pieces."""
        if self.combine is not None:
            return self.combine(left, right)
        from nbops.ops.elementwise import add

        if isinstance(left, tuple):
            return tuple(add(x, y) for x, y in zip(left, right, strict=True))
        return add(left, right)

    def combine_all(self, results: list[Any]) -> Any:
        """One result from those on neighbouring pieces: of the halves, each of their halves, and so on."""
        if len(results) == 1:
            return results[0]
        middle = len(results) // 2
        return self.pair(self.combine_all(results[:middle]), self.combine_all(results[middle:]))


def leading_axis(signature: Signature, independent: tuple[str, ...]) -> int | None:
    """The number of the first independent axis that comes first wherever it comes; None if there is none.

    Arrays whose later axes are whole stay contiguous.
    """
    for axis in independent:
        if all(names.index(axis) == 0 for names in signature.operands if axis in names):
            return signature.axis_names.index(axis)
    return None
