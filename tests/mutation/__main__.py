"""Run the mutants: ``python -m tests.mutation [--every N] [module ...]``.

Each mutant is a forked process that imports the changed module and runs the tests of that module in the
interpreter (``NUMBA_DISABLE_JIT=1``; no compile) until the first fails. Exits with 1 when fewer than 90 % are
killed. Survivors are printed as ``module:line  before -> after``; those known to mean the same are listed,
with the reason, in ``survivors.txt``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from types import ModuleType

os.environ["NUMBA_DISABLE_JIT"] = "1"
os.environ["NBOPS_TENSORFLOW_OPS"] = "numpy_function"

import hypothesis  # noqa: F401  (imported before the fork: it is what takes time)
import ml_dtypes  # noqa: F401
import numba  # noqa: F401
import numpy  # noqa: F401
import pytest

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
OPS = [
    *(
        "tests/test_interpreted.py",
        "tests/test_values.py",
        "tests/test_gradients.py",
        "tests/test_semantics.py",
    ),
    *("-k", "not serial and not parallel and not larger and not asked_for and not loop_can_be_replaced"),
]
#: Which tests see a module.
TESTS = {
    "nbops/dispatch.py": ["tests/test_dispatch_rules.py"],
    **{str(path.relative_to(ROOT)): OPS for path in sorted((ROOT / "nbops/ops").glob("[a-z]*.py"))},
}
TIMEOUT = 120


class Loader:
    """Imports one module from changed source, and everything else as usual."""

    def __init__(self, module: str, source: str) -> None:
        self.name = module.removesuffix(".py").replace("/", ".")
        self.path, self.source = str(ROOT / module), source

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        import importlib.util

        return (
            importlib.util.spec_from_file_location(name, self.path, loader=self)
            if name == self.name
            else None
        )

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.source, self.path, "exec"), module.__dict__)


def is_killed(module: str, mutant: Mutant) -> bool:
    """Whether a test of the module fails, or never ends, with the mutant."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            sys.meta_path.insert(0, Loader(module, mutant.source))  # type: ignore[arg-type]
            arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
            code = int(pytest.main([*arguments, *TESTS[module]]))
        finally:
            os._exit(code)
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True


def known_survivors() -> set[str]:
    """The entries of survivors.txt, without their reasons."""
    lines = (Path(__file__).parent / "survivors.txt").read_text().splitlines()
    return {line for line in lines if line and line[0] not in "# "}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "modules", nargs="*", default=list(TESTS), help="all of nbops/ops and nbops/dispatch.py"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth mutant")
    parser.add_argument("--quiet", action="store_true", help="print the summary only")
    options = parser.parse_args()
    killed = total = equivalent = 0
    known = known_survivors()
    for module in options.modules:
        for mutant in list(mutants_of((ROOT / module).read_text()))[:: options.every]:
            described = f"{module}:{mutant.line}  {mutant.before} -> {mutant.after}"
            without_line = f"{module}  {mutant.before} -> {mutant.after}"
            total += 1
            if is_killed(module, mutant):
                killed += 1
            elif without_line in known:
                equivalent += 1
            elif not options.quiet:
                print(described, flush=True)
    print(
        f"{killed} of {total} mutants killed ({100 * killed / max(total, 1):.1f} %), "
        f"{equivalent} known survivors"
    )
    return 0 if killed >= 0.9 * total else 1


if __name__ == "__main__":
    sys.exit(main())
