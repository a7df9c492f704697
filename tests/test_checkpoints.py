"""A run that is stopped goes on to the weights of one that never was, bit for bit; damage is told."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

import nbops.keras
from nbops import nn
from nbops.checkpoints import Checkpoint, CheckpointError, deferred_signals
from nbops.data import BatchGenerator
from nbops.nn import NaiveDense, NaiveSequential

IMAGES = np.random.default_rng(0).random((50, 6)).astype(np.float32)
LABELS = np.arange(50) % 4


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """No test cuts the power, and a disk that others use takes a second each time."""
    monkeypatch.setattr("nbops.files._flush", lambda path: None)


class Halt(Exception):  # noqa: N818 - a test's own way to stop
    """Raised in the middle of a run."""


def run(
    checkpoint: Checkpoint | None,
    ops: str = "nbops",
    optimizer: str | None = "adam",
    epochs: int = 3,
    shuffle_seed: int | None = 5,
    on_batch: Any = None,
) -> tuple[list[np.ndarray], list[nn.Epoch]]:
    """Train for three epochs of seven batches; the weights, the optimizer's variables and the history."""
    rng = np.random.default_rng(1)
    model = NaiveSequential(
        [NaiveDense(6, 5, "relu", ops=ops, seed=rng), NaiveDense(5, 4, "softmax", ops=ops, seed=rng)]
    )
    chosen = keras.optimizers.get(optimizer) if optimizer else None

    def on_epoch(epoch: nn.Epoch) -> None:
        epoch.metrics["accuracy"] = nn.evaluate(model, IMAGES, LABELS).accuracy

    history = nn.fit(
        model, IMAGES, LABELS, epochs, 8,
        optimizer=chosen, shuffle_seed=shuffle_seed,
        on_batch=on_batch, on_epoch=on_epoch, checkpoint=checkpoint,
    )  # fmt: skip
    variables = [*model.weights, *(chosen.variables if chosen else ())]
    return [v.numpy() for v in variables], history


def assert_same(found: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    for a, b in zip(found[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(found[1], expected[1], strict=True):
        assert (a.number, a.losses, a.accuracies, a.metrics) == (b.number, b.losses, b.accuracies, b.metrics)


def stop_after(number: int) -> Any:
    """An ``on_batch`` that halts the run after so many batches, as a crash would: nothing more is saved."""
    seen = []

    def on_batch(progress: nn.Progress) -> None:
        seen.append(progress)
        if len(seen) == number:
            raise Halt

    return on_batch


# ---- going on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ops", ["nbops", "tensorflow"])
@pytest.mark.parametrize("optimizer", [None, "rmsprop", "adam"])
@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_a_crashed_run_goes_on_bit_for_bit(tmp_path, ops, optimizer, seconds):
    """At a checkpoint after each batch, or only after each epoch: batches after it are trained again."""
    expected = run(None, ops, optimizer)
    for number in (3, 7) if seconds else (3, 20):  # inside an epoch, at its end, in the last
        folder = tmp_path / str(number)
        with pytest.raises(Halt):
            run(Checkpoint(folder, seconds=seconds), ops, optimizer, on_batch=stop_after(number))
        assert_same(run(Checkpoint(folder, seconds=seconds), ops, optimizer), expected)


def test_a_run_crashes_again_and_again(tmp_path):
    expected = run(None)
    for _ in range(3):
        with pytest.raises(Halt):
            run(Checkpoint(tmp_path, seconds=0), on_batch=stop_after(6))  # five of them are saved
    assert_same(run(Checkpoint(tmp_path)), expected)


@pytest.mark.parametrize(("number", "after"), [(signal.SIGINT, 1), (signal.SIGINT, 7), (signal.SIGTERM, 10)])
def test_a_signal_stops_a_run_between_steps(tmp_path, number, after):
    """Nothing is lost: the checkpoint has the batch in which the signal came."""
    expected = run(None)
    seen = []

    def on_batch(progress: nn.Progress) -> None:
        seen.append(progress)
        if len(seen) == after:
            signal.raise_signal(number)

    def terminate(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Checkpoint(tmp_path), on_batch=on_batch)
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(seen) == after
    assert_same(run(Checkpoint(tmp_path), on_batch=seen.append), expected)
    assert len(seen) == 21  # none was trained twice


def test_a_finished_run_is_not_trained_again_and_a_longer_one_goes_on(tmp_path):
    expected = run(None, epochs=3)
    short = run(Checkpoint(tmp_path), epochs=2)
    assert_same(run(Checkpoint(tmp_path), epochs=2, on_batch=stop_after(1)), short)
    assert_same(run(Checkpoint(tmp_path), epochs=3), expected)
    with pytest.raises(CheckpointError, match=r"checkpoint\.npz: has 3 epochs; 1 were asked for"):
        run(Checkpoint(tmp_path), epochs=1)


def test_weights_without_tensorflow(run_python, tmp_path):
    """As a worker that trains with arrays does."""
    run_python(
        """
        import sys
        import numpy as np
        from nbops.checkpoints import Checkpoint
        from nbops.data import BatchGenerator

        def train(stop_at):
            weights, steps = np.zeros(3), 0
            batches = BatchGenerator(np.arange(30.0).reshape(10, 3), np.arange(10), 4, shuffle_seed=0)
            checkpoint = Checkpoint(sys.argv[1] + str(stop_at), {"batch size": 4}, seconds=0)
            record = checkpoint.restore([weights])
            if record is not None:
                batches.state, steps = record["data"], record["steps"]
            with checkpoint.keep([weights], lambda: {"data": batches.state, "steps": steps}) as pause:
                for _ in range(4):
                    for images, labels in batches:
                        weights *= 0.9
                        weights += images.sum(0)
                        steps += 1
                        pause()
                        if steps == stop_at:
                            return None
                    if steps == 12:
                        return weights

        expected = train(0)
        for stop_at in (2, 3, 7):
            assert train(stop_at) is None
            np.testing.assert_array_equal(train(stop_at), expected)
        assert "tensorflow" not in sys.modules
        """,
        str(tmp_path / "run"),
    )


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_keras_s_own_backup_resumes_a_model_with_nbops_layers(tmp_path, optimizer):
    """`model.fit` needs nothing of nbops: ``keras.callbacks.BackupAndRestore`` does it."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 2:
                raise Halt

    def train(*callbacks: Any) -> list[np.ndarray]:
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((6,)), nbops.keras.Dense(5, "relu"), nbops.keras.Dense(4, "softmax")]
        )
        model.compile(optimizer, "sparse_categorical_crossentropy")
        model.fit(IMAGES, LABELS, epochs=4, batch_size=8, shuffle=False, verbose=0, callbacks=list(callbacks))
        return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]

    expected = train()
    with pytest.raises(Halt):
        train(keras.callbacks.BackupAndRestore(str(tmp_path / "b")), Stop())
    for a, b in zip(train(keras.callbacks.BackupAndRestore(str(tmp_path / "b"))), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_place_in_the_data():
    for seed in (None, 3):
        for taken in range(7):
            one, other = (BatchGenerator(IMAGES[:11], LABELS[:11], 4, shuffle_seed=seed) for _ in range(2))
            for _ in range(taken):
                with contextlib.suppress(StopIteration):
                    one.next()
            other.state = json.loads(json.dumps(one.state))
            rest = [list(y) for _, y in other]
            expected = []
            with contextlib.suppress(StopIteration):
                while True:
                    expected.append(list(one.next()[1]))
            if not expected:  # nothing was left, so iterating starts over
                expected = [list(y) for _, y in one]
            assert rest == expected
            assert [list(y) for _, y in other] == [list(y) for _, y in one]
    with pytest.raises(ValueError, match="not both"):
        one.state = {"index": 0, "random": None}


# ---- the file ---------------------------------------------------------------------------------------


def test_every_kind_of_variable(tmp_path):
    values = [
        np.array([1.5, -0.0, np.nan]),
        np.float32(3.25),
        np.arange(4, dtype=np.int64),
        np.array([1.0, 2.5], ml_dtypes.bfloat16),
        np.zeros((0, 3), np.float16),
    ]
    Checkpoint(tmp_path).save(values, {"big": 2**127, "text": "µ"})
    arrays = [np.zeros_like(value) for value in values]
    assert Checkpoint(tmp_path).restore(arrays) == {"big": 2**127, "text": "µ"}
    variables = [tf.Variable(np.zeros_like(value)) for value in values]
    Checkpoint(tmp_path).restore(variables)
    for value, array, variable in zip(values, arrays, variables, strict=True):
        assert array.tobytes() == value.tobytes() == variable.numpy().tobytes()


def test_nothing_was_saved(tmp_path):
    assert Checkpoint(tmp_path / "none").restore([np.zeros(2)]) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("settings", [{"seed": 1}, {}, {"seed": 0, "more": 1}])
def test_another_run_s_checkpoint(tmp_path, settings):
    Checkpoint(tmp_path, {"seed": 0}).save([np.ones(2)], {})
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.npz: the run there has (seed|more) .*, this one"
    ) as error:
        Checkpoint(tmp_path, settings).restore([np.ones(2)])
    assert "\n" not in str(error.value)


def test_other_variables(tmp_path):
    Checkpoint(tmp_path).save([np.ones(2), np.ones(3)], {})
    for others in (
        [np.ones(2)],
        [np.ones(2), np.ones(4)],
        [np.ones(2), np.ones(3, np.float32)],
        [np.ones(2)] * 3,
    ):
        kept = [other.copy() for other in others]
        with pytest.raises(
            CheckpointError, match=r"the variables there are float64\[2\], float64\[3\]; this run"
        ):
            Checkpoint(tmp_path).restore(others)
        for a, b in zip(kept, others, strict=True):
            np.testing.assert_array_equal(a, b)


def refusal(checkpoint: Checkpoint, variables: list[np.ndarray]) -> str | None:
    """What `restore` says of a damaged file, if anything."""
    try:
        assert checkpoint.restore(variables) == {"epoch": 1}
    except CheckpointError as error:
        return str(error)
    return None


def damages(data: bytes) -> list[bytes]:
    """Ways in which a file breaks: cut, overwritten, or something else altogether."""
    cut = [data[:n] for n in (0, 1, 10, len(data) // 2, len(data) - 1)]
    flipped = []
    for place in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        flipped.append(bytes(damaged))
    entry = data.index(b"PK\1\2")
    for offset, value in ((6, 0xFF), (8, 1), (10, 14)):  # of a later format, encrypted, compressed by LZMA
        damaged = bytearray(data)
        damaged[entry + offset] = value
        flipped.append(bytes(damaged))
    return [*cut, b"no zip file", b"\0" * len(data), *flipped]


def test_a_damaged_checkpoint_is_told_in_one_line_and_changes_nothing(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"seed": 0})
    checkpoint.save([np.arange(50.0), np.ones(3)], {"epoch": 1})
    whole = checkpoint.path.read_bytes()
    told = 0
    for data in damages(whole):
        checkpoint.path.write_bytes(data)
        variables = [np.zeros(50), np.zeros(3)]
        error = refusal(checkpoint, variables)
        if error is None:  # a byte that carries nothing, such as a date of the zip directory
            np.testing.assert_array_equal(variables[0], np.arange(50.0))
            continue
        told += 1
        assert str(checkpoint.path) in error
        assert "\n" not in error
        assert not any(variable.any() for variable in variables)
    assert told > 0.8 * len(damages(whole))


def test_a_checkpoint_of_another_format(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    header = json.dumps({"format": 2, "settings": {}, "record": {}})
    np.savez(checkpoint.path, header=np.array(header))
    with pytest.raises(CheckpointError, match="its format is 2, this release reads 1"):
        checkpoint.restore([])
    np.savez(checkpoint.path, header=np.array("[]"))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        checkpoint.restore([])


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save([np.ones(2)], {"epoch": 1})

    def full(*arguments: Any, **arrays: Any) -> None:
        arguments[0].write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(
            CheckpointError, match=r"checkpoint\.npz: can't be written: No space left on device"
        ):
            checkpoint.save([np.zeros(2)], {"epoch": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert checkpoint.restore([np.zeros(2)]) == {"epoch": 1}  # the last one is still there
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"can't be written: (Not a directory|File exists)"):
        Checkpoint(tmp_path / "file").save([], {})


# ---- signals ----------------------------------------------------------------------------------------


def test_a_second_signal_is_delivered_at_once():
    seen: list[Any] = []

    def impatient() -> None:
        with deferred_signals() as signals:
            signal.raise_signal(signal.SIGINT)
            seen.append(signals.waiting)
            signal.raise_signal(signal.SIGINT)
            seen.append("it went on")

    with pytest.raises(KeyboardInterrupt):
        impatient()
    assert seen == [signal.SIGINT]


def test_a_signal_is_not_lost_when_the_block_fails():
    def fail() -> None:
        with deferred_signals():
            signal.raise_signal(signal.SIGINT)
            raise Halt

    with pytest.raises(KeyboardInterrupt):
        fail()


def test_a_handler_that_returns_lets_the_block_go_on():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with deferred_signals() as signals:
            for round_ in range(2):
                signal.raise_signal(signal.SIGTERM)
                assert len(received) == round_
                signals.deliver()
                assert len(received) == round_ + 1
        assert len(received) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_signals_stay_ignored_and_other_threads_have_none():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_signals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals.waiting is None
    finally:
        signal.signal(signal.SIGINT, before)
    found = []

    def work() -> None:
        with deferred_signals() as signals:
            found.append(signals.waiting)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
