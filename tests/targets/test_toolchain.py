"""From a kernel to PTX: what architectures share is made once, and the code is what numba.cuda makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nbops.targets.cuda import toolchain
from nbops.targets.cuda.architectures import ARCHITECTURES
from tests.targets.cuda import copies_through_workspace, needs_compiler

pytestmark = needs_compiler


def without_names(ptx: str) -> str:
    """PTX without symbols, which have a growing number in them, and without the debugger's tables."""
    code = ptx.split(".section")[0]
    return re.sub(r"_Z\w+", "name", code)


def test_one_front_half_serves_every_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled = []
    own = toolchain.cuda.compile

    def count(function: Any, *arguments: Any, **options: Any) -> Any:
        compiled.append(function)
        return own(function, *arguments, **options)

    monkeypatch.setattr(toolchain.cuda, "compile", count)
    monkeypatch.setattr(toolchain, "_cache_folder", lambda: tmp_path)
    kernel, _ = copies_through_workspace()
    for cc in ARCHITECTURES:
        ptx, entry = toolchain.compile_ptx(kernel, cc)
        assert ".target sm_{}{}".format(*cc) in ptx
        assert f".entry {entry}(" in ptx
    assert compiled.count(kernel.function) == 1


def test_machine_code_needs_neither_a_toolkit_nor_a_driver(run_python: Any, tmp_path: Path) -> None:
    """A process that finds no program at all, and whose driver can't be loaded, compiles for all five."""
    done = run_python(
        """
        import ctypes, shutil
        assert not shutil.which("ptxas") and not shutil.which("nvcc")
        own = ctypes.CDLL.__init__
        def refuse(self, name, *arguments, **keywords):
            if name and "libcuda.so" in str(name):
                raise OSError("no driver")
            own(self, name, *arguments, **keywords)
        ctypes.CDLL.__init__ = refuse

        import nbops
        from nbops.targets.cuda import toolchain
        from nbops.targets.cuda.architectures import ARCHITECTURES
        from nbops.tuned.cuda.catalog import CATALOG, launches
        for cc in ARCHITECTURES:
            (launch,) = launches(CATALOG["relu"], "float32", cc)
            ptx, _ = toolchain.compile_ptx(launch.kernel, cc)
            assert toolchain.compile_cubin(ptx, cc).startswith(b"\\x7fELF"), cc
        loaded = {line.split()[-1] for line in open("/proc/self/maps") if "libnv" in line}
        for name in "libnvvm.so", "libnvJitLink.so":
            (path,) = (path for path in loaded if name in path)
            assert "site-packages" in path, path
        print("done")
        """,
        PATH="",
        CUDA_HOME=None,
        CUDA_PATH=None,
        NBOPS_CACHE_DIR=str(tmp_path / "empty"),
    )
    assert "done" in done.stdout


@pytest.mark.parametrize("cc", ARCHITECTURES, ids=str)
def test_the_code_is_what_numba_makes_for_that_architecture(
    cc: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(toolchain, "_cache_folder", lambda: tmp_path)
    kernel, _ = copies_through_workspace()
    signature = toolchain.types.void(*[toolchain.types.int64] * len(kernel.parameters))
    wanted, _ = toolchain.cuda.compile(
        kernel.function, signature, cc=cc, device=False, abi="numba", lineinfo=True
    )
    found, _ = toolchain.compile_ptx(kernel, cc)
    assert without_names(found) == without_names(wanted)
