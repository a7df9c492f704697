"""Times as people read them."""

from __future__ import annotations

__all__ = ["duration"]


def duration(nanoseconds: float) -> str:
    """A time with three digits and its unit.

    Examples
    --------
    >>> from nbops.durations import duration
    >>> duration(1234.5), duration(2.5e6), duration(12e9)
    ('1.23 µs', '2.5 ms', '12 s')
    """
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if nanoseconds < 999.5 * size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"
