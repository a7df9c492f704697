"""Which lanes are active: a slice where they are neighbours (the usual case, and free), else sorted
indices.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

__all__ = ["Active", "Array", "count", "indices", "merge", "narrow"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Active: TypeAlias = slice | Array


def count(active: Active) -> int:
    """How many lanes are active."""
    return int(active.stop - active.start) if isinstance(active, slice) else active.size


def indices(active: Active) -> Array:
    """The active lanes' numbers."""
    return np.arange(active.start, active.stop) if isinstance(active, slice) else active


def _compact(lanes: Array) -> Active:
    first, last = int(lanes[0]), int(lanes[-1])
    return slice(first, last + 1) if last - first + 1 == lanes.size else lanes


def narrow(active: Active, chosen: Array) -> Active | None:
    """The active lanes for which `chosen` is true; None for none.

    >>> import numpy as np
    >>> narrow(slice(0, 4), np.array([False, True, True, False]))
    slice(1, 3, None)
    """
    number = int(np.count_nonzero(chosen))
    if number == 0:
        return None
    if number == chosen.size:
        return active
    found = np.flatnonzero(chosen)
    return _compact(found + active.start if isinstance(active, slice) else active[found])


def merge(groups: list[Active]) -> Active:
    """One set of lanes out of several disjoint ones."""
    if len(groups) == 1:
        return groups[0]
    return _compact(np.sort(np.concatenate([indices(group) for group in groups])))
