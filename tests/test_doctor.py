"""doctor's verdicts, each in a process whose surroundings are arranged for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

EXAMINE = """
import sys
from nbops.__main__ import main
sys.exit(main(["doctor", "--json"]))
"""
NO_TENSORFLOW = "import sys\nsys.modules['tensorflow'] = None\n"
NO_NUMBA_CUDA = "import sys\nsys.modules['numba_cuda'] = None\n"


@pytest.fixture
def doctor(run_python: Any) -> Callable[..., dict[str, dict[str, str]]]:
    """``doctor(source, code=0, …)``: the findings by name, where `source` ran first."""

    def run(source: str, code: int = 0, **keywords: Any) -> dict[str, dict[str, str]]:
        findings = json.loads(run_python(source + EXAMINE, code=code, **keywords).stdout)
        return {finding["name"]: finding for finding in findings}

    return run


def test_without_tensorflow_and_numba_cuda(doctor: Any) -> None:
    found = doctor(NO_TENSORFLOW + NO_NUMBA_CUDA)
    assert found["tensorflow"]["verdict"] == "absent"
    assert 'pip install "nbops[tensorflow-cpu]"' in found["tensorflow"]["repair"]
    assert found["cuda"]["verdict"] == "absent"
    assert "numba-cuda is not installed" in found["cuda"]["found"]
    emulator = found["target cuda-emulator"]
    assert emulator["verdict"] == "absent"
    assert "numba-cuda is not installed" in emulator["found"]
    for name in ("versions", "compiler", "target python", "target serial", "target parallel", "cache"):
        assert found[name]["verdict"] == "ok", found[name]


def test_tensorflow_with_its_c_api(doctor: Any) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    found = doctor(NO_NUMBA_CUDA)["tensorflow"]
    assert found["verdict"] == "ok", found
    assert "symbols of the C API are there" in found["found"]


def test_tensorflow_without_a_symbol_of_the_c_api(doctor: Any) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    hidden = """
import ctypes

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "TF_NewKernelBuilder":
            raise AttributeError(name)
        return super().__getattr__(name)

def load(name, *arguments, **keywords):
    kind = Library if "tensorflow_framework" in str(name) else CDLL
    return kind(name, *arguments, **keywords)

import tensorflow
CDLL, ctypes.CDLL = ctypes.CDLL, load
"""
    found = doctor(NO_NUMBA_CUDA + hidden)["tensorflow"]
    assert found["verdict"] == "slow"
    assert "does not export TF_NewKernelBuilder: ops run as tf.numpy_function" in found["found"]
    assert "pip install --upgrade" in found["repair"]


@pytest.mark.parametrize("grows", [False, True])
def test_tensorflow_that_takes_the_whole_gpu(doctor: Any, grows: bool) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    gpu = f"""
import tensorflow as tf
tf.config.list_physical_devices = lambda kind=None: ["a GPU"] if kind == "GPU" else []
tf.config.experimental.get_memory_growth = lambda device: {grows}
"""
    found = doctor(NO_NUMBA_CUDA + gpu)
    assert "run on the CPU, with copies" in found["tensorflow's GPU"]["found"]
    if grows:
        assert "tensorflow's memory" not in found
    else:
        assert found["tensorflow's memory"]["verdict"] == "slow"
        assert "set_memory_growth(gpu, True)" in found["tensorflow's memory"]["repair"]


def test_kernels_for_a_gpu_run_without_one(doctor: Any) -> None:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    found = doctor(NO_TENSORFLOW)["target cuda-emulator"]
    assert found["verdict"] == "ok", found
    assert "emulated GPU of compute capability" in found["found"]


def test_bare_numba_cuda(doctor: Any, tmp_path: Path) -> None:
    """numba-cuda without its extra: it is there, and importing it can't find CUDA's libraries."""
    (tmp_path / "numba_cuda").mkdir()
    (tmp_path / "numba_cuda" / "__init__.py").write_text("")
    information = tmp_path / "numba_cuda-0.30.4.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: numba-cuda\nVersion: 0.30.4\n")
    bare = """
import importlib.abc, importlib.metadata, sys

version = importlib.metadata.version

def version_without_wheels(name):
    if name.startswith("nvidia-"):
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

importlib.metadata.version = version_without_wheels

class DynamicLibNotFoundError(RuntimeError):
    pass

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda":
            raise DynamicLibNotFoundError("Failure finding libnvvm")

sys.modules.pop("numba.cuda", None)
sys.meta_path.insert(0, Bare())
"""
    findings = doctor(NO_TENSORFLOW + bare, code=1)
    assert findings["target cuda-emulator"]["verdict"] == "absent"
    found = findings["cuda"]
    assert found["verdict"] == "broken"
    assert "numba-cuda 0.30.4, no CUDA wheels" in found["found"]
    assert "Failure finding libnvvm" in found["found"]
    assert 'pip install "nbops[cuda' in found["repair"]


def test_nothing_but_workqueue(doctor: Any) -> None:
    blocked = (
        "import sys\nfor layer in ('omppool', 'tbbpool'): sys.modules['numba.np.ufunc.' + layer] = None\n"
    )
    found = doctor(NO_TENSORFLOW + NO_NUMBA_CUDA + blocked)
    assert found["threads"]["verdict"] == "slow"
    assert found["threads"]["found"].startswith("workqueue")
    assert "pip install tbb" in found["threads"]["repair"]
    assert found["target parallel"]["verdict"] == "ok"


def test_a_threading_layer_that_is_not_there(doctor: Any) -> None:
    """Numba brings workqueue, so that there is no layer at all only where another one was asked for."""
    blocked = "import sys\nsys.modules['numba.np.ufunc.tbbpool'] = None\n"
    found = doctor(NO_TENSORFLOW + NO_NUMBA_CUDA + blocked, code=1, NUMBA_THREADING_LAYER="tbb")
    assert "NUMBA_THREADING_LAYER asks for 'tbb'" in found["threads"]["found"]
    assert found["threads"]["verdict"] == "broken"
    assert found["target serial"]["verdict"] == "ok"


def test_a_cache_that_can_not_be_written(doctor: Any, tmp_path: Path) -> None:
    """The package's folders and the user's: none of them can be made, even by root."""
    package = tmp_path / "installed"
    shutil.copytree(ROOT / "nbops", package / "nbops", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package / "nbops", *(p for p in (package / "nbops").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("a file where Numba would make a folder")
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "folder")
    variables = dict.fromkeys(("NUMBA_CACHE_DIR", "NBOPS_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), nowhere)
    found = doctor(NO_TENSORFLOW + NO_NUMBA_CUDA, root=package, PYTHONDONTWRITEBYTECODE="1", **variables)
    assert found["cache"]["verdict"] == "slow"
    assert "NUMBA_CACHE_DIR" in found["cache"]["repair"]
    assert found["calibration"]["verdict"] == "slow"
    assert found["target parallel"]["verdict"] == "ok"


def test_the_table_names_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    from nbops.__main__ import main

    assert main(["doctor"]) in (0, 1)
    out = capsys.readouterr().out
    for word in ("versions", "compiler", "target serial", "threads", "cache", "cuda", "tensorflow"):
        assert word in out
