"""Data-parallel training: workers on loopback, one that dies, and Keras under tf.distribute's strategies."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "train_mnist_distributed.py"
SUBSET = EXAMPLES / "data" / "mnist_subset.npz"
pytestmark = pytest.mark.distributed
PATIENCE = 600  # seconds: a bound, not an expectation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Digits: the folder in ``NBOPS_TEST_MNIST``, or 640 of the subset that comes with the example."""
    if os.environ.get("NBOPS_TEST_MNIST"):
        return Path(os.environ["NBOPS_TEST_MNIST"])
    with np.load(SUBSET) as file:
        few = {name: file[name][: 640 if "train" in name else 100] for name in file.files}
    np.savez(tmp_path / "mnist.npz", **few)
    return tmp_path / "mnist.npz"


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def environment() -> dict[str, str]:
    root = str(EXAMPLES.parent)
    return {**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}


def run(*arguments: object) -> str:
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights_of(path: Path) -> list[np.ndarray]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.fixture
def alone(data: Path) -> list[np.ndarray]:
    """The weights after an epoch of `nbops.nn.fit` in this process, with the same batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import mnist_data
    from nbops.nn import NaiveDense, NaiveSequential, fit

    digits = mnist_data.load(data)
    rng = np.random.default_rng(1234)
    model = NaiveSequential(
        [NaiveDense(784, 512, "relu", seed=rng), NaiveDense(512, 10, "softmax", seed=rng)]
    )
    start = [weight.numpy() for weight in model.weights]
    fit(model, digits.train_images, digits.train_labels, 1, 128, learning_rate=1e-3)
    weights = [weight.numpy() for weight in model.weights]
    assert max(np.abs(w - v).max() for w, v in zip(weights, start, strict=True)) > 1e-3  # it has learned
    return weights


#: The example's own. At ten times this learning rate probabilities are clipped right and left, rounding
#: decides which, and no two precisions agree: an epoch of MNIST in float64 is 0.07 away from one in float32.
ONE_EPOCH = ("--epochs", 1, "--batch-size", 128, "--learning-rate", 1e-3)


def test_two_workers_end_where_one_process_does(data: Path, alone: Any, tmp_path: Path) -> None:
    results = ("--weights", tmp_path / "w.npz", "--json", tmp_path / "r.json")
    output = run("--workers", 2, "--data", data, *ONE_EPOCH, *results)
    assert re.search(r"epoch 1/1: loss [\d.]+, test accuracy [\d.]+", output)
    for two, one in zip(weights_of(tmp_path / "w.npz"), alone, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    ops = set(json.loads((tmp_path / "r.json").read_text())["ops"])
    assert {"NbopsDenseRelu", "NbopsDenseSoftmax", "NbopsDenseWeightGradient"} <= ops
    assert "CollectiveReduceV2" in ops
    assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & ops


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until there is such a file; fails if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path} after {PATIENCE} s"
        time.sleep(0.02)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_killed_worker_is_named_and_the_run_goes_on(data: Path, tmp_path: Path, started: Any) -> None:
    """SIGKILL in the middle of an epoch; started again, the weights are those of an undisturbed run."""
    epochs = 1 if "NBOPS_TEST_MNIST" in os.environ else 40  # 600 steps, or 280
    options = ("--workers", 2, "--data", data, "--epochs", epochs, "--batch-size", 100)
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*options, "--checkpoint", folder, "--checkpoint-steps", 5),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    started.append(process)
    assert process.stdout is not None
    numbers = re.findall(r"\d+", process.stdout.readline())
    wait_for(folder / "checkpoint.npz", process)
    os.kill(int(numbers[-1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGKILL or process.returncode == 3, errors
    assert "worker 1 was killed by SIGKILL" in errors
    assert re.search(r"worker 1 \(127\.0\.0\.1:\d+\) is gone; worker 0 stops after step \d+", errors), errors
    output = run(*options, "--checkpoint", folder, "--weights", tmp_path / "again.npz")
    assert re.search(r"resumed at step \d+", output)
    run(*options, "--weights", tmp_path / "undisturbed.npz")
    for again, wanted in zip(
        weights_of(tmp_path / "again.npz"), weights_of(tmp_path / "undisturbed.npz"), strict=True
    ):
        np.testing.assert_array_equal(again, wanted)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train_mnist_distributed

    return train_mnist_distributed


def test_workers_that_lost_touch_say_so(example: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that stayed away, of a worker that still answers; another error stays what it is."""
    import tensorflow as tf

    monkeypatch.setattr(example.time, "sleep", lambda seconds: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster = example.Cluster(["127.0.0.1:1", f"127.0.0.1:{server.getsockname()[1]}"], 0)
        aborted = tf.errors.AbortedError(None, None, "heartbeat timeout")
        found = example.lost(cluster, 7, Path("run"), aborted)
        assert isinstance(found, example.PeerLostError)
        assert "lost touch" in str(found)
        assert "worker 0 stops after step 7. start all workers again with --checkpoint run" in str(found)
        wrong = tf.errors.InvalidArgumentError(None, None, "a label")
        assert example.lost(cluster, 7, None, wrong) is wrong


def test_a_worker_is_named_however_soon_the_others_end(
    example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have ended before the launcher looks at them for the first time."""
    ends = ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "import sys; sys.exit(3)")
    workers = [subprocess.Popen([sys.executable, "-c", end]) for end in ends]
    for worker in workers:
        worker.wait()
    assert example.wait_for(workers) == 128 + signal.SIGKILL
    assert "worker 0 was killed by SIGKILL" in capsys.readouterr().err


def test_shares_cover_each_batch(example: Any) -> None:
    for number, batch, workers in ((10, 4, 3), (7, 7, 2), (5, 2, 4)):
        parts = [example.shares(number, batch, workers, index) for index in range(workers)]
        rows = np.arange(number)
        for step, start in enumerate(range(0, number, batch)):
            together = np.concatenate([rows[part[step][0]] for part in parts])
            np.testing.assert_array_equal(together, rows[start : start + batch])
            assert {part[step][1] for part in parts} == {len(together)}


def test_mistakes_take_one_line(tmp_path: Path) -> None:
    for arguments, config, message in (
        (("--workers", 2), "{}", "--workers and TF_CONFIG say the same"),
        ((), "nonsense", "TF_CONFIG: expected cluster.worker and task"),
        ((), '{"cluster": {"ps": []}, "task": {"type": "ps"}}', "TF_CONFIG"),
    ):
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, check=False,
            env={**environment(), "TF_CONFIG": config},
        )  # fmt: skip
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


KERAS = """
    import os, sys
    import numpy as np, tensorflow as tf
    if sys.argv[1] == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.get_strategy()
    import keras, nbops.keras
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 12), np.float32), rng.integers(0, 3, 64)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((12,)), nbops.keras.Dense(16, "relu"), nbops.keras.Dense(3, "softmax")
        ])
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    history = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0)
    np.savez(sys.argv[2], *model.get_weights())
    print("replicas", strategy.num_replicas_in_sync, history.history["loss"])
"""


def test_keras_fit_under_a_mirrored_strategy(run_python: Any, tmp_path: Path) -> None:
    """Two logical devices train to the weights of one."""
    run_python(KERAS, "one", str(tmp_path / "one.npz"))
    output = run_python(KERAS, "mirrored", str(tmp_path / "two.npz")).stdout
    assert "replicas 2" in output
    for two, one in zip(weights_of(tmp_path / "two.npz"), weights_of(tmp_path / "one.npz"), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


KERAS_2 = """
    import sys
    import numpy as np, tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import tf_keras as keras, nbops.keras
    rng = np.random.default_rng(0)
    x, y = rng.random((64, 12), np.float32), rng.integers(0, 3, 64)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((12,)), nbops.keras.Dense(16, "relu"), nbops.keras.Dense(3, "softmax")
        ])
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    # A batch is everything, so that it does not matter which worker gets which half.
    losses = model.fit(x, y, batch_size=64, epochs=12, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    print("replicas", strategy.num_replicas_in_sync, flush=True)
    np.savez(sys.argv[1], *model.get_weights())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tf_keras") is None, reason="tf-keras (Keras 2) is not installed"
)
def test_keras_2_fit_on_several_workers(example: Any, tmp_path: Path, started: Any) -> None:
    """Two processes under MultiWorkerMirroredStrategy train to the weights of one; see docs/scaling.md."""
    script = tmp_path / "fit.py"
    script.write_text(textwrap.dedent(KERAS_2))
    for workers in (1, 2):
        addresses = [f"127.0.0.1:{port}" for port in example.free_ports(workers)]
        for index in range(workers):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            variables = {"TF_CONFIG": json.dumps(config), "TF_USE_LEGACY_KERAS": "1"}
            started.append(
                subprocess.Popen(
                    [sys.executable, str(script), str(tmp_path / f"{index}-of-{workers}.npz")],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    env={**environment(), **variables},
                )
            )  # fmt: skip
        for process in started[-workers:]:
            output, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, output
            assert f"replicas {workers}" in output
    one = weights_of(tmp_path / "0-of-1.npz")
    for index in range(2):
        for two, wanted in zip(weights_of(tmp_path / f"{index}-of-2.npz"), one, strict=True):
            np.testing.assert_allclose(two, wanted, rtol=0, atol=1e-5)
