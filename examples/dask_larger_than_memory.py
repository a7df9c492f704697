"""A matrix product and a row softmax of arrays larger than memory, on Dask workers of 1 GiB each.

    python examples/dask_larger_than_memory.py                       # two 8 GiB arrays, two workers
    python examples/dask_larger_than_memory.py --gib 0.25 --limit 256MiB

The arrays are made chunk by chunk and the results summed chunk by chunk, so that nothing is kept. The script
prints each worker's peak memory, as the operating system keeps it (VmHWM), and what is spilled to disk; its
exit code is 1 if a worker went over its limit, or spilled, or a result is wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

import numpy as np


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=8, help="size of each array in GiB (default: 8)")
    parser.add_argument("--chunk", type=int, default=2048, help="rows and columns of a chunk (default: 2048)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--limit", default="1GiB", help="memory of each worker (default: 1GiB)")
    parser.add_argument("--only", choices=CHECKS, help="one of the two")
    return parser.parse_args(arguments)


def wave(block_info: Any = None) -> np.ndarray:
    """A chunk of ``2 + cos(0.37 i + 0.11 j)``: its place alone tells its values."""
    rows, columns = (np.arange(start, stop) for start, stop in block_info[None]["array-location"])
    result = np.outer(np.cos(0.37 * rows).astype(np.float32), np.cos(0.11 * columns).astype(np.float32))
    result -= np.outer(np.sin(0.37 * rows).astype(np.float32), np.sin(0.11 * columns).astype(np.float32))
    result += 2
    return result


def large_array(rows: int, columns: int, chunk: int) -> Any:
    """A float32 array whose chunks exist only while a task needs them."""
    import dask.array as da

    chunks = da.core.normalize_chunks((chunk, chunk), (rows, columns), dtype=np.float32)
    return da.map_blocks(wave, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))


def peak_memory() -> int:
    """The most bytes that this process ever had in memory, from its start."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def spilled(dask_worker: Any) -> int:
    """Bytes that this worker has on disk instead of in memory."""
    data = dask_worker.data
    return int(data.spilled_total.disk) if hasattr(data, "spilled_total") else 0


def check_product(n: int, chunk: int) -> tuple[str, Any, float]:
    """The sum of ``a @ v``, a larger than memory and v a tall, thin matrix, and what it should be."""
    import nbops

    lazy = nbops.sum(nbops.matmul(large_array(n, n, chunk), large_array(n, 256, chunk)).astype(np.float64))
    # Σ_p (Σ_i a[i, p]) (Σ_j v[p, j]), with cos(x + y) = cos x cos y - sin x sin y
    p, i, j = np.arange(n), np.arange(n), np.arange(256)
    of_columns = np.cos(0.37 * i).sum() * np.cos(0.11 * p) - np.sin(0.37 * i).sum() * np.sin(0.11 * p)
    of_rows = np.cos(0.37 * p) * np.cos(0.11 * j).sum() - np.sin(0.37 * p) * np.sin(0.11 * j).sum()
    return f"matmul ({n}, {n}) @ ({n}, 256)", lazy, float((2 * n + of_columns) @ (2 * 256 + of_rows))


def check_softmax(n: int, chunk: int) -> tuple[str, Any, float]:
    """The sum of a row softmax whose rows are in many chunks: one for each row."""
    import nbops

    return (
        f"softmax ({n}, {n})",
        nbops.sum(nbops.softmax(large_array(n, n, chunk)).astype(np.float64)),
        float(n),
    )


CHECKS = {"matmul": check_product, "softmax": check_softmax}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parse(arguments)
    import distributed
    from dask.utils import format_bytes, parse_bytes

    n = math.isqrt(math.ceil(options.gib * 2**30 / 4))
    n = math.ceil(n / options.chunk) * options.chunk
    limit = parse_bytes(options.limit)
    failed = False
    for check in [CHECKS[options.only]] if options.only else CHECKS.values():
        with (
            distributed.LocalCluster(
                n_workers=options.workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=limit,
                dashboard_address=None,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            name, lazy, expected = check(n, options.chunk)
            start = time.perf_counter()
            result = float(lazy.compute())
            seconds = time.perf_counter() - start
            peaks = list(client.run(peak_memory).values())
            on_disk = sum(client.run(spilled).values())
        wrong = abs(result - expected) > 1e-5 * abs(expected)
        over = max(peaks) > limit
        failed |= wrong or over or on_disk > 0
        peak = " and ".join(map(format_bytes, peaks))
        print(f"{name}, {format_bytes(4 * n * n)}: {seconds:.0f} s, {format_bytes(on_disk)} spilled")
        print(f"  peak {peak} of {format_bytes(limit)}{', OVER THE LIMIT' if over else ''}")
        print(f"  result {result:.8g}, expected {expected:.8g}{', WRONG' if wrong else ''}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
