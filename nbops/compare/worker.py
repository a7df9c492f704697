"""The process of one library: ``python -m nbops.compare.worker ADAPTER``.

It reads requests from stdin and answers on stdout, one JSON object a line, and does nothing in between: its
library's threads are asleep while another worker is timed.

=============  ========================================================================================
start          imports the library → ``load_s``, and what `describe` says
prepare        makes a workload's inputs, builds it and runs it once → ``first_call_s``
verify         the error of the results against the float64 oracle → ``error``, ``tolerance``
calibrate      how many calls fill a window → ``calls``
time           runs one window → ``ns``, the mean time of a call
=============  ========================================================================================

Every answer has a ``status``: ok, not installed, unavailable (the library does not do that), or failed, with
a ``message``.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from nbops.compare import oracles
from nbops.compare.peers import Case, Unavailable

__all__ = ["serve"]

Answer = dict[str, Any]


class _Worker:
    """One library and the workload it has ready."""

    def __init__(self, module: str) -> None:
        self.adapter = importlib.import_module(module)
        self.case: Case | None = None
        self.workload: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    @property
    def run(self) -> Callable[[], Any]:
        if self.case is None:
            raise RuntimeError("no workload is prepared; ask for prepare first")
        return self.case.run

    def start(self) -> Answer:
        missing = [name for name in self.adapter.REQUIRES if importlib.util.find_spec(name) is None]
        if missing:
            return {"status": "not installed", "message": f"{', '.join(missing)}: not installed"}
        before = time.perf_counter()
        self.adapter.load()
        return {"status": "ok", "load_s": time.perf_counter() - before}

    def describe(self) -> Answer:
        return {"status": "ok", **self.adapter.describe(), "blas": _blas()}

    def prepare(self, workload: dict[str, Any]) -> Answer:
        gc.unfreeze()
        self.case, self.given, self.workload = None, {}, workload
        gc.collect()
        kind = self.adapter.KINDS.get(workload["kind"])
        if kind is None:
            raise Unavailable(f"does not do {workload['kind']}")
        self.given = oracles.inputs(workload["kind"], workload["options"])
        before = time.perf_counter()
        self.case = kind(self.given, workload["options"])
        self.case.run()
        answer = {"status": "ok", "first_call_s": time.perf_counter() - before}
        gc.freeze()
        return answer

    def verify(self) -> Answer:
        if self.case is None:
            raise RuntimeError("no workload is prepared; ask for prepare first")
        kind, options = self.workload["kind"], self.workload["options"]
        if not self.case.stateful:
            self.case.run()  # what is timed is a repeated call: this is the result to look at
        options = {**options, **getattr(self.adapter, "ORACLE_OPTIONS", {})}
        error = oracles.error(self.case.fetch(), oracles.oracle(kind, self.given, options))
        self.given = {}  # a library that copied them needs them no more
        tolerance = oracles.tolerance(kind, options)
        # JSON has no infinity.
        return {"status": "ok", "error": error if math.isfinite(error) else None, "tolerance": tolerance}

    def calibrate(self, window_ns: int) -> Answer:
        calls = 1
        while True:
            elapsed = _window(self.run, calls)
            if elapsed * 5 >= window_ns:
                return {"status": "ok", "calls": max(1, round(calls * window_ns / elapsed))}
            calls *= 2

    def time(self, calls: int) -> Answer:
        gc.collect()
        _window(self.run, min(calls, 3))  # wakes the library's threads
        times = self.case.times if self.case is not None else 1
        return {"status": "ok", "ns": _window(self.run, calls) / calls / times}


def _window(run: Callable[[], Any], calls: int) -> int:
    """The nanoseconds that so many calls take."""
    before = time.perf_counter_ns()
    for _ in itertools.repeat(None, calls):
        run()
    return time.perf_counter_ns() - before


def _blas() -> list[dict[str, Any]] | None:
    """The BLAS and OpenMP libraries in this process and their threads; None without threadpoolctl."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return None
    wanted = ("user_api", "internal_api", "version", "architecture", "threading_layer", "num_threads")
    return [{key: pool[key] for key in wanted if key in pool} for pool in threadpoolctl.threadpool_info()]


def _answer(worker: _Worker, request: dict[str, Any]) -> Answer:
    action = request.pop("do", None)
    actions: dict[Any, Callable[..., Answer]] = {
        "start": worker.start,
        "describe": worker.describe,
        "prepare": worker.prepare,
        "verify": worker.verify,
        "calibrate": worker.calibrate,
        "time": worker.time,
    }
    if action not in actions:
        return {"status": "failed", "message": f"unknown request {action!r}; expected {', '.join(actions)}"}
    try:
        return actions[action](**request)
    except Unavailable as reason:
        return {"status": "unavailable", "message": str(reason)}
    except Exception as error:
        message = str(error).strip().split("\n")[0]
        return {"status": "failed", "message": f"{type(error).__name__}: {message}"[:300]}


def serve(module: str) -> None:
    """Answer requests until stdin ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not meet the answers
    gc.disable()
    worker = _Worker(module)
    for line in sys.stdin:
        print(json.dumps(_answer(worker, json.loads(line))), file=channel, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
