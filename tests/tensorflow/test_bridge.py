"""The bridge to TensorFlow: how ops appear in graphs, threads, SavedModels and gradients.

What each op computes is the business of test_ops.py; here it is how an op behaves as TensorFlow's. With
NBOPS_TENSORFLOW_OPS=numpy_function the same tests run on the fallback; `test_fallback_passes_the_same_tests`
does that in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import nbops  # noqa: E402
import nbops.tensorflow as bridge  # noqa: E402
from nbops import execution  # noqa: E402
from nbops.tensorflow import native, registered  # noqa: E402

ROOT = Path(__file__).parents[2]
only_registered = pytest.mark.skipif(
    not bridge.uses_registered_ops, reason="the fallback has no registered ops"
)


def dense_model(x, w, b):
    """A layer, probabilities and a loss."""
    probabilities = nbops.softmax(nbops.dense(x, w, b, "relu"))
    labels = tf.zeros(tf.shape(x)[:1], tf.int64)
    return nbops.mean(nbops.sparse_categorical_crossentropy(labels, probabilities))


def op_types(function) -> set[str]:
    return {node.type for node in function.graph.get_operations()}


@only_registered
def test_a_traced_step_holds_nbops_ops_and_no_python():
    w, b = tf.Variable(tf.random.normal((8, 4), seed=1)), tf.Variable(tf.zeros(4))

    @tf.function(input_signature=[tf.TensorSpec((None, 8))])
    def step(x):
        with tf.GradientTape() as tape:
            loss = dense_model(x, w, b)
        return tape.gradient(loss, [w, b])

    types = op_types(step.get_concrete_function())
    assert {"NbopsDenseRelu", "NbopsSoftmax", "NbopsDenseWeightGradient", "NbopsMatmulNT"} <= types
    assert not types & {"PyFunc", "EagerPyFunc", "PyFuncStateless", "MatMul", "Relu", "Softmax", "Transpose"}
    assert [g.shape for g in step(tf.ones((3, 8)))] == [(8, 4), (4,)]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(None, 3), (3, 5)], (None, 5)),
        ([(2, None), (None, 5)], (2, 5)),
        ([(None, 2, 3), (3, 5)], (None, 2, 5)),
        ([(4, 1, 2, 3), (7, 3, 5)], (4, 7, 2, 5)),
    ],
)
def test_shapes_are_inferred_statically(shapes, expected):
    function = tf.function(nbops.matmul, input_signature=[tf.TensorSpec(s) for s in shapes])
    assert tuple(function.get_concrete_function().outputs[0].shape) == expected


def test_an_unknown_rank_stays_unknown_and_still_runs():
    function = tf.function(nbops.add, input_signature=[tf.TensorSpec(None)] * 2)
    assert function.get_concrete_function().outputs[0].shape.rank is None
    np.testing.assert_array_equal(function(tf.ones((2, 3)), tf.ones(3)), np.full((2, 3), 2.0))


def test_known_shapes_that_do_not_fit_raise_while_tracing():
    with pytest.raises(
        ValueError, match=r"a is \(2, 3\) and b is \(4, 5\); a.shape\[-1\] must equal b.shape"
    ):
        tf.function(lambda: nbops.matmul(tf.ones((2, 3)), tf.ones((4, 5))))()


@only_registered
def test_shapes_known_only_at_run_time_raise_invalid_argument():
    function = tf.function(nbops.matmul, input_signature=[tf.TensorSpec((None, None))] * 2)
    message = r"a is \(2, 3\) and b is \(4, 5\); a.shape\[-1\] must equal b.shape"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        function(tf.ones((2, 3)), tf.ones((4, 5)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        nbops.matmul(tf.ones((2, 3)), tf.ones((4, 5)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nbops.exp(tf.ones(3, tf.int32)), "dtype int32"),
        (lambda: nbops.add(tf.ones(3), tf.ones(3, tf.float64)), "float32 and float64"),
        (lambda: nbops.relu(tf.constant(["a"])), "dtype string"),
        (lambda: nbops.relu(tf.constant([True])), "dtype bool"),
        (lambda: nbops.relu(tf.ones(3), out=np.ones(3)), "out= does not go"),
        (lambda: nbops.relu(tf.ones(3), target="serial"), "target= does not go"),
    ],
)
def test_what_does_not_fit_raises_type_error(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@only_registered  # the fallback's arrays are NumPy's, of 64 axes at most
@pytest.mark.parametrize("ndim", [65, 130, 200, 253])
@pytest.mark.parametrize("shape_is_known", [True, False])
def test_more_axes_than_there_is_room_for(ndim, shape_is_known):
    x = tf.reshape(tf.range(6.0), [2, *[1] * (ndim - 2), 3])

    @tf.function(input_signature=[tf.TensorSpec(x.shape if shape_is_known else None)])
    def in_a_graph(x):
        return nbops.add(x, x)

    message = rf"add: x has {ndim} axes; at most 64 axes are supported"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        in_a_graph(x)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        nbops.add(x, x)


def test_threads_may_add_to_one_graph():
    """TensorFlow asks for an op's shape while it holds the graph's lock: the answer may need no other."""
    program = """
        from concurrent.futures import ThreadPoolExecutor
        import tensorflow as tf
        import nbops

        graph = tf.Graph()

        def add_ops(_):
            with graph.as_default():
                x = tf.compat.v1.placeholder(tf.float32, (None, 3))
                for _ in range(100):
                    x = nbops.add(nbops.relu(x), x)
                assert x.shape.as_list() == [None, 3]

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(add_ops, range(8)))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=True, timeout=300)


@only_registered
def test_tensors_cost_what_arrays_cost():
    """The kernel chooses between one core and all by the figures that the dispatcher has for arrays."""
    for entry in registered.variants:
        words = entry.descriptor
        assert words[native.ITEM_NANOSECONDS] == execution.item_nanoseconds(entry.op.signature)
        assert words[native.PICOSECONDS] == max(int(entry.op.nanoseconds * 1000), 1)
    assert {int(entry.descriptor[native.ITEM_NANOSECONDS]) for entry in registered.variants} == {0, 30}


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x = tf.cast(tf.constant([0.1, 0.2, 0.3]), dtype)
    result = nbops.vecdot(x, x)
    wide = tf.cast(x, tf.float32)
    assert result.dtype == dtype
    expected = tf.cast(tf.reduce_sum(wide * wide), dtype)
    assert float(result) == float(expected)


def test_arrays_and_numbers_take_the_tensors_dtype():
    result = nbops.multiply(nbops.add(tf.ones(3), 1), np.array([1.0, 2.0, 3.0], np.float32))
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, [2, 4, 6])


def test_gradient_tape_of_the_notebook():
    x = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.multiply(2.0, x), 3.0)
    assert float(tape.gradient(y, x)) == 2

    w, b = tf.Variable(tf.random.uniform((2, 2))), tf.Variable(tf.zeros(2))
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.matmul(w, tf.random.uniform((2, 2))), b)
    dw, db = tape.gradient(y, [w, b])
    np.testing.assert_array_equal(db, [2, 2])
    np.testing.assert_array_equal(dw[0], dw[1])


def test_persistent_tape_and_second_order():
    x = tf.Variable(tf.constant([0.3, -0.7], tf.float64))
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape(persistent=True) as inner:
            y = nbops.tanh(nbops.multiply(x, x))
            z = nbops.exp(x)
        dy, dz = inner.gradient(y, x), inner.gradient(z, x)
    t = np.tanh(x.numpy() ** 2)
    np.testing.assert_allclose(dy, 2 * x.numpy() * (1 - t**2), rtol=1e-12)
    np.testing.assert_allclose(outer.gradient(dz, x), np.exp(x.numpy()), rtol=1e-12)
    second = (1 - t**2) * (2 - 8 * x.numpy() ** 2 * t)
    np.testing.assert_allclose(outer.gradient(dy, x), second, rtol=1e-12)


def test_transposed_operands_have_gradients_too():
    a, b = (tf.Variable(tf.random.normal(s, dtype=tf.float64, seed=2)) for s in ((3, 2), (4, 3)))
    axes = [(-1, -2), (-1, -2), (-2, -1)]
    with tf.GradientTape() as tape:
        product = nbops.matmul(a, b, axes=axes)
        loss = nbops.sum(nbops.multiply(product, product))
    with tf.GradientTape() as expected_tape:
        expected = tf.matmul(a, b, transpose_a=True, transpose_b=True)
        expected_loss = tf.reduce_sum(expected * expected)
    for ours, theirs in zip(
        tape.gradient(loss, [a, b]), expected_tape.gradient(expected_loss, [a, b]), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_tf_data_with_parallel_calls():
    def product(i):
        a = tf.fill((64, 128), tf.cast(i, tf.float32))
        return nbops.sum(nbops.matmul(a, tf.ones((128, 64))))

    results = tf.data.Dataset.range(32).map(product, num_parallel_calls=4)
    assert [float(x) for x in results] == [i * 128 * 64 * 64 for i in range(32)]


def test_a_variable_batch_traces_once():
    function = tf.function(
        lambda x: nbops.softmax(x), input_signature=[tf.TensorSpec((None, 10), tf.float32)]
    )
    for rows in (1, 7, 0):
        assert function(tf.ones((rows, 10))).shape == (rows, 10)
    assert function.experimental_get_tracing_count() == 1


def test_an_op_defined_later_is_registered_too():
    @nbops.op("(n),(n)->()", name="bridge_test_product_sum")
    def product_sum(x, y, out):
        total = out.dtype.type(0)
        for i in range(x.shape[0]):
            total += x[i] * y[i]
        out[()] = total

    assert float(product_sum(tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0]))) == 11
    x = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        y = product_sum(x, x)
    with pytest.raises(TypeError, match=r"bridge_test_product_sum has no gradient; give it one"):
        tape.gradient(y, x)


def test_an_op_defined_again_replaces_the_first():
    def define(factor):
        @nbops.elementwise(name="bridge_test_scale")
        def scale(x):
            return x * type(x)(factor)

        return scale

    assert float(define(2)(tf.constant(1.0))) == 2
    assert float(define(3)(tf.constant(1.0))) == 3


@only_registered
def test_saved_model_loads_in_a_fresh_process(tmp_path):
    module = tf.Module()
    module.w, module.b = tf.Variable(tf.random.normal((6, 3), seed=3)), tf.Variable(tf.ones(3))
    module.run = tf.function(
        lambda x: nbops.softmax(nbops.dense(x, module.w, module.b, "relu")),
        input_signature=[tf.TensorSpec((None, 6))],
    )
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    np.save(tmp_path / "expected.npy", module.run(x))
    tf.saved_model.save(module, str(tmp_path / "model"))
    program = """
        import sys, numpy as np, tensorflow as tf, nbops.tensorflow
        model = tf.saved_model.load(sys.argv[1] + "/model")
        x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
        np.testing.assert_array_equal(model.run(x), np.load(sys.argv[1] + "/expected.npy"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@only_registered
def test_a_missing_symbol_means_one_warning_and_the_fallback(tmp_path):
    program = """
        import sys, types, warnings
        import tensorflow as tf
        import nbops
        # the bridge's first question to the library, answered as an older TensorFlow would
        import importlib.util
        spec = importlib.util.find_spec("nbops.tensorflow")
        folder = spec.submodule_search_locations[0]
        c_spec = importlib.util.spec_from_file_location("nbops.tensorflow.c_api", folder + "/c_api.py")
        c_api = importlib.util.module_from_spec(c_spec)
        c_spec.loader.exec_module(c_api)
        c_api.CALLED_BY_PYTHON += ("TF_NoSuchFunction",)
        sys.modules["nbops.tensorflow.c_api"] = c_api
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import nbops.tensorflow as bridge
        ours = [w for w in caught if "TF_NoSuchFunction" in str(w.message)]
        assert len(ours) == 1 and "numpy_function" in str(ours[0].message), caught
        assert not bridge.uses_registered_ops
        assert nbops.relu(tf.constant([-1.0, 2.0])).numpy().tolist() == [0.0, 2.0]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@only_registered
def test_fallback_passes_the_same_tests():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)],
        cwd=ROOT,
        env={**os.environ, "NBOPS_TENSORFLOW_OPS": "numpy_function"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
