"""Every op inside TensorFlow: values, dtypes, static shapes, unknown batches, first and second order.

The cases are those of NumPy (tests/cases.py). What else the bridge does is tested in test_bridge.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import nbops  # noqa: E402
from tests.cases import CASES, CASES_AND_SHAPES, Case, as_list, assert_close, describe, is_label  # noqa: E402

DIFFERENTIABLE = [case for case in CASES if case.gradients]
#: What must know the number of axes while tracing: the axes to move, to sum over or to pick a product by.
NEED_A_RANK = ("matmul(a, bᵀ)ᵀ", "dot", "softmax(axis=0)")
#: Their second order is the loss's third, which has no rule.
FIRST_ORDER_ONLY = (
    "crossentropy_and_gradient",
    "crossentropy_from_logits_gradient",
    "crossentropy_from_probabilities_gradient",
)


def tensors(operands: list[Any]) -> list[Any]:
    return [tf.constant(x) for x in operands]


def to_numpy(results: Any) -> Any:
    return tuple(x.numpy() for x in results) if isinstance(results, tuple | list) else results.numpy()


def is_checked(case: Case, shapes: Any) -> bool:
    """Small enough for differences of graphs, and not a mean of nothing, which is NaN."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    return max(sizes) <= 150 and (min(sizes) > 0 or not case.name.startswith("mean"))


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "shapes"), CASES_AND_SHAPES, ids=describe)
def test_values_eager(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes)
    results = case.function(*tensors(operands))
    assert tf.is_tensor(results) or all(tf.is_tensor(x) for x in results)
    assert_close(to_numpy(results), case.expected(operands), case, shapes)


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_values_in_a_graph_with_static_shapes(case: Case, rng: np.random.Generator) -> None:
    """One trace per shape; the shapes that TensorFlow infers are those of the results."""
    function = tf.function(case.function)
    for shapes in case.shapes[:3]:
        operands = case.draw(rng, shapes, np.float32)
        expected = case.expected(operands)
        traced = function.get_concrete_function(*tensors(operands))
        assert [tuple(x.shape) for x in traced.outputs] == [x.shape for x in expected]
        assert_close(to_numpy(function(*tensors(operands))), expected, case, shapes)


@pytest.mark.parametrize("case", [case for case in CASES if case.shapes[0][0]], ids=describe)
def test_an_unknown_batch(case: Case, rng: np.random.Generator) -> None:
    """The first axis of every operand is unknown while tracing: one trace serves every length that fits."""
    shapes = case.shapes[0]
    operands = case.draw(rng, shapes, np.float32)
    signature = [
        tf.TensorSpec([None, *shape[1:]] if shape else [], x.dtype)
        for x, shape in zip(operands, shapes, strict=True)
    ]
    function = tf.function(lambda *x: case.function(*x), input_signature=signature)
    assert_close(to_numpy(function(*tensors(operands))), case.expected(operands), case, shapes)
    empty = [x[:0] if x.ndim else x for x in operands]
    if case.name not in ("reshape", "broadcast_to"):
        try:
            case.function(*empty)
            expected = case.expected(empty)
        except ValueError:  # the first axis is summed over by one operand and kept by the other
            expected = None
        if expected is not None:
            assert_close(to_numpy(function(*tensors(empty))), expected, case, [x.shape for x in empty])
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_an_unknown_rank_is_served_or_refused_in_words(case: Case, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], np.float32)
    signature = [tf.TensorSpec(None, x.dtype) for x in operands]
    function = tf.function(lambda *x: case.function(*x), input_signature=signature)
    if case.name in NEED_A_RANK or case.name.startswith(("sum(", "mean(")) or "axis=1" in case.name:
        with pytest.raises(ValueError, match=r"known number of axes|axes is unknown"):
            function(*tensors(operands))
    else:
        results = function(*tensors(operands))
        assert_close(to_numpy(results), case.expected(operands), case, case.shapes[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=describe)
@pytest.mark.parametrize("case", CASES, ids=describe)
def test_the_dtype_stays(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], dtype)
    with tf.GradientTape() as tape:
        inputs = tensors(operands)
        tape.watch([x for index, x in enumerate(inputs) if not is_label(case, index)])
        results = case.function(*inputs)
    assert {x.dtype for x in tf.nest.flatten(results)} == {tf.as_dtype(dtype)}
    assert_close(to_numpy(results), case.expected(operands), case, case.shapes[0])
    chosen = [inputs[index] for index in case.gradients]
    gradients = tape.gradient(results, chosen) if chosen else []
    for index, gradient in zip(case.gradients, gradients, strict=True):
        assert gradient.dtype == tf.as_dtype(dtype)
        assert gradient.shape == operands[index].shape


@pytest.mark.parametrize("dtype", [np.int32, np.int64], ids=describe)
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.integers == "keep" and c.op is not None], ids=describe
)
def test_integers_keep_their_dtype(case: Case, dtype: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], dtype)
    for result, expected in zip(
        as_list(to_numpy(case.function(*tensors(operands)))), case.expected(operands), strict=True
    ):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected)


# ---- gradients -------------------------------------------------------------------------------------------

STEP = 1e-5


def pulled(case: Case, inputs: list[Any], upstreams: list[Any]) -> list[Any]:
    """First-order gradients of Σ upstream · result; zeros where there is none."""
    chosen = [inputs[index] for index in case.gradients]
    with tf.GradientTape() as tape:
        tape.watch(chosen)
        results = tf.nest.flatten(case.function(*inputs))
        total = tf.add_n([tf.reduce_sum(u * y) for u, y in zip(upstreams, results, strict=True)])
    return tape.gradient(total, chosen, unconnected_gradients=tf.UnconnectedGradients.ZERO)


@pytest.mark.parametrize(
    ("case", "shapes"), [(c, s) for c in DIFFERENTIABLE for s in c.shapes if is_checked(c, s)], ids=describe
)
def test_first_order(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    """Against central differences of the oracle in float64, along one direction per operand."""
    operands = case.draw(rng, shapes)
    upstreams = [rng.normal(size=y.shape) for y in case.expected(operands)]
    gradients = pulled(case, tensors(operands), upstreams)
    for index, gradient in zip(case.gradients, gradients, strict=True):
        direction = rng.normal(size=operands[index].shape)

        def value(step: float, index: int = index, direction: Any = direction) -> float:
            moved = [x + step * direction if i == index else x for i, x in enumerate(operands)]
            return float(sum((u * y).sum() for u, y in zip(upstreams, case.expected(moved), strict=True)))

        expected = (value(STEP) - value(-STEP)) / (2 * STEP)
        scale = max(1.0, float(np.abs(gradient).sum()))
        assert gradient.shape == operands[index].shape
        assert abs(float((gradient.numpy() * direction).sum()) - expected) <= 1e-7 * scale, f"operand {index}"


@pytest.mark.parametrize(
    ("case", "shapes"),
    [
        (c, s)
        for c in DIFFERENTIABLE
        for s in c.shapes[:3]
        if is_checked(c, s) and c.name not in FIRST_ORDER_ONLY
    ],
    ids=describe,
)
def test_second_order(case: Case, shapes: Any, rng: np.random.Generator) -> None:
    """A tape in a tape, against central differences of the first gradient, by operands and by upstream."""
    operands = case.draw(rng, shapes)
    upstreams = [rng.normal(size=y.shape) for y in case.expected(operands)]
    weights = [rng.normal(size=operands[index].shape) for index in case.gradients]

    def weighted(values: list[Any], ups: list[Any]) -> Any:
        gradients = pulled(case, values, ups)
        return tf.add_n([tf.reduce_sum(w * g) for w, g in zip(weights, gradients, strict=True)])

    inputs, ups = tensors(operands), tensors(upstreams)
    chosen = [inputs[index] for index in case.gradients] + ups
    with tf.GradientTape() as tape:
        tape.watch(chosen)
        total = weighted(inputs, ups)
    second = tape.gradient(total, chosen, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    for place, gradient in enumerate(second):
        direction = rng.normal(size=gradient.shape)

        def value(step: float, place: int = place, direction: Any = direction) -> float:
            moved, moved_ups = list(operands), list(upstreams)
            if place < len(case.gradients):
                index = case.gradients[place]
                moved[index] = moved[index] + step * direction
            else:
                moved_ups[place - len(case.gradients)] = (
                    moved_ups[place - len(case.gradients)] + step * direction
                )
            return float(weighted(tensors(moved), tensors(moved_ups)))

        expected = (value(STEP) - value(-STEP)) / (2 * STEP)
        scale = max(1.0, float(np.abs(gradient).sum()), abs(float(total)))
        assert abs(float((gradient.numpy() * direction).sum()) - expected) <= 1e-7 * scale, f"place {place}"


CURVED = {
    "multiply",
    "divide",
    "exp",
    "log",
    "sqrt",
    "tanh",
    "sigmoid",
    "tanh_gradient",
    "sigmoid_gradient",
    "vecdot",
    "matvec",
    "vecmat",
    "matmul",
    "softmax",
    "log_softmax",
    "dense_linear",
    "dense_relu",
    "dense_sigmoid",
    "dense_tanh",
    "dense_softmax",
    "dense_weight_gradient",
    "crossentropy_from_logits",
    "crossentropy_from_probabilities",
    "dot",
}


@pytest.mark.parametrize("name", sorted(CURVED))
def test_second_order_is_there(name: str, rng: np.random.Generator) -> None:
    """`test_second_order` takes a missing second derivative for 0; here it must be something."""
    case = next(case for case in CASES if case.name == name)
    inputs = tensors(case.draw(rng, case.shapes[0]))
    chosen = [inputs[index] for index in case.gradients]
    with tf.GradientTape() as outer:
        outer.watch(chosen)
        with tf.GradientTape() as inner:
            inner.watch(chosen)
            results = [y * rng.normal(size=y.shape) for y in tf.nest.flatten(case.function(*inputs))]
        gradients = inner.gradient(results, chosen)
        total = tf.add_n([tf.reduce_sum(g * rng.normal(size=g.shape)) for g in gradients])
    second = outer.gradient(total, chosen, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert max(float(tf.reduce_max(tf.abs(g))) for g in second) > 1e-3


@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=describe)
def test_gradients_with_an_unknown_batch_are_those_of_known_shapes(
    case: Case, rng: np.random.Generator
) -> None:
    shapes = next((s for s in case.shapes if all(s) and len({len(x) for x in s}) > 1), case.shapes[0])
    operands = case.draw(rng, shapes)
    upstreams = [rng.normal(size=y.shape) for y in case.expected(operands)]
    eager = pulled(case, tensors(operands), upstreams)
    signature = [tf.TensorSpec([None, *x.shape[1:]] if x.ndim else [], x.dtype) for x in operands]
    traced = tf.function(lambda *x: pulled(case, list(x), upstreams), input_signature=signature)
    for ours, expected in zip(traced(*tensors(operands)), eager, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FIRST_ORDER_ONLY)
def test_the_third_order_of_crossentropy_says_that_it_is_not_there(
    name: str, rng: np.random.Generator
) -> None:
    case = next(case for case in CASES if case.name == name)
    operands = case.draw(rng, case.shapes[0])
    inputs, ups = tensors(operands), tensors([rng.normal(size=y.shape) for y in case.expected(operands)])
    with tf.GradientTape() as tape:
        tape.watch([*inputs[1:], *ups])
        first = pulled(case, inputs, ups)
    with pytest.raises(TypeError, match="has no gradient; give it one"):
        tape.gradient(first, [*inputs[1:], *ups])


# ---- errors ----------------------------------------------------------------------------------------------


def shares_an_axis(case: Case) -> bool:
    """Whether the first of two operands can be too long for the second."""
    if case.op is None or case.n_inputs != 2:
        return False
    first, second = case.op.signature.inputs
    return case.op.signature.is_elementwise or bool(set(first) & set(second))


TWO = [case for case in CASES if shares_an_axis(case)]


@pytest.mark.parametrize("case", TWO, ids=describe)
def test_bad_shapes(case: Case, rng: np.random.Generator) -> None:
    """InvalidArgumentError at run time, ValueError while tracing; never a crash."""
    inputs = tensors(case.draw(rng, case.shapes[0]))
    assert case.op is not None
    first = tf.zeros([n + 2 for n in inputs[0].shape], inputs[0].dtype)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=case.op.name):
        case.function(first, inputs[1])
    with pytest.raises(ValueError, match=case.op.name):
        tf.function(case.function).get_concrete_function(first, inputs[1])
    unknown = tf.function(case.function, input_signature=[tf.TensorSpec(None, x.dtype) for x in inputs])
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnknownError), match=case.op.name):
        unknown(first, inputs[1])
    assert_close(
        to_numpy(case.function(*inputs)), case.expected([x.numpy() for x in inputs]), case, case.shapes[0]
    )


# ---- a user's op -------------------------------------------------------------------------------------------


def test_a_users_op_under_a_tape(rng: np.random.Generator) -> None:
    from tests.test_user_ops import squared_distance

    x, y = (tf.Variable(rng.normal(size=shape)) for shape in ((5, 3), (4, 3)))

    @tf.function
    def gradients() -> Any:
        with tf.GradientTape() as tape:
            loss = nbops.sum(squared_distance(x, y))
        return tape.gradient(loss, [x, y])

    dx, dy = gradients()
    difference = x.numpy()[:, None] - y.numpy()
    np.testing.assert_allclose(dx, 2 * difference.sum(1), rtol=1e-12)
    np.testing.assert_allclose(dy, -2 * difference.sum(0), rtol=1e-12)


def test_crossentropy_is_keras(rng: np.random.Generator) -> None:
    import keras

    logits = tf.Variable(rng.normal(size=(6, 5)).astype("f4"))
    labels = rng.integers(0, 5, 6)
    for from_logits in (True, False):
        gradients = []
        for loss in (keras.losses.sparse_categorical_crossentropy, nbops.sparse_categorical_crossentropy):
            with tf.GradientTape() as tape:
                predictions = logits if from_logits else tf.nn.softmax(logits)
                values = loss(labels, predictions, from_logits=from_logits)
            gradients.append((values.numpy(), tape.gradient(values, logits).numpy()))
        np.testing.assert_allclose(gradients[1][0], gradients[0][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradients[1][1], gradients[0][1], rtol=1e-4, atol=1e-6)
