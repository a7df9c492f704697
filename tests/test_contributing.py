"""The op that docs/contributing.md adds: its changes, made in a copy of the repository, and its tests."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
CHANGES = re.findall(r"<!-- (file|change): (\S+) -->\n```(?:python|diff)\n(.*?)```", PAGE, re.DOTALL)
TESTS = [
    shlex.split(line.removeprefix("$ pytest ")) for line in PAGE.splitlines() if line.startswith("$ pytest ")
]


def test_the_page_makes_three_changes() -> None:
    """One file, one export (an import and a name), one row."""
    assert [(kind, place) for kind, place, _ in CHANGES] == [
        ("file", "nbops/ops/outer.py"),
        ("change", "nbops/__init__.py"),
        ("change", "nbops/__init__.py"),
        ("change", "tests/cases.py"),
    ]
    assert len(TESTS) == 2


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the page's changes."""
    copy = tmp_path_factory.mktemp("contributing")
    for folder in ("nbops", "tests", "docs", "examples"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    for file in (*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.cfg"), ROOT / "Makefile"):
        shutil.copy(file, copy)
    for kind, place, code in CHANGES:
        target = copy / place
        if kind == "file":
            assert not target.exists(), "the repository has this op now: the page needs another example"
            target.write_text(code, encoding="utf-8")
        else:
            lines = code.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line.startswith(" "))
            after = "".join(line[1:] for line in lines)
            text = target.read_text(encoding="utf-8")
            assert text.count(before) == 1, before
            target.write_text(text.replace(before, after), encoding="utf-8")
    return copy


@pytest.mark.parametrize("arguments", TESTS, ids=" ".join)
def test_the_new_op_passes(arguments: list[str], changed: Path) -> None:
    if not {"tests/tensorflow/test_ops.py", "tests/test_docs.py"}.isdisjoint(arguments):
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    own = {"PYTHONPATH": str(changed), "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | own,
        cwd=changed,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= 10, done.stdout
