"""Dask with nbops against Dask with NumPy: the same chunks, the same scheduler, in turn, in one run.

    python asv_benchmarks/dask_against_numpy.py [--rounds 15] [--json FILE] [--only softmax] [--small]

For each workload the two run in turn, round after round, after one of each that is not counted. Shown are the
medians and the ratio, NumPy's over nbops's: above 1, nbops is faster. Inputs are in memory before the clock
starts, and results are computed, chunk by chunk, and dropped.

The goal is a geometric mean of at least 1.2 and no workload under 0.95; the exit code is 1 if missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np

import nbops
from nbops.compare.measure import machine


def numpy_softmax(x: Any) -> Any:
    """As it is written with Dask's NumPy functions."""
    powers = da.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def workloads(small: bool) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name -> (with nbops, with NumPy), each a function that gives a lazy array."""
    n, chunk = (64, 32) if small else (8192, 2048)
    m = n // 4
    rng = np.random.default_rng(0)

    def array(rows: int, columns: int, *chunks: int) -> Any:
        return da.from_array(rng.random((rows, columns), dtype=np.float32), chunks=chunks)

    x, y, z = (array(n, n, chunk, chunk) for _ in range(3))
    bias = da.from_array(rng.random(n, dtype=np.float32), chunks=chunk)
    a, b = array(m, m, chunk // 2, chunk // 2), array(m, m, chunk // 2, chunk // 2)
    whole_rows = x.rechunk((chunk // 8, -1)).persist()
    return {
        "chain: relu(x * y + z)": (
            lambda: nbops.add_relu(nbops.multiply(x, y), z),
            lambda: da.maximum(x * y + z, 0),
        ),
        "chain: relu(x + bias)": (lambda: nbops.add_relu(x, bias), lambda: da.maximum(x + bias, 0)),
        "chain: sigmoid(x) * y": (
            lambda: nbops.multiply(nbops.sigmoid(x), y),
            lambda: 1 / (1 + da.exp(-x)) * y,
        ),
        "chain: tanh(x * y + z)": (
            lambda: nbops.tanh(nbops.add(nbops.multiply(x, y), z)),
            lambda: da.tanh(x * y + z),
        ),
        "matmul": (lambda: nbops.matmul(a, b), lambda: da.matmul(a, b)),
        "dense, relu": (
            lambda: nbops.dense(a, b.rechunk((-1, -1)), bias[:m], "relu"),
            lambda: da.maximum(da.matmul(a, b) + bias[:m], 0),
        ),
        "softmax, rows in one chunk": (lambda: nbops.softmax(whole_rows), lambda: numpy_softmax(whole_rows)),
        "softmax, rows in many chunks": (lambda: nbops.softmax(x), lambda: numpy_softmax(x)),
        "mean along rows": (lambda: nbops.mean(x, axis=1), lambda: x.mean(axis=1)),
    }


#: Seconds before each measurement: the threads of NumPy's BLAS go on spinning for some hundredths after a
#: product, and whoever came next would share the cores with them.
PAUSE = 0.1


def seconds(make: Callable[[], Any]) -> float:
    """Computing the array once; each chunk is dropped when it is done."""
    lazy = make()
    done = [dask.delayed(_drop)(block) for block in lazy.to_delayed().ravel()]
    time.sleep(PAUSE)
    start = time.perf_counter()
    dask.compute(*done, scheduler="threads")
    return time.perf_counter() - start


def _drop(_chunk: Any) -> None:
    return None


def check(name: str, ours: Any, theirs: Any) -> None:
    """Both must compute the same thing."""
    difference = float(abs(ours - theirs).max().compute())
    scale = float(abs(theirs).max().compute())
    if difference > 1e-4 * max(scale, 1e-30):
        raise SystemExit(f"{name}: the results differ by {difference:.3g}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="workloads with this in their name")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    rows: dict[str, Any] = {}
    for name, (ours, theirs) in workloads(options.small).items():
        if options.only not in name:
            continue
        check(name, ours(), theirs())
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(options.rounds):
            for make, own in zip((ours, theirs), times, strict=True):
                own.append(seconds(make))
        medians = [statistics.median(own) for own in times]
        ratio = medians[1] / medians[0]
        rows[name] = {"nbops_seconds": times[0], "numpy_seconds": times[1], "ratio": ratio}
        print(
            f"{name:32} nbops {medians[0] * 1e3:9.2f} ms  NumPy {medians[1] * 1e3:9.2f} ms  {ratio:.2f}x",
            flush=True,
        )
    ratios = {name: row["ratio"] for name, row in rows.items()}
    mean, worst = statistics.geometric_mean(ratios.values()), min(ratios, key=ratios.__getitem__)
    print(f"geometric mean {mean:.2f}x, least {ratios[worst]:.2f}x ({worst})")
    if options.json:
        report = {"machine": machine(), "geometric_mean": mean, "least": ratios[worst], "workloads": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(not options.small and (mean < 1.2 or ratios[worst] < 0.95))


if __name__ == "__main__":
    sys.exit(main())
