"""Mixed ops from many threads at once, for a while; every result is compared with NumPy's.

    python -m tests.stress --seconds 60                 # 8 Python threads, then the same in a forked child
    python -m tests.stress --seconds 60 --tensorflow    # tf.data, 4 parallel calls; 8 threads of tf.function

`make stress` runs it under each NUMBA_THREADING_LAYER. It prints how many calls were made, and fails at the
first wrong result.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np

import nbops


@nbops.op("(n)->(n)", name="stress_double", nanoseconds=100)
def double(x, out):
    """One item and its own prange: where Numba's threads run, not nbops's."""
    for i in nbops.prange(x.shape[0]):
        out[i] = x[i] * 2


def jobs(rng: np.random.Generator) -> list[tuple[str, Callable[..., object], np.ndarray]]:
    """Name, call and expected result, small and large, so that every way through the dispatcher is taken."""
    found = []
    for n in (7, 130, 401):
        x, w = rng.normal(size=(n, 60)).astype(np.float32), rng.normal(size=(60, n)).astype(np.float32)
        b = rng.normal(size=n).astype(np.float32)
        p = np.exp(x - x.max(-1, keepdims=True))
        for target in (None, "parallel", "serial"):
            found += [
                ("matmul", lambda x=x, w=w, t=target: nbops.matmul(x, w, target=t), x @ w),
                ("add", lambda x=x, t=target: nbops.add(x, x, target=t), x + x),
                ("double", lambda b=b, t=target: double(b, target=t), b * 2),
            ]
        found += [
            ("relu", lambda x=x: nbops.relu(x), np.maximum(x, 0)),
            ("dense", lambda x=x, w=w, b=b: nbops.dense(x, w, b, "relu"), np.maximum(x @ w + b, 0)),
            ("softmax", lambda x=x: nbops.softmax(x), p / p.sum(-1, keepdims=True)),
            ("sum", lambda x=x: nbops.sum(x, axis=0), x.sum(0)),
        ]
    return found


def with_threads(seconds: float, threads: int) -> int:
    """Call everything from every thread, in another order each; the number of calls."""
    counts, wrong = [0] * threads, []
    work = jobs(np.random.default_rng(0))
    end = time.monotonic() + seconds

    def run(index: int) -> None:
        rng = np.random.default_rng(index)
        while time.monotonic() < end and not wrong:
            for job in rng.permutation(len(work)):
                name, call, expected = work[job]
                try:
                    np.testing.assert_allclose(call(), expected, rtol=1e-3, atol=1e-4, err_msg=name)
                except Exception as error:
                    wrong.append((name, error))
                    return
                counts[index] += 1

    started = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if wrong:
        raise AssertionError(f"{wrong[0][0]}: {wrong[0][1]}")
    return sum(counts)


def with_tensorflow(seconds: float, threads: int) -> int:
    """tf.data with four parallel calls, while threads run a tf.function; the number of calls."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(60, 80)).astype(np.float32), rng.normal(size=80).astype(np.float32)
    x = rng.normal(size=(8, 50, 60)).astype(np.float32)
    expected = np.maximum(x @ w + b, 0)

    @tf.function(reduce_retracing=True)
    def model(images):
        return nbops.add(nbops.dense(images, w, b, "relu"), tf.constant(0, tf.float32))

    model(x[0])  # compiles; that is not in the time
    end = time.monotonic() + seconds
    counts, wrong = [0] * (threads + 1), []

    def run(index: int) -> None:
        while time.monotonic() < end and not wrong:
            if not np.allclose(model(x[index % 8]), expected[index % 8], rtol=1e-3, atol=1e-4):
                wrong.append(index)
            counts[index] += 1

    started = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in started:
        thread.start()
    numbers = (
        tf.data.Dataset.range(8)
        .repeat()
        .map(lambda i: (i, model(tf.gather(tf.constant(x), i))), num_parallel_calls=4)
    )
    for i, result in numbers:
        if not np.allclose(result, expected[int(i)], rtol=1e-3, atol=1e-4):
            wrong.append("tf.data")
        counts[-1] += 1
        if time.monotonic() > end or wrong:
            break
    for thread in started:
        thread.join()
    assert not wrong, f"wrong results: {wrong[:3]}"
    assert all(counts), counts
    return sum(counts)


def watch_for_hangs(seconds: float) -> None:
    """End the process, with the stack of every thread, when it takes five minutes longer than asked."""
    faulthandler.dump_traceback_later(2 * seconds + 300, exit=True)


def main() -> int:
    """Run it; 1 when a forked child failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--tensorflow", action="store_true")
    options = parser.parse_args()
    from nbops.targets import cpu

    watch_for_hangs(options.seconds)
    layer = cpu.threading_layer()
    asked = os.environ.get("NUMBA_THREADING_LAYER", layer)
    if asked != layer:
        parser.error(f"NUMBA_THREADING_LAYER asks for {asked!r}, which can't be loaded")
    if options.tensorflow:
        print(
            f"{layer}: {with_tensorflow(options.seconds, options.threads):,} calls in TensorFlow", flush=True
        )
        return 0  # TensorFlow itself does not survive a fork
    print(f"{layer}: {with_threads(options.seconds, options.threads):,} calls", flush=True)
    if not hasattr(os, "fork"):
        return 0
    faulthandler.cancel_dump_traceback_later()  # a child that starts its own would wait for its parent's
    child = os.fork()
    watch_for_hangs(options.seconds)
    if child == 0:
        try:
            calls = with_threads(options.seconds, options.threads)
            print(f"{layer}: {calls:,} calls after fork", flush=True)
            os._exit(0)
        except BaseException as error:
            print(f"after fork: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
