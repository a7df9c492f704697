"""Importing nbops is light: no TensorFlow, no CUDA driver, no compile."""

from __future__ import annotations

from typing import Any


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
