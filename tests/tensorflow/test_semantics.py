"""What a tensor brings with it: TensorFlow's own rules for dtypes, labels, unknown ranks, and numbers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import nbops  # noqa: E402
from nbops.op import registry  # noqa: E402

InvalidArgument = tf.errors.InvalidArgumentError
#: AutoGraph would rewrite the functions of nbops too, and nobody could see which of their lines run.
as_written = functools.partial(tf.function, autograph=False)


# ---- labels out of range, as tf.nn.sparse_softmax_cross_entropy_with_logits has it on a CPU ---------------


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_a_label_out_of_range_raises(wrong: int, from_logits: bool) -> None:
    labels, predictions = tf.constant([0, 2, wrong, 1], tf.int64), tf.fill((4, 3), 0.25)

    def loss(y: Any, p: Any) -> Any:
        return nbops.sparse_categorical_crossentropy(y, p, from_logits)

    with pytest.raises(InvalidArgument, match=rf"label has {wrong}; expected 0 to 2"):
        loss(labels, predictions)
    with pytest.raises(InvalidArgument, match=rf"label has {wrong}; expected 0 to 2"):
        tf.function(loss)(labels, predictions)
    with pytest.raises(InvalidArgument):  # what nbops is compared with
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels, predictions)
    assert np.isfinite(loss(labels[:2], predictions[:2])).all()  # all goes on


def test_labels_beside_tensors_are_read_as_beside_arrays() -> None:
    predictions = tf.fill((2, 3), 0.25)
    for labels in (np.ma.masked_array([0, 1], [True, False]), np.array([None, 1]), np.array([True, False])):
        with pytest.raises(TypeError, match="sparse_categorical_crossentropy: y_true"):
            nbops.sparse_categorical_crossentropy(labels, predictions)
    wanted = nbops.sparse_categorical_crossentropy(tf.constant([0, 1]), predictions)
    for labels in ([0, 1], np.array([0.0, 1.0]), np.array([0, 1], "uint8")):
        result = nbops.sparse_categorical_crossentropy(labels, predictions)
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("from_logits", [False, True])
def test_a_label_out_of_range_raises_where_only_the_gradient_is_wanted(from_logits: bool) -> None:
    """Grappler removes the loss itself from such a graph."""

    @tf.function
    def step(labels: Any, predictions: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(predictions)
            loss = nbops.sparse_categorical_crossentropy(labels, predictions, from_logits)
        return tape.gradient(loss, predictions)

    predictions = tf.fill((2, 3), 0.25)
    assert np.isfinite(step(tf.constant([0, 2]), predictions)).all()
    with pytest.raises(InvalidArgument, match="label has 3; expected 0 to 2"):
        step(tf.constant([0, 3]), predictions)


def test_labels_in_a_batch_of_unknown_shape_are_looked_at_too() -> None:
    signature = [tf.TensorSpec(None, tf.int32), tf.TensorSpec(None, tf.float32)]
    loss = as_written(nbops.sparse_categorical_crossentropy, input_signature=signature)
    predictions = tf.fill((2, 3, 4), 0.25)
    assert loss(tf.zeros((2, 3), tf.int32), predictions).shape == (2, 3)
    assert loss(tf.zeros((0, 3), tf.int32), tf.fill((0, 3, 4), 0.25)).shape == (0, 3)
    with pytest.raises(InvalidArgument, match="label has 4; expected 0 to 3"):
        loss(tf.fill((2, 3), 4), predictions)
    with pytest.raises(InvalidArgument, match="label has 0; expected 0 to -1"):
        loss(tf.zeros((2, 3), tf.int32), tf.zeros((2, 3, 0)))


def test_a_pipeline_with_a_wrong_label_raises_and_ends() -> None:
    pairs = tf.data.Dataset.from_tensor_slices((tf.constant([0, 1, 9, 2]), tf.fill((4, 3), 0.25)))
    losses = pairs.map(nbops.sparse_categorical_crossentropy, num_parallel_calls=4)
    with pytest.raises(InvalidArgument, match="label has 9"):
        list(losses)


def test_labels_that_are_no_numbers() -> None:
    with pytest.raises(TypeError, match="y_true has dtype string; expected integers"):
        nbops.sparse_categorical_crossentropy(tf.constant(["a"]), tf.fill((1, 3), 0.25))


# ---- ranks and shapes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (1, 3)), ((), (2, 2)), ((2, 3), (2, 3)), ((0, 3), (1, 1))],
)
@pytest.mark.parametrize("known", ["nothing", "the rank"])
def test_gradients_of_broadcast_operands_whose_shapes_are_not_known(shapes: Any, known: str) -> None:
    """The sum over what was repeated is found when the graph runs, as TensorFlow's own gradients do."""
    specs = [
        tf.TensorSpec(None if known == "nothing" else [None] * len(shape), tf.float64) for shape in shapes
    ]
    x, y = (tf.constant(np.arange(1.0, 1 + np.prod(shape)).reshape(shape)) for shape in shapes)

    def gradients(multiply: Any) -> Any:
        @as_written(input_signature=specs)
        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch([x, y])
                total = tf.reduce_sum(multiply(x, y))
            return tape.gradient(total, [x, y])

        return step(x, y)

    for own, wanted, operand in zip(gradients(nbops.multiply), gradients(tf.multiply), (x, y), strict=True):
        assert own.shape == operand.shape
        np.testing.assert_array_equal(own, wanted)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, (0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 1, 3), None])
@pytest.mark.parametrize("known", [(), (0, 1), (1, 2), (3,)])
def test_sums_of_lengths_that_are_not_known(known: Any, axis: Any) -> None:
    """Axes can't be merged while tracing then, whether they are summed or kept."""
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    shape = [n if i in known else None for i, n in enumerate(x.shape)]

    @as_written(input_signature=[tf.TensorSpec(shape, tf.float64)])
    def totals(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total, mean = nbops.sum(x, axis), nbops.mean(x, axis, keepdims=True)
        return total, mean, tape.gradient(total, x)

    total, mean, gradient = totals(tf.constant(x))
    np.testing.assert_array_equal(total, x.sum(axis))
    np.testing.assert_allclose(mean, x.mean(axis, keepdims=True), rtol=1e-14)
    np.testing.assert_array_equal(gradient, np.ones(x.shape))


def test_what_numpy_alone_has() -> None:
    """TensorFlow's matmul takes no vectors; its sums take no dtype, but casting is a tensor's own way."""
    vector, matrix = tf.ones(3), tf.ones((3, 2))
    for operands in (
        (vector, matrix),
        (tf.transpose(matrix), vector),
        (vector, vector),
        (np.ones(3), matrix),
    ):
        with pytest.raises((ValueError, InvalidArgument)):
            nbops.matmul(*operands)
    total = nbops.sum(tf.constant([1.5, 2.5]), dtype=tf.float64)
    assert (total.dtype, float(total)) == (tf.float64, 4.0)
    assert nbops.vecdot(matrix, matrix, axis=0).numpy().tolist() == [3, 3]
    with pytest.raises(TypeError, match="reshape: copy= does not go with TensorFlow values"):
        nbops.reshape(matrix, 6, copy=True)


def test_means_over_no_axis_and_over_axes_that_are_not_there() -> None:
    x = tf.constant([[1.0, 2.0]])
    for axis in ((), []):
        assert nbops.mean(x, axis=axis).numpy().tolist() == [[1, 2]]  # as tf.reduce_mean
    for axis, problem in ((2, "mean: axis is 2, but the array has 2"), ((0, -2), "mean: axis is .* twice")):
        with pytest.raises(ValueError, match=problem):
            nbops.mean(x, axis=axis)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1j,
        "1",
        np.array([None]),
        np.array([True]),
        np.array(["1"]),
        np.array([1j]),
        np.array([1], "M8[D]"),
    ],
    ids=repr,
)
def test_what_holds_no_numbers_is_refused_beside_tensors(value: Any) -> None:
    """TensorFlow would make NaN of None, and 1 of True."""
    for operands in ((value, tf.ones(1)), (tf.ones(1), value)):
        with pytest.raises(TypeError, match=r"add: [xy] (is a|has dtype)"):
            nbops.add(*operands)


@pytest.mark.parametrize("known", [(0, 2), (None, 2), (None, None)], ids=str)
def test_a_mean_of_nothing_is_nan_and_has_gradients_without_nan(known: Any) -> None:
    """As TensorFlow's own: there is nothing to move, in the second order either."""

    def orders(mean: Any) -> Any:
        @as_written(input_signature=[tf.TensorSpec(known, tf.float64), tf.TensorSpec([1, 2], tf.float64)])
        def step(x: Any, upstream: Any) -> Any:
            with tf.GradientTape() as outer:
                outer.watch(upstream)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    average = mean(x)
                gradient = inner.gradient(average, x, upstream)
                total = tf.reduce_sum(gradient)
            return average, gradient, outer.gradient(total, upstream)

        return step(tf.zeros((0, 2), tf.float64), tf.ones((1, 2), tf.float64))

    ours = orders(lambda x: nbops.mean(x, axis=0, keepdims=True))
    theirs = orders(lambda x: tf.reduce_mean(x, axis=0, keepdims=True))
    assert np.isnan(ours[0]).all()
    for own, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(own, wanted)


@pytest.mark.parametrize("known", ["none", "all", "the array's", "the row's", "the row's rank only"])
def test_gradients_of_a_repeated_row(known: str) -> None:
    """Whichever of the two shapes is known, the row's gradient is summed over what it was repeated along."""
    rows, row = tf.ones((4, 3), tf.float64), tf.constant([[1.0, 2.0, 3.0]], tf.float64)
    shapes = {
        "none": (None, None),
        "all": ((4, 3), (1, 3)),
        "the array's": ((4, 3), None),
        "the row's": (None, (1, 3)),
        "the row's rank only": ((4, 3), (None, 3)),
    }[known]

    @as_written(input_signature=[tf.TensorSpec(shape, tf.float64) for shape in shapes])
    def gradients(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            total = nbops.multiply(x, y)
        return tape.gradient(total, [x, y])

    by_rows, by_row = gradients(rows, row)
    np.testing.assert_array_equal(by_rows, np.tile(row, (4, 1)))
    np.testing.assert_array_equal(by_row, [[4, 4, 4]])
    repeated_by_nothing = (
        gradients(row, row) if known not in ("all", "the array's", "the row's rank only") else None
    )
    if repeated_by_nothing is not None:
        np.testing.assert_array_equal(repeated_by_nothing[1], row)


def test_a_sum_between_several_axes_that_are_not_known() -> None:
    x = np.arange(48.0).reshape(2, 2, 3, 2, 2)
    for shape in ((None, None, 3, 2, 2), (2, 2, 3, None, None), (2, None, None, 2, 2)):
        total = as_written(lambda x: nbops.sum(x, 2), input_signature=[tf.TensorSpec(shape, tf.float64)])
        np.testing.assert_array_equal(total(tf.constant(x)), x.sum(2))


def test_shapes_of_tensors() -> None:
    x = tf.reshape(tf.range(6.0), (2, 3))
    for result, wanted in (
        (nbops.reshape(x, 6), np.arange(6.0)),
        (nbops.reshape(x, (3, -1)), np.arange(6.0).reshape(3, 2)),
        (nbops.transpose(x), x.numpy().T),
        (nbops.transpose(x, (0, 1)), x.numpy()),
        (nbops.matrix_transpose(x), x.numpy().T),
        (nbops.broadcast_to(x, (2, 2, 3)), np.broadcast_to(x, (2, 2, 3))),
        (nbops.expand_dims(x, 1), x.numpy()[:, None]),
    ):
        assert tf.is_tensor(result)
        np.testing.assert_array_equal(result, wanted)


def test_a_gradient_whose_rank_is_known_by_an_operand_s_that_is_not() -> None:
    @as_written(input_signature=[tf.TensorSpec(None, tf.float64), tf.TensorSpec((2, 3), tf.float64)])
    def gradient(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.ensure_shape(nbops.add(x, y), (2, 3))
        return tape.gradient(total, x)

    np.testing.assert_array_equal(gradient(tf.zeros(3, tf.float64), tf.zeros((2, 3), tf.float64)), [2, 2, 2])


@pytest.mark.parametrize("known", [(None, None, None), (2, None, None), (2, 3, 4), (None, 3, 4)])
def test_dot_with_lengths_that_are_not_known(known: Any) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(24.0).reshape(2, 3, 4)

    for rows in ((2, 3), (None, 3), (None, None)):
        signature = [tf.TensorSpec(rows, tf.float64), tf.TensorSpec(known, tf.float64)]
        product = as_written(lambda a, b: nbops.dot(a, b), input_signature=signature)
        np.testing.assert_allclose(product(a, b), np.dot(a, b), rtol=1e-14)
        shape = product.get_concrete_function().output_shapes
        assert shape.as_list() == [rows[0], known[0], known[2]], "what is known stays known"


def test_what_must_know_the_rank_says_so() -> None:
    @as_written(input_signature=[tf.TensorSpec(None, tf.float32)])
    def loss_along_an_axis(p: Any) -> Any:
        return nbops.sparse_categorical_crossentropy(tf.constant([0, 1, 1]), p, axis=-2)

    with pytest.raises(ValueError, match="need a tensor with a known number of axes"):
        loss_along_an_axis(tf.fill((2, 3), 0.5))

    @as_written(input_signature=[tf.TensorSpec(None, tf.float32)])
    def total(x: Any) -> Any:
        return nbops.sum(x, axis=0)

    with pytest.raises(ValueError, match="number of axes is unknown; give it a static rank"):
        total(tf.ones(3))


# ---- numbers -------------------------------------------------------------------------------------------

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-300, -1e300, 800.0])


@pytest.mark.parametrize(
    ("name", "own"),
    [(name, getattr(tf, name)) for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")],
)
def test_special_numbers_as_tensorflow_has_them(name: str, own: Any) -> None:
    """NaN, infinities and the sign of zero; division by zero gives an infinity or NaN and no error."""
    x, y = tf.constant(SPECIAL[:, None]), tf.constant(SPECIAL)
    result, wanted = registry[name](x, y).numpy(), own(x, y).numpy()
    np.testing.assert_array_equal(result, wanted)
    if name not in ("maximum", "minimum"):  # of +0 and -0 either may be the larger
        defined = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(result[defined]), np.signbit(wanted[defined]))


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
def test_integers_wrap_as_tensorflow_s_do(dtype: Any) -> None:
    x = tf.constant([dtype.max, dtype.min, dtype.max, -1], dtype)
    y = tf.constant([1, dtype.max, dtype.max, dtype.min], dtype)
    for name, own in (("add", tf.add), ("subtract", tf.subtract), ("multiply", tf.multiply)):
        np.testing.assert_array_equal(registry[name](x, y), own(x, y))
    np.testing.assert_array_equal(nbops.negative(x), -x)
    np.testing.assert_array_equal(nbops.sum(x), tf.reduce_sum(x))


def test_nothing_is_promoted() -> None:
    for x, y in ((tf.ones(2), tf.ones(2, tf.float64)), (tf.ones(2, tf.int32), tf.ones(2))):
        with pytest.raises(TypeError, match="TensorFlow promotes nothing"):
            nbops.add(x, y)
        with pytest.raises((InvalidArgument, TypeError)):  # what nbops is compared with
            tf.raw_ops.AddV2(x=x, y=y)
    assert nbops.add(tf.ones(2), 1.5).dtype == tf.float32
    assert nbops.add(2, tf.ones(2, tf.float64)).dtype == tf.float64
    for wrong in (1.5, [1.5], np.array([1.5]), np.float32(1.5)):  # TensorFlow cuts the last two down to 1
        with pytest.raises(TypeError, match=r"(?i)int32"):
            nbops.add(tf.ones(1, tf.int32), wrong)


def test_what_a_tensor_can_t_hold_is_refused() -> None:
    x = tf.constant([1.0, 2.0])
    with pytest.raises(TypeError, match="add: y is a masked array, and its mask would be ignored"):
        nbops.add(x, np.ma.masked_array([1.0, 2.0], [True, False]))
    with pytest.raises(TypeError, match=r"relu: x is ragged; expected rows of one length: x.to_tensor\(\)"):
        nbops.relu(tf.ragged.constant([[1.0], [2.0, 3.0]]))


@pytest.mark.parametrize("axis", [2, 7, -3])
def test_an_axis_that_is_not_there_is_named(axis: int) -> None:
    with pytest.raises(ValueError, match=f"softmax: axis {axis} is out of range for a tensor with 2 axes"):
        nbops.softmax(tf.ones((2, 2)), axis=axis)
