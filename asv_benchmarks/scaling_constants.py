"""The constants of docs/scaling.md, measured on this machine: what N workers cost and gain.

    python asv_benchmarks/scaling_constants.py [--json asv_benchmarks/results/scaling.json] [--small]

For Dask's tasks: operations and bytes a second of one core, what a task costs each scheduler, and bytes a
second between two worker processes. For training: examples/train_mnist_distributed.py with one and with two
workers of one core each, at two sizes of batch, from which the model's terms follow. All are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np

import nbops
from nbops.compare.measure import machine

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "train_mnist_distributed.py"
WEIGHT_BYTES = 4 * (784 * 512 + 512 + 512 * 10 + 10)
#: Of the training step: the sizes between which a line is drawn, in images.
BATCHES = (64, 512)


def median_seconds(call: Callable[[], Any], rounds: int) -> float:
    """The median time of a call; the first is not counted."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# ---- Dask -------------------------------------------------------------------------------------------


def of_one_core(small: bool, rounds: int) -> dict[str, float]:
    """Operations a second of matmul and bytes a second of add, as in a task with one thread."""
    n = 64 if small else 2048
    a, b = np.ones((n, n), np.float32), np.ones((n, n), np.float32)
    with nbops.use(threads=1):
        product = median_seconds(lambda: nbops.matmul(a, b), rounds)
        total = median_seconds(lambda: nbops.add(a, b), rounds)
    return {"operations_per_second": 2 * n**3 / product, "bytes_per_second": 3 * a.nbytes / total}


def of_a_task(small: bool, rounds: int, **scheduler: Any) -> float:
    """Seconds that a scheduler takes for a task that does nothing worth mentioning."""
    chunks = 100 if small else 2000
    (lazy,) = dask.optimize(nbops.sum(nbops.relu(da.zeros(chunks, chunks=1, dtype=np.float32))))
    seconds = median_seconds(lambda: lazy.compute(optimize_graph=False, **scheduler), rounds)
    return seconds / len(lazy.__dask_graph__())


def of_a_cluster(small: bool, rounds: int) -> dict[str, float]:
    """A task's cost on dask.distributed, and bytes a second from one worker process to another."""
    import distributed

    n = 1000 if small else 64_000_000
    with (
        dask.config.set({"distributed.admin.tick.limit": "1h"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        task = of_a_task(small, rounds, scheduler=client)
        here, there = (info["name"] for info in client.scheduler_info()["workers"].values())

        def transfer() -> float:
            data = client.submit(np.ones, n, np.uint8, workers=[here], pure=False)
            distributed.wait(data)
            start = time.perf_counter()
            client.submit(len, data, workers=[there], pure=False).result()
            return time.perf_counter() - start

        transfer()
        seconds = statistics.median(transfer() for _ in range(rounds))
    return {"task_seconds_distributed": task, "transfer_bytes_per_second": n / seconds}


# ---- training ---------------------------------------------------------------------------------------


def step_seconds(workers: int, batch: int, epochs: int) -> float:
    """The median time of a step of the example; each worker has one core."""
    cores = sorted(os.sched_getaffinity(0))[:workers]
    if len(cores) < workers:
        raise SystemExit(
            f"scaling_constants: {workers} workers need as many cores; this process has {len(cores)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        subprocess.run(
            [
                *(sys.executable, EXAMPLE, "--workers", str(workers), "--batch-size", str(batch)),
                *("--epochs", str(epochs), "--json", record),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        seconds = json.loads(record.read_text())["seconds"]
    return statistics.median(seconds[len(seconds) // 4 :])  # the first ones trace and compile


def of_training(small: bool) -> dict[str, float]:
    """The terms of a step: by image, fixed, and the all-reduce of two workers."""
    epochs = (1, 1) if small else (4, 16)
    one = [step_seconds(1, batch, n) for batch, n in zip(BATCHES, epochs, strict=True)]
    two = [step_seconds(2, batch, n) for batch, n in zip(BATCHES, epochs, strict=True)]
    image = (one[1] - one[0]) / (BATCHES[1] - BATCHES[0])
    fixed = one[0] - image * BATCHES[0]
    reduce = statistics.mean(t - image * batch / 2 - fixed for t, batch in zip(two, BATCHES, strict=True))
    return {"image_seconds": image, "fixed_seconds": fixed, "all_reduce_seconds_2": reduce}


# ---- the page ---------------------------------------------------------------------------------------


def speed_up(report: dict[str, Any], workers: int, batch: int) -> float:
    """What the model of docs/scaling.md says of N workers, the all-reduce growing as 2 (N - 1) / N."""
    image, fixed = report["image_seconds"], report["fixed_seconds"]
    reduce = 2 * (workers - 1) / workers * report["all_reduce_seconds_2"]
    return float((image * batch + fixed) / (image * batch / workers + fixed + reduce))


def table(report: dict[str, Any]) -> str:
    """The page's table of constants and of what follows from them."""
    p, memory = report["operations_per_second"], report["bytes_per_second"]
    between, task = report["transfer_bytes_per_second"], report["task_seconds_distributed"]
    rows = [
        ("p, float32 operations a second in a task (matmul, one core)", f"{p / 1e9:.0f} · 10⁹"),
        ("bytes of memory a second in a task (add, one core)", f"{memory / 1e9:.1f} · 10⁹"),
        ("s, a task's cost, threaded scheduler", f"{report['task_seconds_threads'] * 1e6:.0f} µs"),
        ("s, a task's cost, dask.distributed", f"{task * 1e6:.0f} µs"),
        ("b, bytes a second between two worker processes", f"{between / 1e9:.2f} · 10⁹"),
        (
            "c, the edge of a float32 chunk above which a product is bound by compute",
            f"{4 * p / between:.0f}",
        ),
        ("workers that one scheduler feeds with products of chunks of 2048", f"{2 * 2048**3 / p / task:.0f}"),
        ("t₁, training, one image", f"{report['image_seconds'] * 1e6:.1f} µs"),
        ("f, fixed part of a step", f"{report['fixed_seconds'] * 1e3:.2f} ms"),
        ("all-reduce of two workers, 1.6 MB", f"{report['all_reduce_seconds_2'] * 1e3:.2f} ms"),
        *(
            (
                f"predicted speed-up at B = {batch:,}, N = 2, 4, 8, 16",
                ", ".join(f"{speed_up(report, n, batch):.1f}" for n in (2, 4, 8, 16)),
            )
            for batch in (128, 1024, 8192)
        ),
    ]
    where = report["machine"]
    return "\n".join(
        [
            "| constant | here |",
            "| --- | ---: |",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
            f"{where['cpu']}, {where['cores']} cores, Python {where['python']}, nbops {where['nbops']}.",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--small", action="store_true", help="tiny sizes: to see that it works")
    options = parser.parse_args(arguments)
    rounds = 2 if options.small else 9
    report = {
        "machine": machine(),
        **of_one_core(options.small, rounds),
        "task_seconds_threads": of_a_task(options.small, rounds, scheduler="threads"),
        **of_a_cluster(options.small, rounds),
        **of_training(options.small),
        "weight_bytes": WEIGHT_BYTES,
    }
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
