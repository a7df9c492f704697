"""Cold start: what the cache's names depend on, many processes at once, damaged files, warmup, the import."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nbops
from nbops import cache, turns
from tests.conftest import ROOT

RELU = """
import numpy as np, nbops
assert nbops.relu(np.array([-1.0, 2.0], np.float32)).tolist() == [0, 2]
(owner,) = [owner for _, owner in nbops.relu.kernel._compiled.values()]
print(owner.cache_hits)
"""


def function(x: Any) -> Any:
    return x + 1


class Processor:
    """Stands for Numba's code generator: what it says of the processor."""

    def __init__(self, name: str = "znver3", features: str = "+avx2") -> None:
        self.name, self.features = name, features

    def magic_tuple(self) -> tuple[str, str, str]:
        return ("x86_64-unknown-linux-gnu", self.name, self.features)


def path(
    processor: Processor | None = None, signature: str = "(int64,)", digest: str = "0", **options: Any
) -> Path:
    kept = cache.KernelCache(function, options, lambda function: digest)  # type: ignore[arg-type]
    return kept.path(signature, processor or Processor())


def test_the_same_kernel_has_the_same_file() -> None:
    assert path() == path()


@pytest.mark.parametrize(
    "other",
    [
        {"digest": "1"},
        {"signature": "(float32,)"},
        {"processor": Processor("skylake")},
        {"processor": Processor(features="+avx512f")},
        {"parallel": True},
        {"fastmath": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_kernel_has_another_file(other: dict[str, Any]) -> None:
    assert path(**other) != path()


@pytest.mark.parametrize(
    "name",
    ["numba.__version__", "llvmlite.__version__", "numpy.__version__", "platform.python_version"],
)
def test_another_version_has_another_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path()
    monkeypatch.setattr(name, "0.0" if name.endswith("__version__") else lambda: "0.0")
    assert path() != before


@pytest.mark.parametrize("setting", cache.SETTINGS)
def test_numbas_settings_have_files_of_their_own(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path()
    monkeypatch.setattr(cache.config, setting, "another", raising=False)
    assert path() != before


def test_a_second_process_loads_what_the_first_compiled(run_python: Any, tmp_path: Path) -> None:
    folder = str(tmp_path / "cache")
    assert run_python(RELU, NUMBA_CACHE_DIR=folder).stdout.split() == ["0"]
    assert run_python(RELU, NUMBA_CACHE_DIR=folder).stdout.split() == ["1"]
    assert run_python(RELU, NUMBA_CACHE_DIR=folder, NUMBA_OPT="1").stdout.split() == ["0"]
    assert run_python(RELU, NUMBA_CACHE_DIR=folder, NUMBA_CPU_NAME="x86-64").stdout.split() == ["0"]


def test_what_an_image_has_compiled_is_found_on_every_host(run_python: Any, tmp_path: Path) -> None:
    """Containers have host names of their own, and another kernel of Linux; the processor counts."""
    kept = []
    for name in ("builder", "server"):
        host = f"os.uname = lambda: os.uname_result(('Linux', {name!r}, {name!r}, '1', 'x86_64'))"
        run_python(f"import os\n{host}\n{RELU}", NUMBA_CACHE_DIR=str(tmp_path))
        kept.append({file.name for file in tmp_path.rglob("*.nbc")})
    assert len(kept[0]) > 1
    assert kept[1] == kept[0]


def test_damaged_files_are_compiled_again(run_python: Any, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    run_python(RELU, NUMBA_CACHE_DIR=str(folder))
    files = list(folder.rglob("*.nbc"))
    assert files
    for number, file in enumerate(files):
        file.write_bytes(b"" if number % 2 else file.read_bytes()[:100])
    assert run_python(RELU, NUMBA_CACHE_DIR=str(folder)).stdout.split() == ["0"]
    assert run_python(RELU, NUMBA_CACHE_DIR=str(folder)).stdout.split() == ["1"]


def start_at_once(number: int, folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of processes that are all there before the first one imports anything.

    None outlives this one, however it ends.
    """
    waits = """
import ctypes, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when the parent ends
sys.stdin.read()  # until the parent has started all
"""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder)}
    processes: list[subprocess.Popen[str]] = []
    gate, opener = os.pipe()
    try:
        for _ in range(number):
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", waits + RELU]
            processes.append(subprocess.Popen(command, env=variables, stdin=gate, **pipes))
        assert not any(process.poll() is not None for process in processes)
        os.close(opener)
        ended = []
        for process in processes:
            output, errors = process.communicate(timeout=600)
            ended.append((process.returncode, output, errors))
        return ended
    finally:
        for process in processes:
            process.kill()
            process.wait()
        os.close(gate)
        with contextlib.suppress(OSError):
            os.close(opener)


def check_that_one_compiles(number: int, folder: Path) -> None:
    """All succeed, and all but one load what that one has compiled."""
    ended = start_at_once(number, folder)
    assert [errors for code, _, errors in ended if code] == []
    assert sorted(output.strip() for _, output, _ in ended) == ["0"] + ["1"] * (number - 1)
    assert {file.suffix for file in folder.rglob("*.*") if file.is_file()} == {".nbc"}


def test_many_processes_start_on_an_empty_cache(tmp_path: Path) -> None:
    check_that_one_compiles(8, tmp_path / "cache")


#: Of a process that loads relu, beside what all share: 44 MiB measured (Pss_Anon of smaps_rollup).
PROCESS_BYTES = 50 << 20


@pytest.mark.slow
def test_two_hundred_processes_start_on_an_empty_cache(tmp_path: Path) -> None:
    """All 200 at once, and so with room for 200."""
    number = 200
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line)
    available = int(line.split()[1]) << 10
    if available < number * PROCESS_BYTES:
        pytest.skip(
            f"{number} processes at once need {number * PROCESS_BYTES / 2**30:.1f} GiB of memory; "
            f"{available / 2**30:.1f} GiB are available"
        )
    check_that_one_compiles(number, tmp_path / "cache")


def test_warmup_leaves_nothing_to_compile(run_python: Any, tmp_path: Path) -> None:
    """After it, calls find every task; in the next process it only loads."""
    source = """
        import numpy as np, nbops
        from nbops.op import registry
        names, lines = ["add", "matmul", "softmax"], []
        assert nbops.warmup(names, progress=lines.append) > 0
        assert [line.split()[1] for line in lines] == names
        def fail(*arguments): raise AssertionError(arguments)
        for name in names:
            registry[name].kernel._compile = fail
        x = np.ones((8, 8), np.float32)
        for target in ("serial", "parallel"):
            with nbops.use(target):
                nbops.add(x, x); nbops.add(x, np.float32(1)); nbops.matmul(x, x); nbops.softmax(x)
    """
    run_python(source, NUMBA_CACHE_DIR=str(tmp_path / "cache"))


STEPS = """
import numpy as np
from nbops import numpy_nn

def step_on_arrays(optimizer):
    layers = [numpy_nn.Dense(784, 64, "relu", seed=0), numpy_nn.Dense(64, 10, seed=1)]
    images = np.random.default_rng(0).random((128, 784), np.float32)
    return numpy_nn.training_step(numpy_nn.Sequential(layers), optimizer, images, np.arange(128) % 10)
"""


def test_after_warmup_training_compiles_nothing(run_python: Any, tmp_path: Path) -> None:
    source = (
        STEPS
        + """
import nbops
from nbops import compiler, nn, optimizers

nbops.warmup()
def fail(signature, function): raise AssertionError(function.__qualname__)
compiler.native = fail
for optimizer in numpy_nn.SGD(), numpy_nn.RMSprop():
    step_on_arrays(optimizer)
images, labels = np.random.default_rng(0).random((128, 784), np.float32), np.arange(128) % 10
for optimizer in None, optimizers.RMSprop():
    model = nn.NaiveSequential([nn.NaiveDense(784, 64, "relu"), nn.NaiveDense(64, 10, "softmax")])
    nn.compile_training_step(model, images, labels, optimizer=optimizer)(images, labels)
"""
    )
    run_python(source, NUMBA_CACHE_DIR=str(tmp_path / "cache"))


AHEAD = (
    STEPS
    + """
from nbops import ahead, turns

assert ahead._helper is None
print(step_on_arrays(numpy_nn.SGD()))
helper = ahead._helper
if helper is not None:
    assert helper.wait(timeout=300) == 0
print(helper is not None)
"""
)


def test_a_second_process_compiles_what_training_needs_next(run_python: Any, tmp_path: Path) -> None:
    """With it and without, the same loss; it starts where something is to be compiled, and leaves no lock."""
    results = []
    for variable, folder, started in (("1", "a", "True"), ("1", "a", "False"), ("0", "b", "False")):
        place = tmp_path / folder
        variables = {"NUMBA_CACHE_DIR": str(place), "NBOPS_COMPILE_AHEAD": variable}
        loss, has = run_python(AHEAD, **variables).stdout.split()
        assert has == started
        results.append(loss)
        assert {file.suffix for file in place.rglob("*.*") if file.is_file()} == {".nbc"}
    assert len(set(results)) == 1
    kept = [{file.name for file in (tmp_path / folder).rglob("*.nbc")} for folder in "ab"]
    assert kept[1] <= kept[0]


def test_who_compiles_ahead_imports_no_scipy(run_python: Any, tmp_path: Path) -> None:
    """Numba does, where it finds one, when it begins to compile; before, it asks for the version."""
    found = tmp_path / "modules" / "scipy"
    (found / "linalg").mkdir(parents=True)
    (found / "__init__.py").write_text("__version__ = '1.15.0'")
    (found / "linalg" / "__init__.py").write_text("raise SystemExit('imported')")
    program = """
        import sys
        from nbops.ahead import compile_backwards
        {}
        from numba.core.registry import cpu_target
        cpu_target.target_context.refresh()
    """
    path = os.pathsep.join([str(found.parent), str(ROOT)])
    run_python(program.format("compile_backwards(sys.argv[0] + '.lock')"), PYTHONPATH=path)
    run_python(program.format(""), PYTHONPATH=path, code=1)


def test_one_process_at_a_time_compiles_ahead(tmp_path: Path) -> None:
    lock = turns.try_lock(tmp_path / "some.lock")
    assert lock is not None
    assert turns.try_lock(tmp_path / "some.lock") is None
    os.close(lock)
    again = turns.try_lock(tmp_path / "some.lock")
    assert again is not None
    os.close(again)
    assert turns.try_lock(tmp_path / "no folder" / "some.lock") is None


def test_who_compiles_ahead_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_waits", True)
    turns.wait_for_nobody()
    kept = tmp_path / "kernel.nbc"
    with turns.turn(kept), pytest.raises(turns.TakenError, match=r"kernel\.nbc"), turns.turn(kept):
        pass
    with turns.turn(kept):
        pass


def test_warmup_refuses_what_is_no_op() -> None:
    with pytest.raises(TypeError, match="warmup: 'fft' is no op"):
        nbops.warmup(["fft"])


def test_every_op_that_training_needs_exists() -> None:
    from nbops.op import registry
    from nbops.warming import TRAINING

    assert set(TRAINING) <= set(registry)


def seconds_of(source: str) -> float:
    """The processor time of a new process. Other processes can only add to it: they empty the caches."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", source], env=variables, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.alone
def test_the_import_costs_little_more_than_numbas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.15 times ``import numba, numpy``, each undisturbed: the least of 25 processes, in turn."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    sources = "import numba, numpy", "import nbops"
    for source in sources:
        seconds_of(source)
    pairs = [[seconds_of(source) for source in sources] for _ in range(25)]
    theirs, ours = (min(times) for times in zip(*pairs, strict=True))
    assert ours <= 1.15 * theirs, (ours, theirs)


def test_only_compiling_loads_numbas_compiler(run_python: Any, tmp_path: Path) -> None:
    """Importing Numba's NumPy takes longer than all of nbops; neither the import nor the cache needs it."""
    source = RELU + "import sys\nassert owner.cache_hits == 0 or 'numba.np.arrayobj' not in sys.modules\n"
    for hits in ("0", "1"):
        assert run_python(source, NUMBA_CACHE_DIR=str(tmp_path)).stdout.split() == [hits]
    run_python("import sys, nbops\nassert 'numba.np.arrayobj' not in sys.modules")


def test_the_collector_goes_on_after_the_import(run_python: Any) -> None:
    run_python("import gc, nbops\nassert gc.isenabled()")
    run_python("import gc\ngc.disable()\nimport nbops\nassert not gc.isenabled()")
