"""Compiled loops: copies with other globals, digests that see every change, and the disk cache."""

from __future__ import annotations

import hashlib
import shutil
import types
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from nbops import compiler
from tests.conftest import ROOT

FACTOR = 2
TABLE = np.array([1, 2, 3])


def helper(x: Any) -> Any:
    return x + 1


def caller(x: Any) -> Any:
    return helper(x) * FACTOR


def outer(x: Any) -> Any:
    return caller(x)


# ---- specialise ------------------------------------------------------------------------------------------


def test_a_copy_has_other_globals_and_its_own_name() -> None:
    twin = compiler.specialise(caller, "thrice", FACTOR=3)
    assert twin(1) == 6
    assert caller(1) == 4
    assert FACTOR == 2
    assert twin.__qualname__.startswith("caller_thrice_")
    assert twin.__module__ == caller.__module__


def test_a_copy_keeps_defaults_closures_and_docstrings() -> None:
    captured = 5

    def source(x: int, y: int = 7) -> int:
        """What it does."""
        return x + y + captured

    twin = compiler.specialise(source, "copy")
    assert twin(1) == 13
    assert twin.__doc__ == "What it does."


def test_a_copy_of_a_compiled_function_is_its_source() -> None:
    assert compiler.specialise(numba.njit(helper), "plain")(1) == 2


# ---- digest ----------------------------------------------------------------------------------------------


def changed(function: Any, **names: Any) -> str:
    return compiler.digest(compiler.specialise(function, "same", **names))


def compiled_from(source: str, name: str, **names: Any) -> Any:
    namespace: dict[str, Any] = dict(names)
    exec(source, namespace)
    return namespace[name]


def test_the_digest_is_a_function_of_the_code() -> None:
    assert compiler.digest(caller) == compiler.digest(caller)
    assert changed(caller) == changed(caller)
    same = "def f(x):\n    return x + 1\n"
    assert compiler.digest(compiled_from(same, "f")) == compiler.digest(compiled_from("\n\n" + same, "f"))


def other_helper(x: Any) -> Any:
    return x + 2


def test_where_code_stands_has_a_digest_of_its_own() -> None:
    callee = "def g(x):\n    return x\n"
    text = "def f(x):\n    return g(x)\n"
    plain, moved = compiled_from(callee, "g"), compiled_from("\n" + callee, "g")
    digests = [
        compiler.digest_of_lines(function)
        for function in (
            compiled_from(text, "f", g=plain),
            compiled_from(text, "f", g=compiled_from(callee, "g")),
            compiled_from("\n" + text, "f", g=plain),
            compiled_from(text, "f", g=moved),
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_where_a_body_begins() -> None:
    text = "@same\ndef f(x):\n    'Docstring.'\n\n    return x\n"
    _, line = compiler.first_line(compiled_from(text, "f", same=lambda f: f)) or ("", 0)
    assert line == 5
    assert (compiler.first_line(compiled_from("f = lambda x: x\n", "f")) or ("", 0))[1] == 1
    assert compiler.first_line(np.add) is None


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (caller, {"FACTOR": 3}),
        (caller, {"FACTOR": 2.0}),
        (caller, {"helper": other_helper}),
        (caller, {"helper": numba.njit(other_helper)}),
        (outer, {"caller": compiler.specialise(caller, "x", helper=other_helper)}),  # two calls away
        (caller, {"FACTOR": np.array([2])}),
    ],
)
def test_the_digest_sees_what_the_code_reaches(function: Any, names: Any) -> None:
    assert changed(function, **names) != changed(function)


def test_the_digest_sees_compile_options() -> None:
    exact, fast = numba.njit(helper), numba.njit(fastmath=True)(helper)
    assert changed(caller, helper=exact) != changed(caller, helper=fast)


def test_the_digest_sees_an_arrays_dtype_and_shape() -> None:
    arrays = [np.array([1, 0], np.int32), np.array([1], np.int64), np.array([[1], [0]], np.int32)]
    assert len({a.tobytes() for a in arrays}) == 1
    assert len({changed(caller, FACTOR=a) for a in arrays}) == 3


def test_the_digest_sees_helpers_in_modules() -> None:
    """``helpers.step(x)`` in a loop: the helper is reached through a module."""
    digests = set()
    for number in (1, 2):
        helpers = types.ModuleType("helpers")
        helpers.step = compiled_from(f"def step(x):\n    return x + {number}\n", "step")  # type: ignore[attr-defined]
        digests.add(
            compiler.digest(compiled_from("def f(x):\n    return helpers.step(x)\n", "f", helpers=helpers))
        )
    assert len(digests) == 2


def test_the_digest_leaves_out_what_a_loop_does_not_read_from_a_module() -> None:
    """A constant of the loop may be called like something of the module that differs between processes."""
    digests = set()
    for address in (1, 2):
        helpers = types.ModuleType("helpers")
        helpers.step = helper  # type: ignore[attr-defined]
        helpers.STATE = np.array([address])  # type: ignore[attr-defined]
        source = "def f(x):\n    return helpers.step(x[STATE])\n"
        digests.add(compiler.digest(compiled_from(source, "f", helpers=helpers, STATE=0)))
    assert len(digests) == 1


def test_a_users_module_may_have_the_name_of_one_of_pythons(run_python: Any, tmp_path: Path) -> None:
    """Python's own modules are not read; a file of the user's is, whatever its name."""
    (tmp_path / "statistics.py").write_text("def step(x):\n    return x + NUMBER\n")
    source = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import statistics
        from nbops import compiler
        def f(x): return statistics.step(x)
        digests = set()
        for statistics.NUMBER in (1, 2):
            digests.add(compiler.digest(f))
        assert len(digests) == 2
    """
    run_python(source)


def test_a_copy_keeps_its_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that many loops share is read once."""
    copy = compiler.specialise(caller, "same")
    expected = compiler.digest(copy)

    def fail(*arguments: Any) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(compiler, "_hash_code", fail)
    assert compiler.digest(copy) == expected
    compiler._hash_value(copy, hashlib.sha256(), set())


def test_the_digest_sees_closures_and_defaults() -> None:
    def make(number: int) -> Any:
        return lambda x: x + number

    assert compiler.digest(make(1)) != compiler.digest(make(2))
    assert compiler.digest(lambda x, y=1: x) != compiler.digest(lambda x, y=2: x)


def test_the_digest_survives_recursion() -> None:
    def down(x: int) -> int:
        return x if x < 1 else down(x - 1)

    assert len(compiler.digest(down)) == 12


def printed_by_processes(run_python: Any, source: str) -> set[str]:
    return {run_python(source, PYTHONHASHSEED=seed).stdout for seed in ("1", "2", "3")}


def test_digests_are_the_same_in_every_process(run_python: Any) -> None:
    """Else no process would ever find what another has compiled."""
    source = """
        from nbops import compiler
        from nbops.op import registry
        print(sorted((name, compiler.digest(op.kernel.loop)) for name, op in registry.items()))
    """
    assert len(printed_by_processes(run_python, source)) == 1


def test_the_digest_of_a_tuple_of_functions_is_the_same_in_every_process(run_python: Any) -> None:
    source = """
        from nbops import compiler
        def f(x): return x
        steps = (f, f)
        def g(x): return steps[0](x)
        print(compiler.digest(g))
    """
    assert len(printed_by_processes(run_python, source)) == 1


# ---- the disk cache ----------------------------------------------------------------------------------------

CALLS = """
    import numpy as np, nbops
    from nbops.op import registry
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for target in ("serial", "parallel"):
        with nbops.use(target):  # one loop nest, several layouts, a prange of its own
            assert nbops.add(x, x)[2, 3] == 22
            assert nbops.subtract(x, x)[2, 3] == 0
            assert nbops.subtract(x, np.float32(1))[2, 3] == 10
            assert nbops.subtract(x[:, ::2], x[:, 1::2])[2, 1] == -1
            assert nbops.matvec(x, np.ones(4, np.float32)).tolist() == [6, 22, 38]
    with nbops.use("serial"):
        assert nbops.dense(x[:, :1], x[:1], x[0], "sigmoid")[0, 0] == 0.5
        assert nbops.dense(x[:, :1], x[:1], x[0], "tanh")[0, 0] == 0
    owners = [owner for op in registry.values() for _, owner in op.kernel._compiled.values()]
    tasks = [task for owner in owners for task in getattr(owner, "owners", [owner])]
    tasks = [task for task in tasks if hasattr(task, "cache_hits")]
    print(len(tasks), sum(task.cache_hits for task in tasks))
"""


def test_a_second_process_compiles_nothing_and_mixes_up_nothing(run_python: Any, tmp_path: Path) -> None:
    """Copies of one function must not load each other's code, as they would if they shared a cache entry."""
    cache = str(tmp_path / "cache")
    compiled, hits = run_python(CALLS, NUMBA_CACHE_DIR=cache).stdout.split()
    assert int(compiled) >= 8
    assert hits == "0"
    assert run_python(CALLS, NUMBA_CACHE_DIR=cache).stdout.split() == [compiled, compiled]


def test_a_changed_helper_is_compiled_again(run_python: Any, tmp_path: Path) -> None:
    """The helper lies in another file than the loop, where Numba's own key would not see it."""
    (tmp_path / "my_op.py").write_text(
        "from nbops import elementwise\n"
        "from my_helper import step\n"
        "@elementwise(name='compiler_test_stepped')\n"
        "def stepped(x):\n"
        "    return step(x)\n"
    )
    source = """
        import sys, numpy as np
        from my_op import stepped
        assert stepped(np.ones(3)).tolist() == [float(sys.argv[1])] * 3
    """
    for number in (1, 2, 1):
        (tmp_path / "my_helper.py").write_text(
            f"import numba\n@numba.njit\ndef step(x):\n    return x + {number}\n"
        )
        run_python(source, str(1 + number), PYTHONDONTWRITEBYTECODE="1")


def test_no_writable_cache_folder_is_no_error(run_python: Any, tmp_path: Path) -> None:
    """The package's folders, the user's and NUMBA_CACHE_DIR: all of them can't be made (even by root)."""
    package = tmp_path / "installed"
    shutil.copytree(ROOT / "nbops", package / "nbops", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package / "nbops", *(p for p in (package / "nbops").rglob("*") if p.is_dir())]:
        (folder / "__pycache__").write_text("a file where Numba would make a folder")
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "folder")
    run_python(
        """
        import numpy as np, nbops, sys
        assert nbops.__file__.startswith(sys.argv[1]), nbops.__file__
        x = np.arange(12.0).reshape(3, 4)
        assert nbops.add(x, 1.0)[0, 0] == 1
        with nbops.use("parallel"):
            assert nbops.relu(x).sum() == 66
        @nbops.elementwise(name="compiler_test_uncached")
        def double(x):
            return x + x
        assert double(np.ones(2)).tolist() == [2, 2]
        """,
        str(package),
        root=package,
        NUMBA_CACHE_DIR=nowhere,
        HOME=nowhere,
        XDG_CACHE_HOME=nowhere,
        PYTHONDONTWRITEBYTECODE="1",
    )


def test_ops_without_a_source_file_work(run_python: Any) -> None:
    """A notebook's or interpreter's op: exec'ed from a string."""
    run_python("""
        import numpy as np, nbops
        namespace = {}
        source = "@nbops.elementwise(name='compiler_test_exec')\\ndef triple(x):\\n    return x * 3\\n"
        exec("import nbops\\n" + source, namespace)
        assert namespace["triple"](np.ones(2)).tolist() == [3, 3]
        assert namespace["triple"](np.ones(2), target="parallel").tolist() == [3, 3]
    """)


def test_the_interpreter_runs_everything_without_numbas_jit(run_python: Any) -> None:
    """NUMBA_DISABLE_JIT=1 is how one steps through a loop with a debugger."""
    run_python(
        """
        import numpy as np, nbops
        with nbops.use("python"):
            assert nbops.add(np.ones(3), 1.0).tolist() == [2, 2, 2]
            assert nbops.matmul(np.ones((2, 3)), np.ones((3, 2))).tolist() == [[3, 3], [3, 3]]
        """,
        NUMBA_DISABLE_JIT="1",
    )
