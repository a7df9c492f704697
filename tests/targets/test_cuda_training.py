"""Training on digits through CUDA kernels: the losses are the CPU's.

The digits are 5,000 images of MNIST: the training and test images of the subset that comes with the example,
or the first of the IDX files in the folder ``NBOPS_TEST_MNIST``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import nbops
from nbops.data import BatchGenerator
from nbops.numpy_nn import SGD, Dense, RMSprop, Sequential, training_step
from tests.conftest import ROOT
from tests.targets.cuda import needs_compiler

IMAGES = 5000


def digits() -> tuple[np.ndarray, np.ndarray]:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import mnist_data
    finally:
        sys.path.remove(str(ROOT / "examples"))
    folder = os.environ.get("NBOPS_TEST_MNIST")
    found = mnist_data.load(Path(folder) if folder else mnist_data.SUBSET)
    images = np.concatenate([found.train_images, found.test_images])
    labels = np.concatenate([found.train_labels, found.test_labels])
    return images[:IMAGES], labels[:IMAGES]


def test_there_are_5000_images() -> None:
    """So many, whichever files they come from, with a label each."""
    images, labels = digits()
    assert images.shape == (5000, 28 * 28)
    assert labels.shape == (5000,)
    assert set(labels) == set(range(10))


def losses(hidden: int, batch: int, steps: int, optimizer: str) -> np.ndarray:
    """The loss of each step of a 784-hidden-10 network; every call goes to the target in force."""
    model = Sequential([Dense(784, hidden, "relu", seed=1), Dense(hidden, 10, seed=2)])
    update = SGD(0.01) if optimizer == "sgd" else RMSprop(1e-3)
    batches = iter(BatchGenerator(*digits(), batch_size=batch, shuffle_seed=3))
    return np.array([training_step(model, update, *next(batches)) for _ in range(steps)])


def check_on(target: str, *settings: int, optimizer: str = "rmsprop") -> None:
    wanted = losses(*settings, optimizer)
    with nbops.use(target):
        found = losses(*settings, optimizer)
        decision = nbops.last_decision()
    assert decision is not None
    assert decision.target == target
    print(f"\n{target}: {found}\nCPU: {wanted}\nlargest difference {np.abs(found - wanted).max():.1e}")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    assert len(set(wanted)) == len(wanted)


@needs_compiler
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_losses_of_a_small_network(optimizer: str) -> None:
    check_on("cuda-emulator", 24, 16, 3, optimizer=optimizer)


@needs_compiler
@pytest.mark.slow
def test_losses_of_the_examples_network() -> None:
    """784-512-10 with batches of 128, as examples/train_mnist.py trains it."""
    check_on("cuda-emulator", 512, 128, 4)
