"""What the benchmarks share: inputs, peers, and what stands beside nbops.

The work itself, its inputs, its float64 oracle and each peer's way to do it come from `nbops.compare`, so
that the history and the peer table measure the same thing. asv runs every benchmark in a process of its own,
so no two libraries' threads ever meet. What is not there (a peer, a GPU, a function of a later commit) raises
NotImplementedError in setup, and asv leaves the point out.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from typing import Any

import numba
import numpy as np

import nbops

PEERS = ["numpy", "numexpr", "torch", "jax", "tensorflow"]
#: nbops on one core and as its dispatcher chooses, then the peers.
IMPLEMENTATIONS = ["serial", "nbops", *PEERS]


def array(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Normal numbers; the same for the same arguments."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def public(name: str) -> Any:
    """One of nbops's public functions; an older commit may lack it."""
    try:
        return getattr(nbops, name)
    except AttributeError:
        raise NotImplementedError(f"this commit has no nbops.{name}") from None


def module(name: str) -> Any:
    """A module; an older commit, or this environment, may lack it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotImplementedError(str(error)) from None


class Compared:
    """A workload of `nbops.compare`: set `kind`, and call `prepare` in setup."""

    kind: str

    def prepare(self, implementation: str, **options: Any) -> None:
        oracles, peers = module("nbops.compare.oracles"), module("nbops.compare.peers")
        library = implementation if implementation in PEERS else "nbops"
        adapter = module(f"nbops.compare.peers.on_{library}")
        missing = [name for name in adapter.REQUIRES if importlib.util.find_spec(name) is None]
        if missing:
            raise NotImplementedError(f"{missing[0]} is not installed")
        adapter.load()
        if self.kind not in adapter.KINDS:
            raise NotImplementedError(f"{library} does not do {self.kind}")
        self.options = {**options, **getattr(adapter, "ORACLE_OPTIONS", {})}
        self.given = oracles.inputs(self.kind, options)
        # asv calls the method in the same thread. Inside `nbops.use` no call would take the short way.
        if implementation == "serial":
            numba.set_num_threads(1)
        try:
            self.case = adapter.KINDS[self.kind](self.given, options)
        except peers.Unavailable as reason:
            raise NotImplementedError(str(reason)) from None
        self.case.run()

    def teardown(self, *parameters: Any) -> None:
        numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    def error(self) -> float:
        """The largest error against float64; see `nbops.compare.oracles`."""
        oracles = module("nbops.compare.oracles")
        expected = oracles.oracle(self.kind, self.given, self.options)
        return float(oracles.error(self.case.fetch(), expected))


def ratio_to_best_peer(name: str) -> float:
    """The best installed peer's time over nbops's, for a workload of ``nbops compare`` by name."""
    compare = module("nbops.compare")
    chosen = [workload for workload in compare.workloads() if workload.name == name]
    if not chosen:
        raise NotImplementedError(f"this commit's list has no {name}")
    (row,) = compare.compare(chosen, compare.PEERS, compare.Settings())["workloads"]
    if row["best"] is None:
        raise NotImplementedError(row["refused"])
    return float(row["best"]["p10"]["ratio"])


def in_new_process(source: str, *, empty_cache: bool, times: int = 1) -> float:
    """The smallest number that a script prints in new processes; one more fills the cache for a warm one."""
    found = []
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(times + (not empty_cache)):
            with tempfile.TemporaryDirectory() as emptied:
                folder = emptied if empty_cache else kept
                variables = {**os.environ, "NUMBA_CACHE_DIR": folder, "NBOPS_CACHE_DIR": folder}
                command = [sys.executable, "-c", source]
                done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
            if turn or empty_cache:
                found.append(float(done.stdout.split()[-1]))
    return min(found)
