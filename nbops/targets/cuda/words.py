"""What a CUDA kernel is given: words of the frame, each with a name.

The frame (see `nbops.frame`) is a table of int64. A kernel gets some of its words as scalar parameters, by
name. For matmul, ``(m,k),(k,n)->(m,n)`` with operands a, b and out::

    m, k, n                 sizes of the core axes
    a, b, out               addresses of the operands' first elements
    a_m, b_n, …             byte strides of an operand along a core axis
    items                   batch items, the product of the batch sizes
    batch0, batch1, …       sizes of the (merged) batch axes, `Call.batch_rank` of them
    a_batch0, out_batch1, … byte strides of an operand along a batch axis; 0 where it is repeated
    workspace               address of the scratch memory that the plan asked for

An elementwise op has one core axis, called ``columns``; its items are elements, and its batch axes the rows.
An operand whose core axes share a name, as in ``(n,n)->()``, numbers them: ``a_n0``, ``a_n1``.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbops import frame
from nbops.signature import Signature

__all__ = ["WORKSPACE", "all_names", "places"]

#: A word of the frame's header that the CPU's tasks don't use.
WORKSPACE = 3


def places(signature: Signature, operands: Sequence[str], batch_rank: int) -> dict[str, int]:
    """Where each named word stands in the flat frame.

    Parameters
    ----------
    signature : Signature
    operands : sequence of str
        The operands' names, inputs then outputs.
    batch_rank : int
        From the frame's header.

    Examples
    --------
    >>> names = places(Signature.parse("(n)->()"), ["x", "out"], 1)
    >>> list(names)
    ['items', 'n', 'batch0', 'x', 'x_n', 'x_batch0', 'out', 'out_batch0', 'workspace']
    """
    axes = signature.axis_names or ("columns",)
    found = {"items": frame.ITEMS}
    found |= {axis: frame.CORE + index for index, axis in enumerate(axes)}
    batches = range(max(batch_rank, 1))  # without a batch, the only item is number 0, whatever the stride
    found |= {f"batch{index}": frame.BATCH + index for index in batches}
    for row, (operand, own) in enumerate(zip(operands, signature.operands, strict=True), 1):
        start = row * frame.WIDTH
        found[operand] = start
        for index, axis in enumerate(own or (() if signature.axis_names else axes)):
            name = f"{operand}_{axis}" + (str(index) if own.count(axis) > 1 else "")
            found[name] = start + frame.CORE + index
        found |= {f"{operand}_batch{index}": start + frame.BATCH + index for index in batches}
    found["workspace"] = WORKSPACE
    return found


def all_names(signature: Signature, operands: Sequence[str], batch_rank: int) -> tuple[str, ...]:
    """The names that a loop's own kernel takes: all but the workspace, in the order of the frame."""
    return tuple(name for name in places(signature, operands, batch_rank) if name != "workspace")
