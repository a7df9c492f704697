"""`check`: tries every promise on the examples and on drawn calls, and shrinks what breaks one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nbops.op import Op
from nbops.testing import on_arrays, on_gradients, on_tensors  # noqa: F401  (they register their promises)
from nbops.testing.promises import PROMISES, Promise
from nbops.testing.report import Finding, Report
from nbops.testing.subject import Call, Draw, Subject

__all__ = ["check"]


def check(
    function: Callable[..., Any],
    *example: Any,
    examples: Iterable[Sequence[Any]] = (),
    op: Op | None = None,
    oracle: Callable[..., Any] | None = None,
    draw: Draw | None = None,
    gradients: tuple[int, ...] | None = None,
    steps: Callable[..., int] | None = None,
    float_only: bool = False,
    promises: Iterable[str] | None = None,
    without: Iterable[str] = (),
    calls: int = 20,
    seed: int = 0,
    raises: bool = True,
) -> Report:
    """Check that an op, or a function made of ops, keeps what nbops promises.

    Parameters
    ----------
    function : Op or function
    *example : array_like
        Operands of one call, float64 (or integers for labels). More calls are drawn from their values, in
        other shapes, dtypes and layouts; keep them away from kinks and poles: there is no derivative there.
    examples : iterable of sequences of array_like
        More calls.
    op : Op, optional
        The op behind `function`, if that is a wrapper.
    oracle : function, optional
        The same in NumPy, on float64.
    draw : function, optional
        ``draw(rng, shapes)`` gives operands of these shapes, for ops whose examples' values do not do
        for every shape.
    gradients : tuple of int, optional
        The operands that must have a gradient; unless given, those for which the op's rule returns one.
    steps : function, optional
        ``steps(*shapes)``: how many terms are added up per element of the result, for the tolerance; unless
        given, what the signature says.
    float_only : bool
        Leave integers out.
    promises, without : iterable of str, optional
        Names from `PROMISES` to check, all unless given; and to leave out.
    calls : int
        How many calls are drawn per promise.
    seed : int
        Another one draws other calls.
    raises : bool
        Raise where a promise is broken; else only report.

    Returns
    -------
    Report

    Raises
    ------
    AssertionError
        With the report, when a promise is broken.
    ImportError
        Without hypothesis.

    Examples
    --------
    >>> import numpy as np, nbops
    >>> from nbops.testing import check
    >>> report = check(nbops.tanh, np.array([-1.5, 0.5]), oracle=np.tanh, promises=["oracle", "gradient"])
    >>> report.kept
    ('oracle', 'gradient')
    """
    given = [list(map(np.asarray, operands)) for operands in ([example] if example else [])]
    given += [list(map(np.asarray, operands)) for operands in examples]
    if not given:
        raise ValueError("check: no example came; pass the operands of a call that must work")
    subject = Subject(
        function,
        op or (function if isinstance(function, Op) else None),
        given,
        oracle,
        draw,
        gradients,
        steps,
        float_only,
    )
    chosen = _chosen(promises, without)
    with _strict_and_quiet():
        findings = tuple(_find(subject, promise, calls, seed) for promise in chosen)
    report = Report(subject.name, findings, tuple(subject.targets))
    if raises and report.broken:
        raise AssertionError(str(report))
    return report


@contextmanager
def _strict_and_quiet() -> Iterator[None]:
    """RuntimeWarnings are errors: no op warns of NaN or overflow. TensorFlow's advice is not shown."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it would advise against tracing anew for every call
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield
    finally:
        logger.setLevel(before)


def _chosen(promises: Iterable[str] | None, without: Iterable[str]) -> list[Promise]:
    names = list(PROMISES) if promises is None else list(promises)
    left_out = set(without)
    unknown = (set(names) | left_out) - set(PROMISES)
    if unknown:
        raise ValueError(f"check: no promise is called {min(unknown)!r}; there are {', '.join(PROMISES)}")
    return [PROMISES[name] for name in names if name not in left_out]


def _find(subject: Subject, promise: Promise, calls: int, seed: int) -> Finding:
    """Try one promise."""
    missing = promise.missing(subject)
    if missing:
        return Finding(promise.name, promise.statement, "skipped", missing)
    tried = _Trial(subject, promise)
    for operands in subject.examples:
        layouts = ("contiguous",) * subject.n_inputs
        if promise.calls != "tiny" and tried.breaks(Call(subject, tuple(operands), layouts)):
            break
    _draw(tried, min(calls, promise.limit), seed)
    if tried.smallest is None:
        return Finding(promise.name, promise.statement, "kept", calls=tried.count)
    call, reason = tried.smallest
    return Finding(promise.name, promise.statement, "broken", reason, str(call), tried.count)


class _Trial:
    """Tries one promise on calls, and keeps the smallest that breaks it."""

    def __init__(self, subject: Subject, promise: Promise) -> None:
        self.subject = subject
        self.promise = promise
        self.count = 0
        self.smallest: tuple[Call, str] | None = None

    def breaks(self, call: Call) -> bool:
        self.count += 1
        try:
            self.promise.test(self.subject, call)
        except AssertionError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        else:
            return False
        if self.smallest is None or _size(call) <= _size(self.smallest[0]):
            self.smallest = call, reason
        return True


def _size(call: Call) -> tuple[int, int, int]:
    """What "smaller" means: fewer elements, fewer axes, plainer layouts."""
    return (
        sum(x.size for x in call.arrays),
        sum(x.ndim for x in call.arrays),
        sum(layout != "contiguous" for layout in call.layouts),
    )


def _draw(tried: _Trial, calls: int, seed: int) -> None:
    """Draw calls until one breaks the promise, and shrink it."""
    from nbops.testing import strategies

    kinds: dict[str, dict[str, Any]] = {
        "any": {},
        "tiny": {"max_side": 1, "max_dims": 2},
        "floating": {"dtypes": ("float64",), "min_side": 1, "max_side": 4},
    }
    strategies.search(
        strategies.calls(tried.subject, **kinds[tried.promise.calls]), tried.breaks, calls=calls, seed=seed
    )
