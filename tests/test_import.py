"""Importing nbops is light: no TensorFlow, no CUDA driver, no compile."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from tests.conftest import ROOT


def test_import_loads_neither_tensorflow_nor_cuda(run_python: Any) -> None:
    run_python("""
        import sys
        import nbops
        loaded = set(sys.modules)
        heavy = {"tensorflow", "keras", "numba.cuda", "numba_cuda", "cuda", "matplotlib"}
        found = {name for name in loaded if any(name == h or name.startswith(h + ".") for h in heavy)}
        assert not found, found
        maps = open("/proc/self/maps").read() if sys.platform == "linux" else ""
        assert "libcuda.so" not in maps and "tensorflow" not in maps
        # and calls on arrays don't either
        import numpy as np
        nbops.matmul(np.ones((2, 2)), np.ones((2, 2)))
        assert "tensorflow" not in sys.modules
    """)


def test_import_starts_no_threads(run_python: Any) -> None:
    """Threads start with the first call, so that a program can still fork or set their number."""
    run_python("""
        import threading, os, sys
        before = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
        import nbops
        from nbops.targets import cpu
        assert cpu.STATE[cpu.WORKERS] == 1 and cpu.STATE[cpu.BREAK_EVEN] == 0
        assert threading.active_count() == 1
    """)


def imported_by(tree: ast.AST) -> Iterator[str]:
    """The modules that code imports, by a statement or by a function that is given a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__", "find_spec"):
                values = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
                yield from map(str, values)


def imports_numba_cuda(source: str) -> bool:
    return any(f"{name}.".startswith("numba.cuda.") for name in imported_by(ast.parse(source)))


def test_one_module_imports_numba_cuda() -> None:
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in (ROOT / "nbops").rglob("*.py")
    }
    found = [path for path, source in sources.items() if imports_numba_cuda(source)]
    assert found == ["nbops/targets/cuda/toolchain.py"]


def test_every_way_to_import_numba_cuda_is_found() -> None:
    """The test above would pass over one that it doesn't see."""
    for source in (
        "import numba.cuda",
        "import numba.cuda.extending as e",
        "from numba import njit, cuda",
        "from numba.cuda.extending import overload",
        "def f():\n    from numba.cuda import jit",
        "importlib.import_module('numba.cuda')",
        "__import__('numba.cuda.types')",
    ):
        assert imports_numba_cuda(source), source
    assert not imports_numba_cuda("import numba\nfrom numba import types\nfrom .numba import cuda")
