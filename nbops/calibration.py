"""From how much work on a second core pays: measured on this machine, kept, with sensible figures before.

Starting threads costs time that depends on who starts them, so the break-even belongs to the launcher:
the serial time, in nanoseconds, from which the parallel launch wins. `calibrate` measures it and keeps it in
the user's cache folder (``NBOPS_CACHE_DIR``, else the platform's usual place).
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np

from nbops.files import replacing
from nbops.settings import settings, use
from nbops.targets import cpu, cuda

__all__ = ["SHIPPED", "break_even", "calibrate", "file"]

#: Measured on 2 cores of x86-64 with Numba 0.68: the serial time that a parallel launch must be worth.
SHIPPED = {"pool": 8_000, "omp": 10_000, "tbb": 20_000, "workqueue": 1_200_000}


def file() -> Path:
    """Where this user's calibration is kept."""
    chosen = os.environ.get("NBOPS_CACHE_DIR")
    if chosen:
        return Path(chosen) / "calibration.json"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nbops" / "calibration.json"


def _key(layer: str | None, threads: int) -> str:
    return f"{layer}-{threads}"


def break_even(layer: str | None, threads: int) -> int:
    """The serial nanoseconds from which a parallel launch wins: this machine's figure, or the shipped one."""
    if layer is None or threads <= 1:
        return sys.maxsize
    try:
        figure = kept(_key(layer, threads))["break_even_ns"]
        if figure > 0:
            return int(figure)
    except (KeyError, TypeError):
        pass
    return SHIPPED.get(layer, SHIPPED["workqueue"])


def _times_ns(calls: Sequence[Callable[[], Any]], rounds: int = 51) -> list[float]:
    """The 10th percentile of each call's time, taken in turn: others' load only ever adds.

    The second of two calls is timed: the first one's data are still where the other call had them.
    """
    import statistics

    samples: list[list[int]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, samples, strict=True):
            call()
            start = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - start)
    return [statistics.quantiles(times, n=10)[0] for times in samples]


def _call(target: str, op: Any, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    # As a keyword, the target would send the call the long way, which takes longer than many a loop.
    with use(target, strict=False):  # a strict block looks anew at each call
        op(x, y, out=out)


def calibrate(save: bool = True) -> dict[str, Any]:
    """Measure the break-even of a parallel launch and use it from now on.

    Times the same elementwise sum, serial and parallel in turn, over growing sizes, and takes the serial time
    at the first size from which parallel stays ahead. Where it never does, as on a machine that is busy, the
    figure in force stays and nothing is kept. Nothing is measured where only one thread may run, or where
    NUMBA_DISABLE_JIT is set. Takes about half a second.

    Parameters
    ----------
    save : bool
        Keep the result for later processes. A folder that can't be written is not an error.

    Returns
    -------
    dict
        ``layer``, ``threads``, ``break_even_ns``, and under ``samples`` the elements and both times in ns. On
        a machine with a usable GPU, under ``cuda`` its figures; see `nbops.targets.cuda.costs`.
    """
    from nbops.ops.elementwise import add
    from nbops.remember import forget_all

    threads = cpu.start_threads()
    layer = cpu.launcher()
    samples: list[dict[str, Any]] = []
    alone = numba.config.DISABLE_JIT or min(threads, settings().threads or threads) <= 1
    for exponent in () if alone else range(10, 23):
        x = np.ones(2**exponent, np.float32)
        out = np.empty_like(x)
        calls = [functools.partial(_call, target, add, x, x, out) for target in ("serial", "parallel")]
        for call in calls:
            call()  # the next one is like an earlier one, and takes the short way
        serial, parallel = _times_ns(calls)
        samples.append({"elements": x.size, "serial_ns": serial, "parallel_ns": parallel})
    figure = None
    for sample in reversed(samples):
        if sample["parallel_ns"] >= sample["serial_ns"]:
            break
        figure = max(int(sample["serial_ns"] - samples[0]["serial_ns"]), 1)  # the smallest is all overhead
    if figure is None:  # no size gained: a busy machine, or one core; keep what was in force
        figure = break_even(layer, threads)
        save = False
    result: dict[str, Any] = {
        "layer": layer,
        "threads": threads,
        "break_even_ns": figure,
        "samples": samples,
    }
    cpu.STATE[cpu.BREAK_EVEN] = figure
    forget_all()  # calls that were decided by another figure
    if save:
        keep(_key(layer, threads), result)
    if cuda.available():
        result["cuda"] = cuda.calibrate()
    return result


def kept(key: str) -> Any:
    """What an earlier calibration kept under a key; None where there is nothing."""
    try:
        return json.loads(file().read_text())[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, result: dict[str, Any]) -> None:
    """Keep a result for later processes; a folder that can't be written is no error."""
    place = file()
    try:
        everything = json.loads(place.read_text())
    except (OSError, ValueError):
        everything = None
    if not isinstance(everything, dict):
        everything = {}
    everything[key] = result
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            temporary.write_text(json.dumps(everything, indent=1))
    except OSError:
        return
