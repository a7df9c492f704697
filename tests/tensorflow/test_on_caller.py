"""A traced function on its caller's thread gives what the function gives, and changes what it changes."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from nbops.tensorflow.on_caller import OnCaller  # noqa: E402

SCALAR = tf.TensorSpec((), tf.float32)


@pytest.fixture
def counter():
    """A function that adds to a variable, and returns a structure."""
    total = tf.Variable(0.0)

    def add(x, y):
        total.assign_add(tf.reduce_sum(x))
        return {"double": 2 * x, "both": (total.read_value(), y + 1)}

    signature = [tf.TensorSpec((None,), tf.float32), tf.TensorSpec((), tf.int64)]
    return OnCaller(tf.function(add, input_signature=signature)), total


def test_values_structure_and_variables(counter):
    function, total = counter
    for x in (np.array([1, 2], np.float32), tf.constant([3.0]), np.zeros(0, np.float32)):
        result = function(x, np.int64(4))
        np.testing.assert_array_equal(result["double"], 2 * np.asarray(x))
        assert float(result["both"][0]) == float(total)
        assert int(result["both"][1]) == 5
    assert float(total) == 6
    assert function.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("arguments", [([[1.0]], 1), ([1.0],), (["a"], 1)])
def test_what_does_not_fit_raises_what_the_function_raises(counter, arguments):
    function, total = counter
    with pytest.raises((TypeError, ValueError)) as direct:
        function.function(*arguments)
    with pytest.raises(type(direct.value)):
        function(*arguments)
    assert float(total) == 0


def test_inside_another_graph_it_is_the_function(counter):
    function, total = counter
    outer = tf.function(lambda x: function(x, tf.constant(1, tf.int64))["double"])
    assert outer(tf.constant([2.0])).numpy().tolist() == [4.0]
    assert float(total) == 2


def test_an_error_inside_is_raised():
    def check(x):
        return tf.raw_ops.CheckNumerics(tensor=x, message="only numbers")

    function = OnCaller(tf.function(check, input_signature=[tf.TensorSpec((), tf.float32)]))
    assert float(function(1.0)) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="only numbers"):
        function(float("nan"))
    assert float(function(2.0)) == 2


def test_branches_run_as_the_function():
    total = tf.Variable(0.0)

    def add_positive(x):
        if x > 0:
            total.assign_add(x)
        return x

    function = OnCaller(tf.function(add_positive, input_signature=[tf.TensorSpec((), tf.float32)]))
    for x in (1.0, -5.0, 2.0):
        assert float(function(x)) == x
    assert float(total) == 3


@pytest.mark.parametrize("kind", ["none", "rows", "both"])
def test_results_that_are_no_tensors(kind):
    def add(x):
        rows = tf.IndexedSlices(tf.constant([[1.0]]), tf.constant([2]), tf.constant([3, 1]))
        return x + 1, {"none": None, "rows": rows, "both": [None, rows]}[kind]

    function = OnCaller(tf.function(add, input_signature=[SCALAR]))
    for _ in range(2):
        x, found = function(np.float32(2))
        assert float(x) == 3
        rows = found[1] if kind == "both" else found
        assert rows is None if kind == "none" else rows.indices.numpy().tolist() == [2]


def test_one_tensor_alone():
    function = OnCaller(tf.function(lambda x: 2 * x, input_signature=[SCALAR]))
    assert [float(function(x)) for x in (np.float32(2), tf.constant(3.0))] == [4, 6]
