"""Train train_mnist.py's network on several workers that share each batch, with nbops ops in every replica.

    python examples/train_mnist_distributed.py --workers 2                    # two processes, this machine
    python examples/train_mnist_distributed.py --workers 2 --checkpoint run   # again, after a crash: goes on

The workers are tf.distribute's (MultiWorkerMirroredStrategy). Each holds the weights and computes the
gradients of its share of a batch; their sum, one collective a step, moves the weights everywhere alike. So
any number of workers ends at the weights that one process would, but for rounding.

On a cluster, start this script once on each machine with TF_CONFIG set, and without --workers; the digits and
the checkpoint's folder must be there for all of them. Worker 0 prints, and writes the checkpoints.

A worker that dies ends the run: every other one says which it was, with exit code 3. Start all of them again
with the same --checkpoint, and the run goes on from there and ends at the weights of an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from train_mnist import Parser, UserError, at_least, positive

PEER_LOST = 3  # the exit code of a worker that another one left alone
GRACE_SECONDS = 120.0  # how long the others have to notice


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="train_mnist_distributed.py", description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("--workers", type=at_least(1), help="processes to start on this machine (default: 2)")
    add("--data", type=Path, metavar="DIR", help="folder with MNIST's four IDX files, or mnist.npz")
    add("--epochs", type=at_least(1), default=5, help="(default: 5)")
    add("--batch-size", type=at_least(1), default=128, help="of all workers together (default: 128)")
    add("--learning-rate", type=positive, default=1e-3, help="of plain gradient descent (default: 1e-3)")
    add("--seed", type=at_least(0), default=1234, help="of the initial weights (default: 1234)")
    add("--checkpoint", type=Path, metavar="DIR", help="save there, and go on from what is there")
    add("--checkpoint-steps", type=at_least(1), default=100, help="steps between checkpoints (default: 100)")
    add("--weights", type=Path, metavar="FILE", help="write the final weights, .npz")
    add("--json", type=Path, metavar="FILE", help="write each step's loss and seconds, and the traced ops")
    options = parser.parse_args(arguments)
    if options.workers is not None and "TF_CONFIG" in os.environ:
        parser.error("--workers and TF_CONFIG say the same; leave one out")
    return options


# ---- starting workers -------------------------------------------------------------------------------


def free_ports(number: int) -> list[int]:
    """Ports of this machine on which nobody listens."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start_workers(number: int, arguments: list[str]) -> list[subprocess.Popen[bytes]]:
    """Processes that know of one another through TF_CONFIG, and share out this machine's cores."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(number)]}
    threads = str(max(1, len(os.sched_getaffinity(0)) // number))
    workers = []
    for index in range(number):
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            "TF_NUM_INTRAOP_THREADS": threads,
            "NUMBA_NUM_THREADS": threads,
        }
        workers.append(subprocess.Popen([sys.executable, __file__, *arguments], env=environment))
    return workers


def wait_for(workers: list[subprocess.Popen[bytes]]) -> int:
    """The exit code of the run; a worker that outlives another's failure for too long is ended."""
    deadline = None
    told: set[int] = set()
    running = True
    while running:
        running = any(worker.poll() is None for worker in workers)  # before the rest: none ends untold
        failed = {index for index, worker in enumerate(workers) if worker.poll() not in (None, 0)}
        for index in sorted(failed - told):
            if workers[index].returncode != PEER_LOST:
                print(
                    f"train_mnist_distributed.py: worker {index} {ending(workers[index].returncode)}",
                    file=sys.stderr,
                )
        told |= failed
        if failed and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            stop(workers)
        time.sleep(0.1)
    codes = [worker.returncode for worker in workers]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def stop(workers: list[subprocess.Popen[bytes]]) -> None:
    """End the processes that still run."""
    for worker in workers:
        if worker.poll() is None:
            worker.kill()


def launch(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run all workers on this machine."""
    own = [
        x for i, x in enumerate(arguments) if x != "--workers" and (i == 0 or arguments[i - 1] != "--workers")
    ]
    own = [x for x in own if not x.startswith("--workers=")]
    workers = start_workers(options.workers or 2, own)
    pids = ", ".join(str(worker.pid) for worker in workers)
    print(f"started {len(workers)} workers: process {pids}", flush=True)
    try:
        return wait_for(workers)
    finally:
        stop(workers)


# ---- one worker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cluster:
    """The workers' addresses, and which of them this is; from TF_CONFIG."""

    addresses: list[str]
    index: int

    @classmethod
    def from_environment(cls) -> Cluster:
        try:
            config = json.loads(os.environ["TF_CONFIG"])
            workers, task = config["cluster"]["worker"], config["task"]
            if task["type"] != "worker" or set(config["cluster"]) != {"worker"}:
                raise UserError(f"TF_CONFIG: this is task {task['type']!r}; expected workers alone")
            return cls([str(address) for address in workers], int(task["index"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"TF_CONFIG: expected cluster.worker and task ({error!r})") from None

    def unreachable(self) -> list[int]:
        """The other workers on whose port nobody answers."""
        return [i for i, at in enumerate(self.addresses) if i != self.index and not answers(at)]


def answers(address: str) -> bool:
    """Whether somebody listens at ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def shares(number: int, batch_size: int, workers: int, index: int) -> list[tuple[slice, int]]:
    """For each batch of `number` images, in order: this worker's part of it, and the whole batch's length."""
    result = []
    for start in range(0, number, batch_size):
        length = min(batch_size, number - start)
        first, last = (start + length * i // workers for i in (index, index + 1))
        result.append((slice(first, last), length))
    return result


def make_model(strategy: Any, seed: int) -> Any:
    """train_mnist.py's network, its variables mirrored by the strategy."""
    import numpy as np
    import tensorflow as tf

    from nbops.nn import NaiveDense, NaiveSequential

    def same_everywhere(create: Any, **arguments: Any) -> Any:
        # What moves a weight is the sum over all replicas already, so one replica's value will do.
        return create(**{**arguments, "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA})

    rng = np.random.default_rng(seed)
    with strategy.scope(), tf.variable_creator_scope(same_everywhere):
        return NaiveSequential(
            [NaiveDense(28 * 28, 512, "relu", seed=rng), NaiveDense(512, 10, "softmax", seed=rng)]
        )


def compile_step(strategy: Any, model: Any, images: Any, labels: Any, learning_rate: float) -> Any:
    """A step of all workers as a graph: this worker's images and labels, and 1 / the whole batch's length."""
    import tensorflow as tf

    import nbops
    from nbops.nn import update_weights

    def on_replica(images: Any, labels: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = model.ops.sparse_categorical_crossentropy(labels, model(images))
            loss = nbops.sum(losses) * weight
        gradients = tape.gradient(loss, model.weights)
        everywhere = tf.distribute.get_replica_context()
        *gradients, loss = everywhere.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, loss])
        update_weights(gradients, model.weights, learning_rate)
        return loss

    def step(images: Any, labels: Any, weight: Any) -> Any:
        return strategy.run(on_replica, args=(images, labels, weight))

    signature = [
        tf.TensorSpec((None, *images.shape[1:]), images.dtype),
        tf.TensorSpec((None,), labels.dtype),
        tf.TensorSpec((), tf.float32),
    ]
    return tf.function(step, input_signature=signature)


def ops_of(step: Any) -> list[str]:
    """The types of all ops in a traced function, and in the functions that it calls."""
    graph = step.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return sorted({node.op for node in nodes})


@dataclass
class Run:
    """What a worker keeps while it trains."""

    strategy: Any
    model: Any
    step: Any
    digits: Any
    parts: list[tuple[slice, int]]
    checkpoint: Any = None
    done: int = 0
    saved: int = 0

    def losses(self, epochs: int) -> Iterator[tuple[int, float, float]]:
        """Train; each step's number, the whole batch's average loss, and the seconds that it took."""
        while self.done < epochs * len(self.parts):
            own, length = self.parts[self.done % len(self.parts)]
            images, labels = self.digits.train_images[own], self.digits.train_labels[own]
            start = time.perf_counter()
            loss = float(self.step(images, labels, 1.0 / length))
            self.done += 1
            yield self.done, loss, time.perf_counter() - start

    def save(self) -> None:
        """Write a checkpoint of the steps that are done."""
        self.checkpoint.save(self.model.weights, {"steps": self.done})
        self.saved = self.done

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one."""
        record = self.checkpoint.restore(self.model.weights)
        self.done = self.saved = 0 if record is None else record["steps"]


def train(options: argparse.Namespace, cluster: Cluster) -> int:
    """Be one worker of the run."""
    import mnist_data
    import numpy as np
    import tensorflow as tf

    from nbops.checkpoints import Checkpoint, CheckpointError
    from nbops.nn import evaluate

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    digits = mnist_data.load(options.data)
    model = make_model(strategy, options.seed)
    step = compile_step(strategy, model, digits.train_images, digits.train_labels, options.learning_rate)
    parts = shares(len(digits.train_labels), options.batch_size, len(cluster.addresses), cluster.index)
    run = Run(strategy, model, step, digits, parts)
    chief = cluster.index == 0
    try:
        if options.checkpoint:
            names = ("batch_size", "learning_rate", "seed")
            settings = {name: getattr(options, name) for name in names}
            run.checkpoint = Checkpoint(options.checkpoint, {**settings, "images": len(digits.train_labels)})
            run.restore()
        if chief:
            print(f"data: {digits.source}; {len(cluster.addresses)} workers", flush=True)
            if run.done:
                print(f"resumed at step {run.done}", flush=True)
        losses, seconds = [], []
        for number, loss, time_taken in run.losses(options.epochs):
            losses.append(loss)
            seconds.append(time_taken)
            ends = number % len(parts) == 0
            if chief and run.checkpoint and (ends or number % options.checkpoint_steps == 0):
                run.save()
            if chief and ends:
                accuracy = evaluate(model, digits.test_images, digits.test_labels).accuracy
                epoch = f"epoch {number // len(parts)}/{options.epochs}"
                mean = float(np.mean(losses[-len(parts) :]))
                print(f"{epoch}: loss {mean:.4f}, test accuracy {accuracy:.4f}", flush=True)
    except CheckpointError as error:
        raise UserError(str(error)) from None
    except tf.errors.OpError as error:
        raise lost(cluster, run.done, options.checkpoint, error) from None
    if chief:
        finish(options, run, losses, seconds)
    return 0


class PeerLostError(Exception):
    """Another worker is gone, or can't be heard, and the run with it."""


def lost(cluster: Cluster, done: int, checkpoint: Path | None, error: Exception) -> Exception:
    """The error to raise for one that TensorFlow raised in a collective: it names the worker that is gone."""
    import tensorflow as tf

    for _ in range(5):
        gone = cluster.unreachable()
        if gone:
            break
        time.sleep(1)
    what = " and ".join(f"worker {index} ({cluster.addresses[index]})" for index in gone) + " is gone"
    if not gone:
        if not isinstance(error, tf.errors.AbortedError | tf.errors.UnavailableError):
            return error
        what = (
            "the workers lost touch, though all still answer: was a machine or a process stopped for a while?"
        )
    again = "--checkpoint DIR saves the next run from this"
    if checkpoint:
        again = f"start all workers again with --checkpoint {checkpoint} to go on"
    return PeerLostError(f"{what}; worker {cluster.index} stops after step {done}. {again}")


def finish(options: argparse.Namespace, run: Run, losses: list[float], seconds: list[float]) -> None:
    """Write what was asked for."""
    import numpy as np

    if options.weights:
        np.savez(options.weights, *[np.asarray(weight) for weight in run.model.weights])
    if options.json:
        record = {"losses": losses, "seconds": seconds, "steps": run.done, "ops": ops_of(run.step)}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line: 2 for what the user can put right, 3 where another worker is gone."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if "TF_CONFIG" not in os.environ:
        return launch(options, arguments)
    import mnist_data

    try:
        return train(options, Cluster.from_environment())
    except (UserError, mnist_data.DataError) as error:
        print(f"train_mnist_distributed.py: {error}", file=sys.stderr)
        return 2
    except PeerLostError as error:
        print(f"train_mnist_distributed.py: {error}", file=sys.stderr, flush=True)
        os._exit(PEER_LOST)  # TensorFlow's own end would wait for the worker that is gone


if __name__ == "__main__":
    sys.exit(main())
