"""Chapter 2 of "Deep Learning with Python" with nbops: the same loops, interpreted and compiled.

    python examples/notebook_walkthrough.py

Each section shows a loop, runs it in the Python interpreter (``nbops.use("python")``) and then compiled, and
compares the times. The first compiled call, which compiles or reads the cache, is not timed.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import nbops

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported, in the last two sections

rng = np.random.default_rng(0)


def section(title: str) -> None:
    """A heading."""
    print(f"\n{title}\n{'-' * len(title)}")


def show(function: Callable[..., Any]) -> None:
    """A loop or formula as it is written in nbops, without its docstring."""
    source = inspect.getsource(function)
    if function.__doc__:
        source = source.replace(f'    """{function.__doc__}"""\n', "")
    print("    " + source.rstrip().replace("\n", "\n    "))


def seconds(run: Callable[[], Any], repeat: int) -> float:
    """How long one call takes: the shortest of several."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(what: str, run: Callable[[], Any]) -> Any:
    """Run it interpreted and compiled, check that they agree, and print both times."""
    with nbops.use("python"):
        expected = run()
        interpreted = seconds(run, 3)
    result = run()
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    compiled = seconds(run, 20)
    print(
        f"{what}: interpreter {1e3 * interpreted:,.2f} ms, nbops {1e3 * compiled:,.3f} ms, "
        f"{interpreted / compiled:,.0f} times faster"
    )
    return result


def elementwise() -> None:
    """Section 2.3.1 of the book."""
    section("Element-wise operations")
    print("An element-wise op is one formula; relu's is\n")
    show(nbops.relu.formula)
    x, y = rng.random((20, 100)), rng.random((20, 100)) - 0.5
    print()
    compare("relu(x)", lambda: nbops.relu(y))
    compare("add(x, y)", lambda: nbops.add(x, y))
    compare("relu(add(x, y))", lambda: nbops.relu(nbops.add(x, y)))
    compare("add_relu(x, y), one loop for both", lambda: nbops.add_relu(x, y))


def broadcasting() -> None:
    """Section 2.3.2."""
    section("Broadcasting")
    matrix, vector = rng.random((32, 10)), rng.random(10)
    total = compare("add, (32, 10) and (10,)", lambda: nbops.add(matrix, vector))
    print(f"    the result is {total.shape}: the vector is added to each row, without being copied 32 times")
    x, y = rng.random((64, 3, 32, 10)), rng.random((32, 10))
    largest = compare("maximum, (64, 3, 32, 10) and (32, 10)", lambda: nbops.maximum(x, y))
    print(f"    the result is {largest.shape}")


def products() -> None:
    """Section 2.3.3."""
    section("Tensor product")
    print("The product of two matrices, as nbops writes it:\n")
    show(nbops.matmul.loop)
    print(
        "\nprange and lanes are range to the interpreter; to the compiler they mean independent iterations.\n"
    )
    vector, other, matrix = rng.random(1000), rng.random(1000), rng.random((200, 1000))
    compare("vector · vector, 1,000", lambda: nbops.dot(vector, other))
    compare("matrix · vector, 200 x 1,000", lambda: nbops.dot(matrix, vector))
    left, right = rng.random((64, 100)), rng.random((100, 64))
    product = compare("matrix · matrix, 64 x 100 x 64", lambda: nbops.dot(left, right))
    print(f"    {left.shape} · {right.shape} is {product.shape}")
    decision = nbops.last_decision()
    print(f"    the last call ran {decision.target}: {decision.reason}")


def reshaping() -> None:
    """Section 2.3.4."""
    section("Tensor reshaping")
    x = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    print(f"x is {x.shape}: {x.tolist()}")
    print(f"reshape(x, (6, 1)) is {nbops.reshape(x, (6, 1)).tolist()}")
    print(f"reshape(x, (2, 3)) is {nbops.reshape(x, (2, 3)).tolist()}")
    zeros = np.zeros((300, 20))
    transposed = nbops.transpose(zeros)
    print(f"transpose of {zeros.shape} is {transposed.shape}, a view: {np.shares_memory(zeros, transposed)}")


def gradients() -> None:
    """Section 2.4.4: TensorFlow differentiates nbops's ops."""
    section("The gradient tape")
    import tensorflow as tf

    x = tf.Variable(0.0)
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.multiply(2.0, x), 3.0)
    print(f"d(2x + 3)/dx = {tape.gradient(y, x):g}")

    weights, bias = tf.Variable(tf.random.uniform((2, 2))), tf.Variable(tf.zeros(2))
    x = tf.random.uniform((2, 2))
    with tf.GradientTape() as tape:
        y = nbops.add(nbops.matmul(weights, x), bias)
    by_weights, by_bias = tape.gradient(y, [weights, bias])
    print("for y = matmul(W, x) + b, with x")
    print(x.numpy())
    print("dy/dW has equal rows, the sums of x's rows:")
    print(by_weights.numpy())
    print(f"and dy/db is {by_bias.numpy()}")


def training() -> None:
    """Section 2.5: the model from scratch."""
    section("Training")
    import keras
    import mnist_data

    from nbops.nn import NaiveDense, NaiveSequential, evaluate, fit

    digits = mnist_data.load(mnist_data.SUBSET)
    one = digits.train_images[:1]
    w, b = rng.random((784, 512), dtype=np.float32) * np.float32(0.1), np.zeros(512, np.float32)
    compare("dense(image, W, b, relu) for one image", lambda: nbops.dense(one, w, b, nbops.relu))

    hidden, last = NaiveDense(784, 512, nbops.relu, seed=0), NaiveDense(512, 10, nbops.softmax, seed=1)
    model = NaiveSequential([hidden, last])
    images, labels = digits.train_images, digits.train_labels
    print(f"\n{len(labels):,} digits, by plain gradient descent, then by Keras's RMSprop:")
    for optimizer in (None, keras.optimizers.RMSprop()):
        fit(
            model,
            images,
            labels,
            epochs=4,
            batch_size=32,
            optimizer=optimizer,
            on_epoch=lambda epoch: print(f"    epoch {epoch.number}: loss {np.mean(epoch.losses):.2f}"),
        )
    print(f"test accuracy: {evaluate(model, digits.test_images, digits.test_labels).accuracy:.2f}")
    print("On all 60,000, as in the book: python examples/train_mnist.py --optimizer sgd --epochs 10")


def main() -> None:
    """Tell the whole story."""
    for part in (elementwise, broadcasting, products, reshaping, gradients, training):
        part()


if __name__ == "__main__":
    main()
