"""What the tests share: a generator seeded by the test's name, and fresh processes.

Three threads, whatever the machine: more than one, so that the parallel target is really parallel, and not a
power of two, so that shares are uneven.
"""

from __future__ import annotations

import os

os.environ.setdefault("NUMBA_NUM_THREADS", "3")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import signal
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import nbops

#: How many calls each part of tests/test_fuzz.py draws; ``--hypothesis-profile=nightly`` chooses.
for profile, examples in (("ci", 1_500), ("nightly", 3_000)):
    settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )

ROOT = Path(nbops.__file__).parents[1]


# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers that depend on the test's name alone."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python(source, cwd=…, NAME="value", …)``: run a script in a fresh process.

    Fails with the script's output unless it exits with `code`. The script is a file in a folder of its own. A
    variable that is None is removed from the environment. `timeout` is for a process that hangs: others may
    take minutes on a busy machine, or under bounds checks.
    """

    def run(
        source: str,
        *arguments: str,
        code: int = 0,
        timeout: float = 600,
        root: Path = ROOT,
        **variables: str | None,
    ) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        environment = {**os.environ, "PYTHONPATH": str(root), **variables}
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
