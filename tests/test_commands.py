"""Every command in the README and the pages, run in a shell from the repository's root.

A command runs as it stands there, unless `SMALLER` has a shorter form of it. ``make`` gets a virtual
environment that is this test's own Python, in which ``pip install`` does nothing.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.test_examples import write_idx

pytestmark = pytest.mark.slow

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/tutorial.md",
    "docs/dispatch.md",
    "docs/ratios.md",
    "docs/performance.md",
    "docs/contributing.md",
)

#: The same with less to do; DATA stands for a folder with 300 digits.
SMALLER = {
    "make train": 'make train DATA=DATA ARGS="--epochs 1"',
    "make train DATA=folder": 'make train DATA=DATA ARGS="--epochs 1 --optimizer sgd"',
    'make train ARGS="--optimizer rmsprop --epochs 5 --ops tensorflow"': (
        'make train DATA=DATA ARGS="--optimizer rmsprop --epochs 5 --ops tensorflow"'
    ),
    "python examples/train_mnist.py --optimizer sgd --epochs 10": (
        "python examples/train_mnist.py --optimizer sgd --epochs 10 --data DATA"
    ),
    "make test": "make test ARGS=tests/test_signature.py",
    "make test-oldest": "make test-oldest PYTHON=true ARGS=tests/test_signature.py",
    "nbops ladder": "nbops ladder matmul 64x64 64x64 --seconds 0.01",
    "nbops ladder matmul": "nbops ladder matmul 64x64 64x64 --seconds 0.01",
    "nbops ladder matmul --plot docs/images/ladder-matmul.png": (
        "nbops ladder matmul 64x64 64x64 --seconds 0.01 --plot DATA/ladder.png"
    ),
    "make bench-peers": 'make bench-peers ARGS="--small --only vecdot --libraries numpy,nbops"',
    "nbops compare": "nbops compare --only vecdot --small --libraries numpy,nbops",
    "nbops compare --only softmax": "nbops compare --only softmax --small --libraries numpy,nbops",
}
#: What cannot run here, and where it does.
ELSEWHERE = {
    ". .venv/bin/activate": "tests/test_commands.py",  # the shell below has one on its PATH
    "make lint": "CI",
    "make docs": "CI",
    "make fuzz": "by hand; 1,500 of its calls in tests/test_fuzz.py",
    "make bounds": "by hand; one call of each op in tests/test_bounds.py",
    "make coverage": "by hand",
    "make mutants": "by hand",
    "make stress": "by hand; two seconds of it in tests/test_stress.py",
    "make notebook": "tests/test_notebook.py",
    "make ratios": "tests/test_ratios.py",
    "make cuda-figures": "tests/test_cuda_page.py",
    "make bench": "tests/test_asv_benchmarks.py",  # with asv itself it takes minutes; so do the next ones
    "make bench-check": "tests/test_asv_benchmarks.py",
    "make bench-history": "tests/test_asv_benchmarks.py",
    "make bench-report": "tests/test_asv_benchmarks.py",
    'make bench-peers ARGS="--json asv_benchmarks/results/peers.json"': "tests/test_ratios.py",
    "jupyter lab docs/tutorial.ipynb": "tests/test_notebook.py",
    "python examples/notebook_walkthrough.py": "tests/test_commands.py",  # below
}
#: What a command must print.
PRINTS = {
    "make train": "test accuracy: 0.",
    "make test": " passed",
    "make bench-peers": "The best peer's time over nbops's",
    "nbops explain matmul": "matmul: 128x784, 784x512 -> 128x512 in float32",
    "nbops explain softmax": "peak_and_sum: 6000x4000 in float32, 12 chunks",
    "nbops calibrate": " threads",
    "nbops ladder matmul": "of the ceiling",
    "nbops doctor": "target parallel",
    "nbops compare": "The best peer's time over nbops's",
    "python examples/train_mnist.py --help": "usage: train_mnist.py",
    "python examples/train_mnist.py --optimizer": "test accuracy: 0.",
    "NBOPS_TARGET=serial python": "[0. 2.]",
}


def commands(page: str) -> list[str]:
    """The lines of a page's shell blocks, and the commands in its text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`((?:make|nbops|pip install|python) [^`]+)`", prose)
    found = [re.sub(r"\s+# .*", "", line).strip() for line in [*lines, *spans]]
    return [command for command in found if not command.startswith("pytest ")]  # see test_contributing.py


FOUND = sorted({command for page in PAGES for command in commands(page)})


def is_run_here(command: str) -> bool:
    return command not in ELSEWHERE and not command.startswith("pip install ")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Runs a command and gives what it printed."""
    folder = tmp_path_factory.mktemp("commands")
    venv, oldest = folder / "venv", folder / "venv-oldest"
    (venv / "bin").mkdir(parents=True)
    (venv / "installed").touch()
    oldest.symlink_to(venv)
    for name, script in {
        "python": f'[ "$1 $2" = "-m pip" ] && exit\nexec {shlex.quote(sys.executable)} "$@"',
        "nbops": f'exec {shlex.quote(sys.executable)} -m nbops "$@"',
    }.items():
        file = venv / "bin" / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    with np.load(ROOT / "examples" / "data" / "mnist_subset.npz") as file:
        digits = {name: file[name][: 300 if "train" in name else 100] for name in file.files}
    (folder / "digits").mkdir()
    data = write_idx(folder / "digits", digits)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE"))}
    environment = {
        **kept,
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTEST_XDIST_AUTO_NUM_WORKERS": "1",
        "NBOPS_CACHE_DIR": str(folder),
        "VENV": str(venv),
    }

    def run(command: str) -> str:
        if command.startswith("make "):
            command = f"{command} VENV={venv}"
        done = subprocess.run(
            ["sh", "-c", re.sub(r"\bDATA\b(?!=)", str(data), command)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.mark.parametrize("command", [command for command in FOUND if is_run_here(command)])
def test_a_command_does_what_the_page_says(command: str, shell: Callable[[str], str]) -> None:
    known = command in SMALLER or not command.startswith("make ")
    assert known, f"{command}: give it a shorter form in SMALLER, or say in ELSEWHERE where it runs"
    output = shell(SMALLER.get(command, command))
    for beginning, words in PRINTS.items():
        if command.startswith(beginning):
            assert words in output


def test_the_walkthrough_tells_its_story(shell: Callable[[str], str]) -> None:
    story = shell("python examples/notebook_walkthrough.py")
    for heading in (
        "Element-wise",
        "Broadcasting",
        "Tensor product",
        "reshaping",
        "gradient tape",
        "Training",
    ):
        assert heading in story
    assert "d(2x + 3)/dx = 2\n" in story
    assert "dy/db is [2. 2.]" in story
    assert story.count("times faster") >= 10
    assert "test accuracy" in story


@pytest.mark.parametrize("command", [c for c in FOUND if c.startswith("pip install ")])
def test_what_pip_installs_is_there(command: str) -> None:
    """The package's name and its extras; CI installs them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in shlex.split(command.removeprefix("pip install ")):
        if word.startswith(("nbops", ".")):
            match = re.fullmatch(r"(?:nbops|\.)(?:\[(\w[\w-]*)\])?", word)
            assert match, word
            assert match[1] is None or match[1] in setup["options.extras_require"], word


def test_nothing_is_listed_that_is_nowhere() -> None:
    assert set(FOUND) >= {*SMALLER, *ELSEWHERE}, {*SMALLER, *ELSEWHERE} - set(FOUND)
    assert all(any(c.startswith(beginning) for c in FOUND) for beginning in PRINTS)
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command, place in ELSEWHERE.items():
        if place == "CI":
            assert command in steps, command
        elif place.startswith("by hand"):
            assert f"\n{command.removeprefix('make ')}:" in makefile, command
            assert all((ROOT / name).exists() for name in re.findall(r"tests/\S+", place)), place
        else:
            assert (ROOT / place).exists(), place


def test_commands_are_found() -> None:
    assert {"make train", "make test", "nbops calibrate"} <= set(commands("README.md"))
