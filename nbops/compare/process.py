"""The parent's side of a worker: start it, ask it, and notice when it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbops

__all__ = ["Process", "Team", "environment"]

#: Set by some container images to make OpenBLAS take an older CPU's kernels; NumPy runs without them here.
CRIPPLING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """What a worker sees: this process's variables, the CPU only, and OpenBLAS free to choose its kernels."""
    variables = {name: value for name, value in os.environ.items() if name not in CRIPPLING}
    root = str(Path(nbops.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    return {
        **variables,
        "PYTHONPATH": path,
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **changes,
    }


class Process:
    """One worker process.

    Parameters
    ----------
    module : str
        The library's adapter.
    timeout : float
        Seconds to wait for an answer.
    variables : mapping of str to str, optional
        Changes to the environment.
    """

    def __init__(self, module: str, timeout: float = 900, variables: Mapping[str, str] | None = None) -> None:
        self.timeout = timeout
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self.pending = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nbops.compare.worker", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(variables or {}),
        )

    def ask(self, action: str, **request: Any) -> dict[str, Any]:
        """The answer to a request; ``status`` is "failed" when the process ended or is silent."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": action, **request}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return self._lost(action)
        line = self._read_line()
        if line is None:
            return self._lost(action)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _read_line(self) -> bytes | None:
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + self.timeout
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return None
            self.pending += chunk
        line, self.pending = self.pending.split(b"\n", 1)
        return line

    def _lost(self, action: str) -> dict[str, Any]:
        try:
            code = self.process.wait(1)
            what = f"the worker ended with exit code {code} during {action}"
        except subprocess.TimeoutExpired:
            what = f"the worker gave no answer to {action} in {self.timeout:g} s"
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().split("\n")
        said = f": {lines[-1].strip()}" if lines[-1] else ""
        self.close()
        return {"status": "failed", "message": (what + said)[:300]}

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """End the process: its input ends, and if that is not enough it is killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Team:
    """A worker per library, all but one of them idle; a lost one is started again for the next workload.

    Parameters
    ----------
    libraries : mapping of str to str
        Names and adapter modules.
    """

    def __init__(self, libraries: Mapping[str, str]) -> None:
        self.libraries = dict(libraries)
        self.described: dict[str, dict[str, Any]] = {}
        self._processes: dict[str, Process] = {}

    def __enter__(self) -> Team:
        for library in self.libraries:
            self.described[library] = self._start(library)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.alive:
                process.close()

    def _start(self, library: str) -> dict[str, Any]:
        process = Process(self.libraries[library])
        answer = process.ask("start")
        if answer["status"] == "ok":
            answer = {**answer, **process.ask("describe")}
        if answer["status"] == "ok":
            self._processes[library] = process
        elif process.alive:
            process.close()
        return answer

    def ask(self, library: str, action: str, **request: Any) -> dict[str, Any]:
        """One worker's answer; a library that did not start says so to everything."""
        process = self._processes.get(library)
        if process is None:
            return {key: self.described[library].get(key, "") for key in ("status", "message")}
        if not process.alive and action == "prepare":
            again = self._start(library)
            if again["status"] != "ok":
                return {key: again[key] for key in ("status", "message")}
            process = self._processes[library]
        return process.ask(action, **request)
