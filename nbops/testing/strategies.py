"""Hypothesis strategies: calls of an op, of any shape, dtype and layout, that shrink to a minimal one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np

from nbops.testing.layouts import LAYOUTS
from nbops.testing.subject import Call, Shape, Subject

try:
    from hypothesis import HealthCheck, Phase, errors, find, settings
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import mutually_broadcastable_shapes
except ImportError as error:
    raise ImportError(
        "nbops.testing draws and shrinks its examples with hypothesis: pip install hypothesis, or nbops[test]"
    ) from error

__all__ = ["calls", "search"]


def calls(
    subject: Subject,
    dtypes: Sequence[Any] = ("float64", "float32"),
    layouts: Sequence[str] = tuple(LAYOUTS),
    min_side: int = 0,
    max_side: int = 5,
    max_dims: int = 3,
) -> st.SearchStrategy[Call]:
    """Calls of a subject.

    Parameters
    ----------
    subject : Subject
    dtypes : sequence of dtype
        Of the operands that share one.
    layouts : sequence of str
        From `nbops.testing.layouts.LAYOUTS`.
    min_side, max_side : int
        Bounds of every axis's length.
    max_dims : int
        Bounds the number of axes before the core axes.
    """
    return st.builds(
        lambda shapes, dtype, order, seed: _build(subject, shapes, dtype, order, seed),
        _shapes(subject, min_side, max_side, max_dims),
        st.sampled_from([np.dtype(dtype) for dtype in dtypes]),
        st.tuples(*[st.sampled_from(list(layouts))] * subject.n_inputs),
        st.integers(0, 2**16),
    )


def _build(
    subject: Subject, shapes: Sequence[Shape], dtype: Any, layouts: tuple[str, ...], seed: int
) -> Call:
    arrays = subject.draw(np.random.default_rng(seed), shapes, dtype)
    return Call(subject, tuple(arrays), layouts, seed)


def _shapes(subject: Subject, min_side: int, max_side: int, max_dims: int) -> st.SearchStrategy[Any]:
    """Operand shapes: those of the examples and, for an op, whatever fits its signature."""
    given = [tuple(x.shape for x in example) for example in subject.examples]
    bounded = [s for s in given if all(min_side <= n <= max_side for shape in s for n in shape)]
    examples = st.sampled_from(bounded or given)
    if subject.op is None:
        return examples
    inputs = str(subject.op.signature).split("->")[0]
    any_shape = mutually_broadcastable_shapes(  # which takes one output only, and needs none
        signature=f"{inputs}->()", max_dims=max_dims, min_side=min_side, max_side=max_side
    )
    return st.one_of(any_shape.map(lambda shapes: shapes.input_shapes), examples)


def search(strategy: st.SearchStrategy[Call], breaks: Callable[[Call], bool], calls: int, seed: int) -> None:
    """Draw so many calls, or until one breaks a promise; then go on with smaller and smaller ones that do."""
    quiet = settings(
        max_examples=calls,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    # Where none does, or one only sometimes, `breaks` has seen all there is to know.
    with suppress(errors.NoSuchExample, errors.Flaky):
        find(strategy, breaks, settings=quiet, random=Random(seed))
