"""`nbops.testing.check` finds what is wrong with ops that are wrong on purpose: one for every promise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import lanes, op, prange
from nbops.testing import PROMISES, check

X = np.array([-1.5, 0.5, 1.25, 2.0])
MATRIX = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]])

Broken = Callable[[], dict[str, Any]]
#: The promise that a broken op breaks, and what `check` is given.
BROKEN: dict[str, Broken] = {}


def breaks(promise: str) -> Callable[[Broken], Broken]:
    def decorate(make: Broken) -> Broken:
        BROKEN[f"{promise}: {make.__name__}"] = make
        return make

    return decorate


def elementwise(formula: Any, rule: Any = None, **given: Any) -> dict[str, Any]:
    """What `check` gets for a formula and its gradient."""
    made = nbops.elementwise(name="broken_formula")(formula)
    if rule is not None:
        made.gradient(rule)
    return {"function": made, "examples": [[X]], **given}


def loop(signature: str, written: Any, **given: Any) -> dict[str, Any]:
    made = op(signature, name="broken_loop", **given.pop("definition", {}))(written)
    return {"function": made, "examples": [[MATRIX]], **given}


# ---- values -----------------------------------------------------------------------------------------


@breaks("oracle")
def another_function() -> dict[str, Any]:
    return elementwise(lambda x: x * x if x < 1 else x, oracle=np.square)


@breaks("targets")
def a_tuned_kernel_for_another_op() -> dict[str, Any]:
    made = nbops.elementwise(name="broken_tuned")(lambda x: x + x)
    other = nbops.elementwise(name="broken_tuned_task")(lambda x: x * x)
    made.tune(lambda dtypes, layout: Tasks(other.kernel.task(dtypes, layout)))
    return {"function": made, "examples": [[X]]}


class Tasks:
    def __init__(self, serial: int) -> None:
        self.serial, self.parallel = serial, serial


@breaks("tiny")
def the_first_element_of_nothing() -> dict[str, Any]:
    def peak(x: Any, out: Any) -> None:
        largest = x[0]
        for i in range(x.shape[0]):
            largest = max(largest, x[i])
        out[()] = largest

    return loop("(n)->()", peak)


@breaks("layouts")
def the_buffer_instead_of_the_array() -> dict[str, Any]:
    def doubled(x: Any, out: Any = None) -> Any:
        return nbops.add(np.frombuffer(x.base if x.base is not None else x, x.dtype)[: x.size], 0.0)

    return {"function": doubled, "examples": [[X]]}


@breaks("repeats")
def a_random_number() -> dict[str, Any]:
    return elementwise(lambda x: x + np.random.random())  # noqa: NPY002  (Numba knows no Generator here)


@breaks("repeats")
def a_counter() -> dict[str, Any]:
    calls = [0]

    def counted(x: Any) -> Any:
        calls[0] += 1
        return nbops.multiply(x, float(calls[0] % 5))

    return {"function": counted, "examples": [[X]]}


# ---- memory -----------------------------------------------------------------------------------------


@breaks("inputs")
def a_loop_that_writes_its_input() -> dict[str, Any]:
    def normalize(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            x[i] = x[i] / 2
            out[i] = x[i]

    return loop("(n)->(n)", normalize)


@breaks("inputs")
def a_function_that_writes_its_input() -> dict[str, Any]:
    return {"function": lambda x: nbops.relu(x, out=x if x.flags.writeable else None), "examples": [[X]]}


@breaks("written")
def an_output_that_is_added_to() -> dict[str, Any]:
    def row_sum(x: Any, out: Any) -> None:
        for i in range(x.shape[0]):
            out[()] += x[i]

    return loop("(n)->()", row_sum)


@breaks("written")
def an_output_without_its_last_element() -> dict[str, Any]:
    def differences(x: Any, out: Any) -> None:
        for i in range(x.shape[0] - 1):
            out[i] = x[i + 1] - x[i]

    return loop("(n)->(n)", differences)


# ---- dtypes -----------------------------------------------------------------------------------------


@breaks("dtypes")
def integers_that_should_be_floating_point() -> dict[str, Any]:
    return elementwise(lambda x: x / 2, oracle=lambda x: x / 2)  # needs integers="float64"


@breaks("dtypes")
def a_constant_in_float64() -> dict[str, Any]:
    def halved(x: Any) -> Any:
        return nbops.multiply(x, np.array(0.5))

    return {"function": halved, "examples": [[X]]}


@breaks("refuses")
def a_function_that_takes_anything() -> dict[str, Any]:
    return {"function": lambda x: nbops.negative(np.nan_to_num(np.asarray(x)).real), "examples": [[X]]}


# ---- threads ----------------------------------------------------------------------------------------


@breaks("order")
def a_running_sum_in_prange() -> dict[str, Any]:
    def running(x: Any, out: Any) -> None:
        for i in prange(x.shape[0]):
            out[i] = x[i] + (out[i - 1] if i > 0 else x.dtype.type(0))

    return loop("(n)->(n)", running)


@breaks("order")
def lanes_that_share_an_element() -> dict[str, Any]:
    def last(x: Any, out: Any) -> None:
        for i in lanes(x.shape[0]):
            out[()] = x[i]

    return loop("(n)->()", last)


@breaks("threads")
def an_answer_that_depends_on_the_threads() -> dict[str, Any]:
    def scaled(x: Any) -> Any:
        decided = nbops.last_decision()
        nbops.relu(x)
        decided = nbops.last_decision()
        return nbops.multiply(x, float(decided.workers if decided else 1))

    return {"function": scaled, "examples": [[X]]}


@breaks("concurrent")
def one_buffer_for_all_callers() -> dict[str, Any]:
    buffer = np.zeros(X.size)

    def shared(x: Any) -> Any:
        nbops.add(x, 0.0, out=buffer)
        if threading.active_count() > 1:
            time.sleep(0.0005)
        return nbops.multiply(buffer, 2.0)

    return {"function": shared, "examples": [[X]], "draw": lambda rng, shapes: [rng.normal(size=X.size)]}


# ---- gradients --------------------------------------------------------------------------------------


def squared(rule: Any, **given: Any) -> dict[str, Any]:
    return elementwise(lambda x: x * x, rule, **given)


@breaks("gradient")
def a_forgotten_factor() -> dict[str, Any]:
    return squared(lambda x, out, dout: nbops.multiply(dout, x))


@breaks("gradient")
def a_missing_gradient() -> dict[str, Any]:
    return squared(lambda x, out, dout: None, gradients=(0,))


@breaks("gradient_kind")
def a_gradient_in_float64() -> dict[str, Any]:
    return squared(lambda x, out, dout: nbops.multiply(dout, x.astype(np.float64) * 2))


@breaks("gradient_kind")
def a_gradient_in_another_shape() -> dict[str, Any]:
    return squared(lambda x, out, dout: nbops.reshape(nbops.multiply(dout, nbops.add(x, x)), -1))


@breaks("upstream")
def a_gradient_in_memory_order() -> dict[str, Any]:
    def rule(x: Any, out: Any, dout: Any) -> Any:
        straight = dout.ravel("K").reshape(dout.shape)  # wrong where dout is transposed
        return nbops.multiply(straight, nbops.add(x, x))

    return squared(rule, examples=[[MATRIX]])


@breaks("gradient")
def a_gradient_for_an_upstream_of_ones() -> dict[str, Any]:
    """Right as long as nobody multiplies the loss."""
    return squared(lambda x, out, dout: nbops.multiply(np.sign(dout) * np.abs(dout).min(), nbops.add(x, x)))


@breaks("upstream_nan")
def a_gradient_that_swallows_nan() -> dict[str, Any]:
    return squared(lambda x, out, dout: nbops.multiply(np.nan_to_num(dout), nbops.add(x, x)))


@breaks("upstream_nan")
def a_gradient_that_spreads_nan() -> dict[str, Any]:
    def rule(x: Any, out: Any, dout: Any) -> Any:
        return nbops.add(nbops.multiply(dout, nbops.add(x, x)), np.sum(dout) * 0)

    return squared(rule)


@breaks("gradient_inputs")
def a_gradient_that_scales_its_upstream() -> dict[str, Any]:
    def rule(x: Any, out: Any, dout: Any) -> Any:
        dout *= 2
        return nbops.multiply(dout, x)

    return squared(rule)


# ---- TensorFlow -------------------------------------------------------------------------------------


def on_tensors(function: Any, **given: Any) -> dict[str, Any]:
    """A function that treats tensors in a way of their own."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

    def either(x: Any) -> Any:
        return nbops.relu(x) if isinstance(x, np.ndarray) else function(x)

    return {"function": either, "examples": [[np.abs(X)]], **given}


@breaks("tensor_values")
def another_function_on_tensors() -> dict[str, Any]:
    return on_tensors(lambda x: nbops.add(nbops.relu(x), 1.0))


@breaks("graph")
def a_call_of_numpy() -> dict[str, Any]:
    return on_tensors(lambda x: nbops.relu(x.numpy() + 0 * x))


@breaks("graph")
def a_shape_that_is_forgotten() -> dict[str, Any]:
    def forgetful(x: Any) -> Any:
        import tensorflow as tf

        return tf.numpy_function(np.asarray, [nbops.relu(x)], x.dtype)

    return on_tensors(forgetful)


@breaks("unknown_shapes")
def a_length_that_must_be_known() -> dict[str, Any]:
    return on_tensors(lambda x: nbops.multiply(nbops.relu(x), 1.0 + 0 * len(range(*x.shape[:1]))))


@breaks("saved_model")
def a_python_callback() -> dict[str, Any]:
    """What TensorFlow keeps of it is a token that no other process knows; here, one that changes."""

    def called(x: Any) -> Any:
        import tensorflow as tf

        return tf.numpy_function(Once(), [nbops.relu(x)], x.dtype)

    return on_tensors(called)


class Once:
    """Right when it is called first."""

    calls = 0

    def __call__(self, x: Any) -> Any:
        Once.calls += 1
        return x + (Once.calls > 1)


@breaks("tensor_refuses")
def a_cast_of_anything() -> dict[str, Any]:
    def cast(x: Any) -> Any:
        import tensorflow as tf

        return nbops.relu(x if x.dtype.is_floating else tf.cast(tf.equal(x, x), tf.float64))

    return on_tensors(cast)


@breaks("tape")
def a_gradient_that_stops() -> dict[str, Any]:
    def stopped(x: Any) -> Any:
        import tensorflow as tf

        return nbops.relu(tf.stop_gradient(x))

    return on_tensors(stopped)


@breaks("tape")
def a_gradient_with_an_axis_too_many() -> dict[str, Any]:
    """Its numbers are right."""

    def same(x: Any) -> Any:
        import tensorflow as tf

        return tf.identity(x), lambda dout: dout[None]

    def one_too_many(x: Any) -> Any:
        import tensorflow as tf

        return nbops.relu(tf.custom_gradient(same)(x))

    return on_tensors(one_too_many)


@breaks("second_order")
def a_gradient_that_is_a_constant() -> dict[str, Any]:
    """The first order is right; the tape can't see where it came from."""

    def rule(x: Any, out: Any, dout: Any) -> Any:
        import tensorflow as tf

        return nbops.multiply(dout, tf.stop_gradient(nbops.add(x, x)))

    return squared(rule)


# ---- the tests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_op_is_caught(name: str) -> None:
    promise = name.split(":")[0]
    given = BROKEN[name]()
    function = given.pop("function")
    report = check(function, promises=[promise], raises=False, **given)
    assert report.broken == (promise,), str(report)
    assert report[promise].reason
    assert report[promise].example
    with pytest.raises(AssertionError, match="breaks 1 of 1"):
        check(function, promises=[promise], **given)


def test_every_promise_has_an_op_that_breaks_it() -> None:
    assert {name.split(":")[0] for name in BROKEN} == set(PROMISES)


def test_a_right_op_keeps_every_promise() -> None:
    square = nbops.elementwise(name="right_square")(lambda x: x * x)
    square.gradient(lambda x, out, dout: nbops.multiply(dout, nbops.add(x, x)))
    report = check(square, X, oracle=np.square)
    assert set(report.kept) == set(PROMISES)
    assert report.targets[:3] == ("python", "serial", "parallel")


def test_the_example_is_minimal() -> None:
    made = elementwise(lambda x: x * x if x < 1 else x, oracle=np.square)
    report = check(made["function"], X, oracle=np.square, promises=["oracle"], raises=False)
    example = report["oracle"].example
    assert example.count(",") <= 1, example  # one element, or none to a row
    assert "float64" in example
    assert "[" not in example.split("float64")[1], "a plain layout shows it as well"


def test_a_report_reads_well() -> None:
    made = squared(lambda x, out, dout: nbops.multiply(dout, x))
    report = check(made["function"], X, promises=["targets", "gradient", "oracle"], raises=False)
    first, second, third, fourth, *_ = str(report).splitlines()
    assert first.startswith("broken_formula breaks 1 of 2 promises (targets: python, serial, parallel")
    assert second.split()[:2] == ["broken", "gradient"]
    assert "the gradient of x: along a direction it is" in third
    assert "example: x = " in fourth
    assert "no oracle was given" in str(report)


def test_arguments_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="no example came"):
        check(nbops.relu)
    with pytest.raises(ValueError, match="no promise is called 'speed'"):
        check(nbops.relu, X, promises=["speed"])


def test_without_hypothesis_it_says_what_to_install(run_python: Any) -> None:
    run_python("""
        import sys
        sys.modules["hypothesis"] = None
        import numpy as np, nbops
        from nbops.testing import check
        try:
            check(nbops.relu, np.ones(2))
        except ImportError as error:
            assert "pip install hypothesis" in str(error), error
        else:
            raise SystemExit("nothing was raised")
    """)


def test_it_is_imported_without_tensorflow(run_python: Any) -> None:
    run_python("""
        import sys, nbops.testing
        assert not {"tensorflow", "hypothesis"} & set(sys.modules)
    """)
