"""One pytest session runs the tests as they are, and then, for each mutant, those that can notice it.

Tests are collected once. Everything after that happens in forked processes: the run without a mutant, in
which coverage records who executes what, and one run for each mutant, in which the module's functions get the
mutant's code and tests run, the quickest first, until one fails.

A mutant outside every function needs the module imported anew: a process forked from one that has not
imported nbops yet imports it changed, and collects the tests itself.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import coverage
import pytest

from tests.mutation.mutants import Mutant, code_in

__all__ = ["ARGUMENTS", "Session", "is_killed_when_imported"]

ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:pytest_cov"]

Lines = dict[str, dict[int, list[str]]]


#: Where to print from processes whose output goes nowhere.
OUTPUT = os.dup(1)


def in_child(run: Callable[[], Any], seconds: float) -> Any:
    """What `run` returns in a forked process that prints nothing; None when it fails or takes longer.

    `seconds` are of the processor's time.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # of its own; a machine may be busy, or stopped
            signal.alarm(600 + 10 * int(seconds))  # and it may wait for ever
            if not os.environ.get("NBOPS_MUTATION_OUTPUT"):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(run(), pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(content) if content else None


class Session:
    """A pytest plugin: ``run(mutants)`` gives each mutant, and whether a test fails with it."""

    def __init__(
        self, tests: list[str], mutants: Iterable[Mutant], originals: dict[str, Any], root: Path
    ) -> None:
        self.tests, self.mutants, self.originals, self.root = tests, list(mutants), originals, root
        self.failed: list[str] = []
        self.problem = ""
        self.lines: Lines = {}
        self.seconds: dict[str, float] = {}

    def run(self, report: Callable[[Mutant, bool, list[str], float], None]) -> int:
        """Collect, and go; pytest's exit status."""
        self.report = report
        return int(pytest.main([*ARGUMENTS, *self.tests], plugins=[self]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            self.problem = "the tests can't be collected"
            return True
        self.items = {item.nodeid: item for item in session.items}
        found = in_child(self.without_a_mutant, 3600)
        if found is None:
            self.problem = "the run without a mutant ended early"
            return True
        failed, self.lines, self.seconds = found
        if failed:
            self.problem = f"{len(failed)} tests fail without a mutant: {', '.join(failed[:5])}"
            return True
        for mutant in self.mutants:
            chosen = self.who_can_notice(mutant)
            allowed = 10 + 10 * sum(self.seconds[name] for name in chosen)
            if mutant.is_inside:
                survived = in_child(lambda m=mutant, c=chosen: self.survives(m, c), allowed)
                self.report(mutant, not survived, chosen, allowed)
            else:
                self.report(mutant, False, chosen, allowed)
        return True

    def without_a_mutant(self) -> tuple[list[str], Lines, dict[str, float]]:
        """The tests that fail, who executes which line, and how long each takes."""
        paths = {module: str(self.root / module) for module in self.originals}
        recorder = coverage.Coverage(data_file=None, include=list(paths.values()), config_file=False)
        recorder.start()
        self.run_items(list(self.items), recorder.switch_context, stop=False)
        recorder.stop()
        data = recorder.get_data()
        return self.failed, {m: data.contexts_by_lineno(path) for m, path in paths.items()}, self.seconds

    def run_items(self, names: list[str], before: Callable[[str], None] = str, stop: bool = True) -> None:
        for name, after in zip(names, [*names[1:], None], strict=True):
            before(name)
            item, following = self.items[name], self.items[after] if after else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if stop and self.failed:
                return

    def who_can_notice(self, mutant: Mutant) -> list[str]:
        """The tests that execute its lines, the quickest first; all of the module's for its constants."""
        by_line = self.lines[mutant.module]
        lines = mutant.lines if mutant.is_inside else by_line
        names = {name for line in lines for name in by_line.get(line, []) if name}
        return sorted(names, key=lambda name: self.seconds[name])

    def survives(self, mutant: Mutant, names: list[str]) -> bool:
        """Whether every one of these tests passes with the mutant."""
        pairs = zip(code_in(self.originals[mutant.module]), code_in(mutant.code), strict=True)
        changed = {old: new for old, new in pairs if old != new}
        functions = [x for x in gc.get_objects() if type(x) is FunctionType and x.__code__ in changed]
        if names and not functions:
            raise RuntimeError(f"no function has the code of {mutant}")
        for function in functions:
            function.__code__ = changed[function.__code__]
        self.run_items(names)
        return not self.failed


class Loader:
    """Imports one module with the mutant's code, and everything else as usual."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = mutant.module.removesuffix(".py").replace("/", ".")
        self.code = mutant.code

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        import importlib.util

        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.code.co_filename, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)


def is_killed_when_imported(mutant: Mutant, names: list[str], seconds: float) -> bool:
    """The same for a mutant outside every function, from a process that has not imported nbops."""

    def run() -> int:
        sys.meta_path.insert(0, Loader(mutant))  # type: ignore[arg-type]
        return int(pytest.main([*ARGUMENTS, "-x", *names]))

    return bool(in_child(run, seconds + 60) != 0)
