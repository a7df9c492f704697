"""``nbops.keras.Dense`` against ``keras.layers.Dense``."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import nbops.keras

SUBSET = Path(__file__).parents[1] / "examples" / "data" / "mnist_subset.npz"
ACTIVATIONS = [None, "linear", "relu", "sigmoid", "softmax", "tanh", "gelu", "elu", keras.ops.square]


def pair(shape: tuple[int, ...], *args, **kwargs):
    """Our layer and Keras's, built, with the same weights."""
    ours, theirs = nbops.keras.Dense(*args, **kwargs), keras.layers.Dense(*args, **kwargs)
    ours.build(shape)
    theirs.build(shape)
    theirs.set_weights(ours.get_weights())
    return ours, theirs


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (2, 3, 5), (2, 1, 3, 5)])
def test_values_and_gradients(activation, use_bias, shape, rng):
    ours, theirs = pair(shape, 4, activation, use_bias, bias_initializer="random_normal")
    x = tf.constant(rng.normal(size=shape).astype(np.float32))
    upstream = tf.constant(rng.normal(size=(*shape[:-1], 4)).astype(np.float32))
    results = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(y * upstream)
        weights = [variable.value for variable in layer.trainable_variables]
        results.append([y, *tape.gradient(total, [x, *weights])])
    assert results[0][0].shape == (*shape[:-1], 4)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_config_makes_the_layer_again():
    arguments = {
        "units": 7,
        "activation": "gelu",
        "use_bias": False,
        "kernel_initializer": keras.initializers.RandomUniform(0, 0.1, seed=3),
        "kernel_regularizer": keras.regularizers.L2(0.5),
        "bias_regularizer": "l1",
        "activity_regularizer": "l2",
        "kernel_constraint": keras.constraints.NonNeg(),
        "bias_constraint": "max_norm",
        "name": "mine",
    }
    layer = nbops.keras.Dense(**arguments)
    again = nbops.keras.Dense.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    theirs = keras.layers.Dense(**arguments).get_config()
    assert {key: layer.get_config()[key] for key in theirs if key in arguments} == {
        key: theirs[key] for key in theirs if key in arguments
    }


def test_regularizers_and_constraints_are_at_work():
    layer = nbops.keras.Dense(2, kernel_initializer="ones", kernel_regularizer=keras.regularizers.L1(0.5))
    layer(np.zeros((1, 3), np.float32))
    assert float(layer.losses[0]) == pytest.approx(3.0)
    model = keras.Sequential([nbops.keras.Dense(1, kernel_initializer="zeros", kernel_constraint="non_neg")])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(np.ones((4, 2)), -np.ones(4), verbose=0)
    assert (model.layers[0].kernel.numpy() >= 0).all()


def test_functional_model_with_unknown_lengths(rng):
    inputs = keras.Input((None, 5))
    outputs = nbops.keras.Dense(3)(nbops.keras.Dense(4, "relu")(inputs))
    assert outputs.shape == (None, None, 3)
    model = keras.Model(inputs, outputs)
    assert model.count_params() == 5 * 4 + 4 + 4 * 3 + 3
    for shape in ((2, 7, 5), (1, 1, 5)):
        assert model.predict(rng.random(shape), verbose=0).shape == (*shape[:-1], 3)
    model.compile("sgd", "mse")
    losses = model.fit(rng.random((9, 4, 5)), rng.random((9, 4, 3)), batch_size=4, epochs=3, verbose=0)
    assert losses.history["loss"][-1] < losses.history["loss"][0]


def test_trains_like_keras_s_own_and_survives_saving(tmp_path, run_python):
    with np.load(SUBSET) as file:
        train, test = (file[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
        train_labels, test_labels = file["y_train"], file["y_test"]
    accuracies = []
    for layer in (keras.layers.Dense, nbops.keras.Dense):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layer(512, "relu"), layer(10, "softmax")])
        model.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile="auto")
        model.fit(train, train_labels, epochs=3, batch_size=128, verbose=0)
        accuracies.append(model.evaluate(test, test_labels, verbose=0)[1])
    assert accuracies[0] > 0.85
    assert accuracies[1] == pytest.approx(accuracies[0], abs=5e-3)

    model.save(tmp_path / "model.keras")
    expected = model.predict(test[:50], verbose=0)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(test[:50], verbose=0), expected, rtol=1e-6)
    assert loaded.evaluate(test, test_labels, verbose=0)[1] == pytest.approx(accuracies[1])

    np.savez(tmp_path / "expected.npz", x=test[:50], y=expected)
    run_python(
        """
        import sys, keras, numpy as np, nbops.keras
        model = keras.models.load_model(sys.argv[1] + "/model.keras")
        with np.load(sys.argv[1] + "/expected.npz") as file:
            np.testing.assert_allclose(model.predict(file["x"], verbose=0), file["y"], rtol=1e-5)
        """,
        str(tmp_path),
    )


def test_xla_is_not_asked_for():
    model = keras.Sequential([nbops.keras.Dense(2)])
    with pytest.warns(UserWarning, match="jit_compile"):
        model.compile("sgd", "mse", jit_compile=True)
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_dtype_policies(policy, rng):
    ours, theirs = pair((4, 5), 3, "relu", dtype=policy)
    x = rng.random((4, 5))
    a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype
    assert ours.kernel.dtype == theirs.kernel.dtype
    tolerance = 1e-12 if policy == "float64" else 2e-2
    np.testing.assert_allclose(
        np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float64"}, {"dtype": "float16"}, {"autocast": False}], ids=str
)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"])
def test_inputs_of_any_dtype(dtype, options, rng):
    """Keras casts floats to what the layer computes in, unless told not to; its product promotes the rest."""
    ours, theirs = pair((4, 5), 3, "relu", bias_initializer="random_normal", **options)
    x = rng.integers(0, 2 if dtype == "bool" else 9, (4, 5)).astype(dtype)
    a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=2e-3 if a.dtype == "float16" else 1e-5)
    half = (theirs(x[:2]), tf.function(ours)(x[:2]))
    np.testing.assert_allclose(*half, rtol=2e-3 if a.dtype == "float16" else 1e-5)


def test_weights_are_exchanged_with_keras_s_own_layer(tmp_path, rng):
    models = [
        keras.Sequential([keras.Input((5,)), layer(3, "tanh")])
        for layer in (nbops.keras.Dense, keras.layers.Dense)
    ]
    x = rng.random((4, 5)).astype(np.float32)
    for source, target in (models, models[::-1]):
        source.layers[0].kernel.assign(rng.normal(size=(5, 3)))
        source.save_weights(tmp_path / "model.weights.h5")
        target.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_allclose(*(model(x) for model in models), rtol=1e-6)


def test_copies_of_a_model(rng):
    model = keras.Sequential([keras.Input((5,)), nbops.keras.Dense(4, "gelu"), nbops.keras.Dense(3)])
    x = rng.random((4, 5)).astype(np.float32)
    for copy in (keras.models.clone_model(model), keras.models.model_from_json(model.to_json())):
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(copy(x), model(x))


def test_a_saved_model_is_served_where_nbops_is_imported(tmp_path, run_python, rng):
    """TensorFlow's SavedModel, with a batch of unknown length."""
    model = keras.Sequential(
        [keras.Input((7, 5)), nbops.keras.Dense(4, "relu"), nbops.keras.Dense(3, "softmax")]
    )
    x = rng.random((6, 7, 5)).astype(np.float32)
    model.export(tmp_path / "model", verbose=False)
    np.savez(tmp_path / "expected.npz", x=x, y=model(x))
    run_python(
        """
        import sys, numpy as np, tensorflow as tf, nbops.tensorflow
        model = tf.saved_model.load(sys.argv[1] + "/model")
        with np.load(sys.argv[1] + "/expected.npz") as file:
            np.testing.assert_allclose(model.serve(file["x"]), file["y"], rtol=1e-5)
            np.testing.assert_allclose(model.serve(file["x"][:1]), file["y"][:1], rtol=1e-5)
        """,
        str(tmp_path),
    )


@pytest.mark.parametrize(
    "value",
    [tf.sparse.eye(5), tf.ragged.constant([[1.0], [1.0, 2.0]]), [["a"]]],
    ids=["sparse", "ragged", "text"],
)
def test_inputs_that_are_no_arrays_of_numbers(value):
    layer = nbops.keras.Dense(2)
    layer.build((None, 5))
    with pytest.raises((TypeError, ValueError)):
        layer(value)


def test_a_mask_is_passed_on():
    model = keras.Sequential([keras.layers.Masking(), nbops.keras.Dense(2)])
    assert nbops.keras.Dense(2).supports_masking
    assert model(np.ones((1, 3, 4), np.float32)).shape == (1, 3, 2)


@pytest.mark.parametrize("units", [0, -1, 2.5, "3"])
def test_units_must_be_a_count(units):
    with pytest.raises(ValueError, match="units is"):
        nbops.keras.Dense(units)


def test_wrong_inputs_are_told():
    layer = nbops.keras.Dense(2)
    with pytest.raises(ValueError, match="min_ndim=2"):
        layer(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="last axis must be known"):
        nbops.keras.Dense(2)(keras.Input((None,)))
    layer(np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="axis -1 of input shape to have value 3"):
        layer(np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match="nonsense"):
        nbops.keras.Dense(2, "nonsense")


def test_another_backend_is_told(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="backend is 'jax'"):
        importlib.reload(nbops.keras)


# ---- Keras 2 ------------------------------------------------------------------------------------------

KERAS_2 = """
    import sys
    import numpy as np, tensorflow as tf, tf_keras as keras
    import nbops.keras

    assert keras.__version__.startswith("2.")
    assert issubclass(nbops.keras.Dense, tf.keras.layers.Layer)
    rng = np.random.default_rng(0)
    for activation in (None, "relu", "sigmoid", "softmax", "tanh", "gelu"):
        for shape in ((3, 5), (0, 5), (2, 3, 5)):
            ours, theirs = nbops.keras.Dense(4, activation), keras.layers.Dense(4, activation)
            ours.build(shape)
            theirs.build(shape)
            theirs.set_weights(ours.get_weights())
            x = tf.constant(rng.normal(size=shape).astype(np.float32))
            results = []
            for layer in (ours, theirs):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    y = layer(x)
                    total = tf.reduce_sum(y * y)
                results.append([y, *tape.gradient(total, [x, *layer.trainable_variables])])
            for a, b in zip(*results):
                assert a.shape == b.shape
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    made = nbops.keras.Dense(7, "gelu", activity_regularizer="l2")
    again = nbops.keras.Dense.from_config(made.get_config())
    assert again.units == 7 and again.activation is keras.activations.gelu
    assert isinstance(again.activity_regularizer, keras.regularizers.L2)

    keras.mixed_precision.set_global_policy("mixed_float16")
    half = nbops.keras.Dense(4, "relu")
    assert half(np.ones((2, 5), np.float32)).dtype == tf.float16
    assert half.kernel.dtype == tf.float32
    keras.mixed_precision.set_global_policy("float32")

    inputs = keras.Input((None, 5))  # a symbolic length
    model = keras.Model(inputs, nbops.keras.Dense(1, "tanh")(nbops.keras.Dense(6, "relu")(inputs)))
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = rng.random((32, 3, 5), np.float32), rng.random((32, 3, 1), np.float32)
    losses = model.fit(x, y, batch_size=8, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(sys.argv[1])
    loaded = keras.models.load_model(sys.argv[1])
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="tf-keras (Keras 2) is not installed"
)
@pytest.mark.parametrize("kind", ["keras", "tf"])
def test_keras_2(kind, run_python, tmp_path):
    """The layer, and a model that is trained, saved in either format and loaded."""
    place = tmp_path / ("model.keras" if kind == "keras" else "model")
    run_python(KERAS_2, str(place), TF_USE_LEGACY_KERAS="1")
