"""Train a 784-512-10 network on MNIST's handwritten digits, with nbops's ops or TensorFlow's.

    python examples/train_mnist.py                                    # 5 epochs of RMSprop
    python examples/train_mnist.py --optimizer sgd --epochs 10        # as in the book, chapter 2
    python examples/train_mnist.py --ops tensorflow --json tensorflow.json
    python examples/train_mnist.py --checkpoint run                   # Ctrl-C, and again to go on

sgd is the book's plain gradient descent, w ← w - learning_rate × gradient, over the digits in their order.
After ten epochs its accuracy is 0.81 or 0.82; the seed decides, not the ops. rmsprop and adam, of Keras,
shuffle the digits in each epoch, as Keras's fit does.

The digits come from --data; without it from Keras's download, and offline from a subset of 5,000 that ships
with this example. The same --seed gives the same initial weights, whichever ops train them. The first epoch's
time includes tracing the graph and, the first time ever, compiling the ops.

With --checkpoint a run that was stopped, by Ctrl-C, SIGTERM or a crash, goes on where it was and ends with
the weights of one that never stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import zlib
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# TensorFlow and Keras are imported where they are needed, so that --help and a bad argument answer at once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# W begins uniform in [0, 0.1), all positive, which takes longer to leave than Keras's own initial weights do.
# At Keras's own rate, 1e-3, RMSprop ends its fifth epoch at 0.96 whichever ops train it; at 3e-3, at 0.98.
LEARNING_RATES = {"sgd": 1e-3, "rmsprop": 3e-3, "adam": 3e-3}
LOSS_EVERY = 100  # batches


class UserError(Exception):
    """Something the user can put right, told in one line."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came; like Ctrl-C, but another exit code."""


def terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def at_least(minimum: int) -> Any:
    """The type of an argument that is an integer from `minimum` on."""

    def integer(text: str) -> int:
        if not text.lstrip("+-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {minimum}")
        return int(text)

    return integer


def positive(text: str) -> float:
    """The type of an argument that is a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="train_mnist.py", description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder with MNIST's four IDX files, or mnist.npz")
    add("--epochs", type=at_least(1), default=5, help="(default: 5)")
    add("--batch-size", type=at_least(1), default=128, help="(default: 128)")
    add("--optimizer", choices=LEARNING_RATES, default="rmsprop", help="(default: rmsprop)")
    add("--learning-rate", type=positive, help="(default: 1e-3 for sgd, else 3e-3)")
    add("--ops", choices=["nbops", "tensorflow"], default="nbops", help="(default: nbops)")
    add("--target", choices=["auto", "cpu", "cuda"], default="auto", help="where to run (default: auto)")
    add("--seed", type=at_least(0), default=1234, help="of the initial weights (default: 1234)")
    add("--checkpoint", type=Path, metavar="DIR", help="keep the run there; go on with the one that is there")
    add("--json", type=Path, metavar="FILE", help="write losses, accuracy and times")
    add("--plot", type=Path, metavar="FILE", help="draw learning curves and misread digits: .png, .pdf, .svg")
    options = parser.parse_args(arguments)
    if options.learning_rate is None:
        options.learning_rate = LEARNING_RATES[options.optimizer]
    return options


# ---- before training --------------------------------------------------------------------------------


def check_outputs(options: argparse.Namespace) -> None:
    """Find out before training, not after it, that a result can't be written."""
    if options.plot:
        import mnist_plots

        if options.plot.suffix[1:].lower() not in mnist_plots.formats():
            raise UserError(
                f"{options.plot}: can't draw this; expected one of .{', .'.join(mnist_plots.formats())}"
            )
    from nbops.files import check_writable

    for path in filter(None, (options.json, options.plot, options.checkpoint)):
        try:
            if path is options.checkpoint:
                path.mkdir(parents=True, exist_ok=True)
                check_writable(path / "checkpoint.npz")
            else:
                check_writable(path)
        except OSError as error:
            raise UserError(f"{path}: can't be written: {error.strerror}") from None


def choose_target(target: str, ops: str) -> AbstractContextManager[Any]:
    """Have TensorFlow, and nbops where it decides itself, run on this target."""
    import tensorflow as tf

    import nbops

    stack = ExitStack()
    if target == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise UserError("--target cuda: TensorFlow sees no GPU here; use --target auto or cpu")
    if target != "auto":
        try:
            if ops == "nbops":
                stack.enter_context(nbops.use(target))
        except RuntimeError as error:
            raise UserError(f"--target cuda: {error}") from None
        stack.enter_context(tf.device("/GPU:0" if target == "cuda" else "/CPU:0"))
    return stack


# ---- training ---------------------------------------------------------------------------------------


@dataclass
class Results:
    """What training gave: the epochs, and the final predictions on the test images."""

    epochs: list[Any]  # of nbops.nn.Epoch
    predictions: Any

    @property
    def test_accuracies(self) -> list[float]:
        return [epoch.metrics["test_accuracy"] for epoch in self.epochs]


def train(options: argparse.Namespace, digits: Any) -> Results:
    """Train, with a progress bar per epoch."""
    import keras
    import numpy as np
    from tqdm import tqdm

    from nbops.checkpoints import CheckpointError
    from nbops.nn import Epoch, NaiveDense, NaiveSequential, Progress, evaluate, fit, predict
    from nbops.optimizers import RMSprop

    rng = np.random.default_rng(options.seed)
    model = NaiveSequential(
        [
            NaiveDense(28 * 28, 512, "relu", ops=options.ops, seed=rng),
            NaiveDense(512, 10, "softmax", ops=options.ops, seed=rng),
        ]
    )
    optimizer: Any = None  # plain gradient descent
    if options.optimizer != "sgd":
        if options.ops == "nbops" and options.optimizer == "rmsprop":
            optimizer = RMSprop(options.learning_rate)
        else:
            optimizer = keras.optimizers.get(options.optimizer)
            optimizer.learning_rate = options.learning_rate
    bar: Any = None
    seen: list[float] = []

    def on_batch(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            name = f"epoch {progress.epoch + 1}/{options.epochs}"
            done = progress.batch * options.batch_size
            bar = tqdm(
                total=len(digits.train_labels), initial=done, desc=name, unit=" images", unit_scale=True
            )
            seen.clear()
        seen.append(progress.accuracy)
        bar.set_postfix_str(f"loss {progress.loss:.4f}, accuracy {np.mean(seen):.4f}", refresh=False)
        bar.update(progress.batch_size)

    def on_epoch(epoch: Epoch) -> None:
        nonlocal bar
        accuracy = evaluate(model, digits.test_images, digits.test_labels).accuracy
        epoch.metrics["test_accuracy"] = accuracy
        bar.set_postfix_str(
            f"loss {np.mean(epoch.losses):.4f}, accuracy {np.mean(epoch.accuracies):.4f}, "
            f"test accuracy {accuracy:.4f}"
        )
        bar.close()
        bar = None

    try:
        epochs = fit(
            model,
            digits.train_images,
            digits.train_labels,
            options.epochs,
            options.batch_size,
            learning_rate=options.learning_rate,
            optimizer=optimizer,
            shuffle_seed=options.seed if optimizer else None,
            on_batch=on_batch,
            on_epoch=on_epoch,
            checkpoint=open_checkpoint(options, digits),
        )
    except CheckpointError as error:
        raise UserError(str(error)) from None
    finally:
        if bar is not None:  # stopped
            bar.close()
    return Results(epochs, predict(model, digits.test_images))


def open_checkpoint(options: argparse.Namespace, digits: Any) -> Any:
    """Where the run is kept, told apart from runs that would end with other weights."""
    from nbops.checkpoints import Checkpoint

    if options.checkpoint is None:
        return None
    settings = {
        "--" + name.replace("_", "-"): getattr(options, name)
        for name in ("ops", "optimizer", "learning_rate", "batch_size", "seed")
    }
    data = zlib.crc32(digits.train_labels.tobytes(), zlib.crc32(digits.train_images))
    return Checkpoint(options.checkpoint, {**settings, "--data with checksum": f"{data:08x}"})


# ---- after training ---------------------------------------------------------------------------------


def write_json(options: argparse.Namespace, digits: Any, results: Results) -> None:
    """What was asked for, and what came of it; `losses` has batches 0, 100, 200, … of each epoch."""
    from nbops.files import replacing

    record = {
        "ops": options.ops,
        "target": options.target,
        "optimizer": options.optimizer,
        "learning_rate": options.learning_rate,
        "batch_size": options.batch_size,
        "epochs": options.epochs,
        "seed": options.seed,
        "data": digits.source,
        "train_images": len(digits.train_labels),
        "epoch_seconds": [epoch.seconds for epoch in results.epochs],
        "losses": [loss for epoch in results.epochs for loss in epoch.losses[::LOSS_EVERY]],
        "test_accuracies": results.test_accuracies,
        "accuracy": results.test_accuracies[-1],
    }
    with replacing(options.json) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def write_plot(options: argparse.Namespace, digits: Any, results: Results) -> None:
    """The learning curves and the misread digits."""
    import mnist_plots

    from nbops.files import replacing

    with replacing(options.plot) as temporary:
        mnist_plots.draw(
            temporary,
            f"784-512-10 on {len(digits.train_labels):,} digits, {options.ops} ops, {options.optimizer} at "
            f"{options.learning_rate:g}",
            [epoch.losses for epoch in results.epochs],
            [epoch.accuracies for epoch in results.epochs],
            results.test_accuracies,
            digits.test_images,
            digits.test_labels,
            results.predictions,
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 2 for what the user can put right."""
    options = parse(arguments)
    try:
        check_outputs(options)
        import mnist_data

        try:
            digits = mnist_data.load(options.data)
        except mnist_data.DataError as error:
            raise UserError(str(error)) from None
        counts = f"{len(digits.train_labels):,} to train, {len(digits.test_labels):,} to test"
        print(f"data: {digits.source}; {counts}", flush=True)
        with choose_target(options.target, options.ops):
            results = train(options, digits)
        print(f"test accuracy: {results.test_accuracies[-1]:.4f}")
        for path, write in ((options.json, write_json), (options.plot, write_plot)):
            if path:
                try:
                    write(options, digits, results)
                except OSError as error:
                    raise UserError(f"{path}: can't be written: {error.strerror}") from None
                print(f"wrote {path}")
    except UserError as error:
        print(f"train_mnist.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        hint = f"; the same command goes on from {options.checkpoint}" if options.checkpoint else ""
        print(f"train_mnist.py: stopped{hint}", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
