"""What a user's definition of an op may be, and what is refused before it can do harm."""

from __future__ import annotations

import doctest
import inspect
import threading
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import elementwise, op

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


@pytest.mark.parametrize("name", ["<lambda>", "my op!", "größe", "_private", "ünï"])
def test_any_name_works_in_tensorflow(name: str) -> None:
    """TensorFlow aborts the process over a name that it does not take."""
    double = elementwise(name=f"definition {name}")(lambda x: x + x)
    assert double(tf.constant([1.0, 2.0])).numpy().tolist() == [2, 4]
    assert double(np.array([1.0])).tolist() == [2]


def test_any_argument_name_works_in_tensorflow() -> None:
    @op("(n),(n),(n)->(n)", name="definition_arguments")
    def mixed(X: Any, x: Any, _name: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = X[i] + x[i] + _name[i]

    ones = tf.ones(2)
    assert mixed(ones, ones, ones).numpy().tolist() == [3, 3]


def test_ops_of_one_name_from_many_threads() -> None:
    results = []

    def define() -> None:
        results.append(float(elementwise(name="definition_race")(lambda x: x + 1)(tf.constant(1.0))))

    threads = [threading.Thread(target=define) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [2.0] * 6


def test_an_older_op_of_the_same_name_keeps_its_meaning() -> None:
    first = elementwise(name="definition_twice")(lambda x: x * 2)
    second = elementwise(name="definition_twice")(lambda x: x * 3)
    for x in (np.array([1.0]), tf.constant([1.0])):
        assert (float(first(x)[0]), float(second(x)[0])) == (2, 3)


@pytest.mark.parametrize("name", ["relu", "matmul", "sum_row"])
def test_the_names_of_nbops_are_its_own(name: str) -> None:
    with pytest.raises(ValueError, match="is the name of an op of nbops"):
        elementwise(name=name)(lambda x: x)
    assert nbops.relu(tf.constant(-1.0)) == 0


def test_a_keyword_is_no_input() -> None:
    with pytest.raises(ValueError, match="an input is called 'target'"):
        elementwise(name="definition_keyword")(lambda x, target: x)


def test_a_loop_that_raises_is_refused() -> None:
    with pytest.raises(TypeError, match="a compiled loop can't raise"):

        @op("(n)->(n)")
        def checked(x: Any, out: Any) -> None:
            if x[0] < 0:
                raise ValueError("negative")


@pytest.mark.parametrize("types", ["T->bool", "T->int46", "T->float16", "T->complex64", "int64->T"])
def test_types_that_can_not_be_computed_are_refused(types: str) -> None:
    with pytest.raises(ValueError, match="types"):
        op("(n)->(n)", name="definition_types", types=types)(lambda x, out: None)


def test_an_op_without_a_generic_type() -> None:
    @op("(n)->(n)", name="definition_integers", types="int64->int64")
    def plus_one(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[i] = x[i] + 1

    assert plus_one(np.array([1])).tolist() == [2]
    assert plus_one(tf.constant([1], tf.int64)).numpy().tolist() == [2]


def test_a_gradient_of_the_wrong_shape_is_an_error() -> None:
    twice = elementwise(name="definition_gradient")(lambda x: x * 2)
    twice.gradient(lambda x, out, dout: nbops.sum(dout))
    _, pullback = twice.vjp(np.ones(3))
    with pytest.raises(ValueError, match="gave x a gradient with 0 axes; x has 1"):
        pullback(np.ones(3))


def test_the_source_of_an_op_can_be_read() -> None:
    assert nbops.relu.formula is not None
    assert "return type(x)(0) if x < 0 else x" in inspect.getsource(nbops.relu.formula)
    assert "for i in prange(a.shape[0])" in inspect.getsource(nbops.matmul.loop)
    assert nbops.relu.__module__ == "nbops.ops.elementwise"


PUBLIC = [op for op in vars(nbops).values() if isinstance(op, nbops.Op)]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.name)
def test_the_example_of_an_op_is_right(public: nbops.Op) -> None:
    """Doctest collects functions; an op is an object."""
    assert public.__doc__ is not None
    example = doctest.DocTestParser().get_doctest(public.__doc__, {}, public.name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_labels_with_a_last_axis_of_one_are_keras_s() -> None:
    predictions = np.array([[0.5, 0.5], [0.1, 0.9]])
    flat = nbops.sparse_categorical_crossentropy([0, 1], predictions)
    assert np.array_equal(nbops.sparse_categorical_crossentropy([[0], [1]], predictions), flat)
    column = nbops.sparse_categorical_crossentropy(tf.constant([[0], [1]]), tf.constant(predictions))
    np.testing.assert_array_equal(column, flat)
    for labels in ([0, 1, 1], [[0, 1], [1, 0]]):
        with pytest.raises(ValueError, match="expected one label per prediction"):
            nbops.sparse_categorical_crossentropy(tf.constant(labels), tf.constant(predictions))


def test_a_function_called_relu_is_not_taken_for_relu() -> None:
    def relu(x: Any) -> Any:
        return np.minimum(np.maximum(x, 0), 6)

    x = np.array([[100.0]])
    with pytest.raises(ValueError, match="unknown activation"):
        nbops.dense(x, x, activation=relu)
    assert nbops.dense(x, x, activation=nbops.relu).tolist() == [[10000.0]]


def test_strict_says_that_tensors_stay_with_tensorflow() -> None:
    x = tf.constant([1.0])
    with nbops.use("serial", strict=True), pytest.raises(RuntimeError, match="where TensorFlow places it"):
        nbops.relu(x)
    nbops.relu(x)
    decision = nbops.last_decision()
    assert decision is not None
    assert (decision.target, decision.rule) == ("tensorflow", "a TensorFlow value")
