"""Promises about gradients, on NumPy arrays: `Op.vjp` against differences, for any upstream gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbops.testing.layouts import LAYOUTS, REPEATING
from nbops.testing.promises import expect_equal, fail, promise
from nbops.testing.subject import Array, Call, Subject, as_list, widen

__all__ = ["expect_derivative", "expect_gradient", "wanted_gradients"]

STEP = 1e-4
#: What differences of float64 values leave, relative to the terms that are added up.
TOLERANCE = 1e-7


def along(value: Callable[[float], float]) -> float:
    """The derivative at 0 by central differences of fourth order, whose error is of the order STEP⁴."""
    near, far = value(STEP) - value(-STEP), value(2 * STEP) - value(-2 * STEP)
    return (8 * near - far) / (12 * STEP)


def expect_derivative(gradient: Any, direction: Array, value: Callable[[float], float], what: str) -> None:
    """Raise unless ``Σ gradient · direction`` is the derivative of `value` at 0."""
    if np.shape(gradient) != direction.shape:
        fail(f"{what}: its shape is {np.shape(gradient)}; expected {direction.shape}")
    if not direction.size:  # nothing can be moved, even if the value is NaN, as a mean of nothing is
        return
    expected = along(value)
    terms = widen(gradient) * direction
    scale = max(1.0, float(np.abs(terms).sum()), abs(value(0.0)))
    if not abs(float(terms.sum()) - expected) <= TOLERANCE * scale:
        fail(f"{what}: along a direction it is {float(terms.sum()):.9g}; differences give {expected:.9g}")


def expect_gradient(
    subject: Subject,
    operands: Sequence[Array],
    index: int,
    gradient: Any,
    upstreams: Sequence[Array],
    rng: np.random.Generator,
) -> None:
    """Raise unless an operand's gradient is that of ``Σ upstream · result`` in a direction.

    The results are the oracle's where there is one.
    """
    direction = np.asarray(rng.normal(size=operands[index].shape))

    def value(step: float) -> float:
        moved = [x + step * direction if i == index else x for i, x in enumerate(operands)]
        results = subject.expected(moved) or subject.run(moved, "serial")
        return float(sum((widen(u) * widen(y)).sum() for u, y in zip(upstreams, results, strict=True)))

    expect_derivative(gradient, direction, value, f"the gradient of {subject.arguments[index]}")


def wanted_gradients(subject: Subject) -> tuple[int, ...]:
    """The operands whose gradient is checked: those stated, else the floating point ones."""
    if subject.wanted_gradients is not None:
        return subject.wanted_gradients
    return tuple(index for index, generic in enumerate(subject.generic) if generic)


def _upstreams(call: Call, results: Sequence[Array]) -> list[Array]:
    rng = call.rng
    return [np.asarray(rng.normal(size=y.shape), y.dtype) for y in results]


def _pull(subject: Subject, operands: Sequence[Any], upstreams: Sequence[Any] | None, call: Call) -> Any:
    """The gradients, and the upstream gradients they were pulled back from."""
    assert subject.op is not None
    results, pullback = subject.op.vjp(*operands)
    upstreams = _upstreams(call, as_list(results)) if upstreams is None else upstreams
    return pullback(*upstreams), upstreams


@promise("gradient", calls="floating")
def gradient(subject: Subject, call: Call) -> None:
    """The gradient is the derivative, in every direction."""
    operands = call.operands()
    gradients, upstreams = _pull(subject, operands, None, call)
    rng = np.random.default_rng(call.seed + 1)
    for index in wanted_gradients(subject):
        argument = subject.arguments[index]
        if gradients[index] is None:
            if subject.wanted_gradients is not None:
                fail(f"{argument} has no gradient")
            continue
        expect_gradient(subject, operands, index, gradients[index], upstreams, rng)


@promise("gradient", calls="any", limit=10)
def gradient_kind(subject: Subject, call: Call) -> None:
    """A gradient has its operand's shape and dtype."""
    if call.dtype.kind in "iu":
        return
    operands = call.operands()
    gradients, _ = _pull(subject, operands, None, call)
    for result, x, argument in zip(gradients, operands, subject.arguments, strict=True):
        if result is not None:
            ours, own = np.asarray(result), x.dtype.newbyteorder("=")
            if (ours.shape, ours.dtype) != (x.shape, own):
                fail(f"the gradient of {argument} is {ours.dtype}{ours.shape}; {argument} is {own}{x.shape}")


@promise("gradient", calls="floating", limit=10)
def upstream(subject: Subject, call: Call) -> None:
    """Strided, reversed, read-only and zero-stride upstream gradients are served."""
    operands = call.operands()
    _, drawn = _pull(subject, operands, None, call)
    for name, layout in LAYOUTS.items():
        given = [layout(x) for x in drawn]
        if name in REPEATING or name in ("swapped", "misaligned"):
            drawn_alike = [np.array(x, dtype=x.dtype.newbyteorder("="), order="C") for x in given]
        else:
            drawn_alike = drawn
        _expect_same_gradients(subject, operands, given, drawn_alike, call, f"a {name} upstream gradient")
    constant = [np.broadcast_to(np.float64(0.7), x.shape) for x in drawn]
    _expect_same_gradients(
        subject, operands, constant, [x.copy() for x in constant], call, "a constant upstream gradient of 0.7"
    )


def _expect_same_gradients(
    subject: Subject, operands: list[Array], given: list[Array], straight: list[Array], call: Call, what: str
) -> None:
    gradients, _ = _pull(subject, operands, given, call)
    expected, _ = _pull(subject, operands, straight, call)
    for ours, theirs, argument in zip(gradients, expected, subject.arguments, strict=True):
        if theirs is not None:
            scale = float(np.abs(theirs).max(initial=1.0))
            close = np.allclose(ours, theirs, rtol=0, atol=1e-12 * scale * max(1, np.size(straight[0])))
            if np.shape(ours) != np.shape(theirs) or not close:
                fail(f"{what} changes the gradient of {argument}: {ours} instead of {theirs}")


@promise("gradient", calls="floating", limit=10)
def upstream_nan(subject: Subject, call: Call) -> None:
    """A NaN in the upstream gradient goes where a number would go, and only to what the result came from."""
    operands = call.operands()
    assert subject.op is not None
    results, pullback = subject.op.vjp(*operands)
    for output, result in enumerate(as_list(results)):
        if not result.size:
            continue
        place = tuple(n // 2 for n in result.shape)
        alone = [np.zeros_like(y) for y in as_list(results)]
        poisoned = _upstreams(call, as_list(results))
        alone[output][place], poisoned[output][place] = 1.0, np.nan
        pairs = zip(pullback(*alone), pullback(*poisoned), strict=True)
        for index, (number, nan) in enumerate(pairs):
            if number is None:
                continue
            reached, poisonous = np.asarray(number) != 0, np.isnan(nan)
            for element in np.argwhere(reached & ~poisonous):
                fail(f"a NaN upstream at {place} does not reach {subject.arguments[index]}[{tuple(element)}]")
            for element in np.argwhere(poisonous & ~reached):
                if not _depends(subject, call, index, tuple(element), output, place):
                    fail(
                        f"a NaN upstream at {place} reaches {subject.arguments[index]}[{tuple(element)}], "
                        "on which that element of the result does not depend"
                    )


def _depends(
    subject: Subject, call: Call, index: int, element: tuple[int, ...], output: int, place: tuple[int, ...]
) -> bool:
    """Whether a NaN in an element of an operand makes an element of a result NaN."""
    operands = call.plain()
    operands[index][element] = np.nan
    return bool(np.isnan(subject.run(operands, "serial")[output][place]))


@promise("gradient", calls="floating", limit=10)
def gradient_inputs(subject: Subject, call: Call) -> None:
    """The gradient writes neither operands, results nor upstream gradients; all may be read-only."""
    assert subject.op is not None
    operands = call.operands()
    out, pullback = subject.op.vjp(*operands)
    results = as_list(out)
    upstreams = _upstreams(call, results)
    kept = [x.copy() for x in (*operands, *results, *upstreams)]
    pullback(*upstreams)
    for x, copy in zip((*operands, *results, *upstreams), kept, strict=True):
        expect_equal([x], [copy], "after the gradient, an array that went in")
    read_only = [LAYOUTS["read_only"](x) for x in operands]
    subject.op.vjp(*read_only)[1](*(LAYOUTS["read_only"](x) for x in upstreams))
