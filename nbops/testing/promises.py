"""What an op promises: one function per promise, found by `nbops.testing.check` in `PROMISES`.

A promise is a function ``test(subject, call)`` that raises `BrokenPromiseError`, or lets the op's own
exception through, when the call breaks it. Its docstring's first line is the statement that a report prints.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from nbops.testing.subject import Call, Subject, widen

__all__ = ["PROMISES", "BrokenPromiseError", "Promise", "expect_close", "expect_equal", "promise"]

Test = Callable[[Subject, Call], None]


class BrokenPromiseError(AssertionError):
    """A promise that a call broke."""


@dataclass(frozen=True)
class Promise:
    """A promise and how it is tested.

    Attributes
    ----------
    name : str
    statement : str
    test : function of Subject and Call
    needs : tuple of str
        Keys of `NEEDS`.
    calls : str
        Which calls it is tested on: ``any``, ``tiny`` (sizes 0 and 1) or ``floating`` (float64).
    limit : int
        At most so many drawn calls; the examples are tested besides.
    """

    name: str
    statement: str
    test: Test
    needs: tuple[str, ...]
    calls: str
    limit: int

    def missing(self, subject: Subject) -> str | None:
        """Why the promise can't be tested, if it can't."""
        return next((why for need in self.needs if (why := NEEDS[need](subject))), None)


#: Every promise by name, in the order in which reports print them.
PROMISES: dict[str, Promise] = {}


def promise(*needs: str, calls: str = "any", limit: int = 1000) -> Callable[[Test], Test]:
    """Register the function as a promise under its own name."""

    def decorate(test: Test) -> Test:
        statement = (test.__doc__ or test.__name__).strip().splitlines()[0].rstrip(".")
        PROMISES[test.__name__] = Promise(test.__name__, statement, test, needs, calls, limit)
        return test

    return decorate


def _needs_gradient(subject: Subject) -> str | None:
    if subject.op is None:
        return "a function made of ops: only TensorFlow asks for its gradient"
    return "the op has no gradient" if subject.op.rule is None else None


def _needs_tensorflow(subject: Subject) -> str | None:
    return None if importlib.util.find_spec("tensorflow") else "TensorFlow is not installed"


def _needs_derivatives(subject: Subject) -> str | None:
    if subject.op is not None and subject.op.rule is None:
        return "the op has no gradient"
    return "no operand has a gradient" if subject.wanted_gradients == () else None


NEEDS: dict[str, Callable[[Subject], str | None]] = {
    "op": lambda subject: None if subject.op else "a function made of ops: its loops are checked with them",
    "oracle": lambda subject: None if subject.oracle else "no oracle was given",
    "out": lambda subject: None if subject.takes_out else "it takes no out=",
    "gradient": _needs_gradient,
    "derivatives": _needs_derivatives,
    "tensorflow": _needs_tensorflow,
}


# ---- comparing --------------------------------------------------------------------------------------


def fail(what: str) -> NoReturn:
    raise BrokenPromiseError(what)


def expect_equal(results: Sequence[Any], expected: Sequence[Any], what: str) -> None:
    """Raise unless results are the same bit for bit (NaNs are alike)."""
    for result, wanted in zip(results, expected, strict=True):
        _expect_alike(np.asarray(result), np.asarray(wanted), 0.0, what)


def expect_close(
    subject: Subject,
    call: Call,
    results: Sequence[Any],
    expected: Sequence[Any],
    what: str,
    dtype: Any = None,
) -> None:
    """Raise unless results are equal up to the subject's tolerance."""
    if len(results) != len(expected):
        fail(f"{what}: {len(results)} results came; expected {len(expected)}")
    for result, wanted in zip(results, expected, strict=True):
        kind = result.dtype if dtype is None else dtype
        _expect_alike(
            np.asarray(result), np.asarray(wanted), subject.tolerance(kind, call.shapes, wanted), what
        )


def _expect_alike(result: Any, wanted: Any, tolerance: float, what: str) -> None:
    if result.shape != wanted.shape:
        fail(f"{what}: the result's shape is {result.shape}; expected {wanted.shape}")
    ours, theirs = widen(result), widen(wanted)
    with np.errstate(invalid="ignore", over="ignore"):
        alike = (ours == theirs) | ((ours != ours) & (theirs != theirs))
        alike |= np.abs(ours.astype(np.float64) - theirs.astype(np.float64)) <= tolerance
    if not alike.all():
        place = tuple(int(i) for i in np.argwhere(~alike)[0])
        within = f", which is not within {tolerance:.2g}" if tolerance else ""
        fail(f"{what}: [{', '.join(map(str, place))}] is {ours[place]}; expected {theirs[place]}{within}")
