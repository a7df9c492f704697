"""Promises about TensorFlow: values, graphs, unknown shapes, tapes of first and second order, SavedModels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nbops.testing.on_gradients import expect_derivative, expect_gradient, wanted_gradients
from nbops.testing.promises import expect_close, fail, promise
from nbops.testing.subject import Array, Call, Subject, as_list


def tensors(operands: Sequence[Any]) -> list[Any]:
    """Operands as TensorFlow's constants."""
    import tensorflow as tf

    return [tf.constant(np.array(x, dtype=x.dtype.newbyteorder("="))) for x in operands]


def specifications(operands: Sequence[Array], shape: Callable[[Array], Any]) -> list[Any]:
    import tensorflow as tf

    return [tf.TensorSpec(shape(x), x.dtype) for x in operands]


def _expected(subject: Subject, call: Call) -> list[Array]:
    return subject.expected(call.plain()) or subject.run(call.plain(), "serial")


@promise("tensorflow", calls="floating", limit=10)
def tensor_values(subject: Subject, call: Call) -> None:
    """Tensors give what arrays give."""
    results = as_list(subject.function(*tensors(call.plain())))
    expect_close(subject, call, results, _expected(subject, call), "on tensors")


@promise("tensorflow", calls="floating", limit=5)
def graph(subject: Subject, call: Call) -> None:
    """In tf.function, shapes are known before the call, and values are those of arrays."""
    import tensorflow as tf

    expected = _expected(subject, call)
    inputs = tensors(call.plain())
    traced = tf.function(lambda *x: subject.function(*x)).get_concrete_function(*inputs)
    shapes = [tuple(x.shape) for x in traced.outputs]
    if shapes != [x.shape for x in expected]:
        fail(f"in a graph the results' shapes are {shapes}; they come out as {[x.shape for x in expected]}")
    expect_close(subject, call, as_list(traced(*inputs)), expected, "in a graph")


@promise("tensorflow", calls="floating", limit=5)
def unknown_shapes(subject: Subject, call: Call) -> None:
    """Unknown lengths are served in a graph; an unknown number of axes too, or refused by a ValueError."""
    import tensorflow as tf

    expected = _expected(subject, call)
    inputs = tensors(call.plain())
    for what, shape in (("lengths", lambda x: [None] * x.ndim), ("number of axes", lambda x: None)):
        traced = tf.function(
            lambda *x: subject.function(*x), input_signature=specifications(call.plain(), shape)
        )
        try:
            results = as_list(traced(*inputs))
        except ValueError as error:
            if what == "lengths" or "axes" not in str(error):
                raise
            continue
        expect_close(subject, call, results, expected, f"with an unknown {what}")


@promise("tensorflow", calls="floating", limit=1)
def saved_model(subject: Subject, call: Call) -> None:
    """A SavedModel gives the same after it is loaded."""
    import tensorflow as tf

    module = tf.Module()
    module.call = tf.function(
        lambda *x: subject.function(*x), input_signature=specifications(call.plain(), lambda x: x.shape)
    )
    inputs = tensors(call.plain())
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        loaded = as_list(tf.saved_model.load(folder).call(*inputs))
    expect_close(subject, call, loaded, _expected(subject, call), "from a SavedModel")


@promise("tensorflow", limit=1)
def tensor_refuses(subject: Subject, call: Call) -> None:
    """Tensors that are no real numbers raise TypeError."""
    import tensorflow as tf

    for dtype in (tf.bool, tf.complex64, tf.string):
        for index, argument in enumerate(subject.arguments):
            inputs = tensors(call.plain())
            filled = "one" if dtype is tf.string else tf.cast(1, dtype)
            inputs[index] = tf.fill(tf.shape(inputs[index]), filled)
            try:
                subject.function(*inputs)
            except TypeError:
                continue
            except Exception as error:
                fail(f"{argument} as a {dtype.name} tensor raises {type(error).__name__}; expected TypeError")
            fail(f"{argument} as a {dtype.name} tensor is taken; expected TypeError")


# ---- derivatives ------------------------------------------------------------------------------------


def pulled(
    subject: Subject, inputs: Sequence[Any], upstreams: Sequence[Any], which: Sequence[int]
) -> list[Any]:
    """The gradients of ``Σ upstream · result`` for some inputs; zeros where there is none."""
    import tensorflow as tf

    chosen = [inputs[index] for index in which]
    with tf.GradientTape() as tape:
        tape.watch(chosen)
        results = tf.nest.flatten(subject.function(*inputs))
        total = tf.add_n([tf.reduce_sum(u * y) for u, y in zip(upstreams, results, strict=True)])
    gradients: list[Any] = tape.gradient(total, chosen, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return gradients


def _gradient_operands(subject: Subject) -> tuple[int, ...]:
    """The operands for which the op's own rule gives a gradient."""
    which = wanted_gradients(subject)
    if subject.wanted_gradients is not None or subject.op is None:
        return which
    out, pullback = subject.op.vjp(*subject.examples[0])
    given = pullback(*(np.ones_like(y) for y in as_list(out)))
    return tuple(index for index in which if given[index] is not None)


@promise("tensorflow", "derivatives", calls="floating", limit=5)
def tape(subject: Subject, call: Call) -> None:
    """A tape's gradient is the derivative, eagerly and in a graph of unknown lengths."""
    import tensorflow as tf

    operands = call.plain()
    which = _gradient_operands(subject)
    rng = call.rng
    upstreams = [np.asarray(rng.normal(size=y.shape)) for y in _expected(subject, call)]
    eager = pulled(subject, tensors(operands), upstreams, which)
    for index, result in zip(which, eager, strict=True):
        expect_gradient(subject, operands, index, result, upstreams, rng)
    traced = tf.function(
        lambda *x: pulled(subject, x, upstreams, which),
        input_signature=specifications(operands, lambda x: [None] * x.ndim),
    )
    for index, ours, theirs in zip(which, traced(*tensors(operands)), eager, strict=True):
        if not np.allclose(ours, theirs, rtol=1e-11, atol=1e-11):
            fail(f"with unknown lengths the gradient of {subject.arguments[index]} is {ours}; else {theirs}")


@promise("tensorflow", "derivatives", calls="floating", limit=5)
def second_order(subject: Subject, call: Call) -> None:
    """A tape in a tape gives the derivative of the gradient."""
    import tensorflow as tf

    operands = call.plain()
    which = _gradient_operands(subject)
    rng = call.rng
    upstreams = [np.asarray(rng.normal(size=y.shape)) for y in _expected(subject, call)]
    weights = [rng.normal(size=operands[index].shape) for index in which]

    def weighted(values: Sequence[Any], ups: Sequence[Any]) -> Any:
        gradients = pulled(subject, values, ups, which)
        return tf.add_n([tf.reduce_sum(w * g) for w, g in zip(weights, gradients, strict=True)])

    inputs, ups = tensors(operands), tensors(upstreams)
    chosen = [inputs[index] for index in which] + ups
    with tf.GradientTape() as tape:
        tape.watch(chosen)
        total = weighted(inputs, ups)
    second = tape.gradient(total, chosen, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    names = [f"by {subject.arguments[index]}" for index in which] + ["by the upstream gradient"] * len(ups)
    for place, (result, name) in enumerate(zip(second, names, strict=True)):
        direction = np.asarray(rng.normal(size=result.shape))
        position = which[place] if place < len(which) else len(operands) + place - len(which)

        def value(step: float, position: int = position, direction: Array = direction) -> float:
            moved: list[Array] = [*operands, *upstreams]
            moved[position] = moved[position] + step * direction
            return float(weighted(tensors(moved[: len(operands)]), tensors(moved[len(operands) :])))

        expect_derivative(result, direction, value, f"the gradient's gradient {name}")
