"""Functions that only become part of a task: no machine code of their own, and none that could go wrong."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import pytest
from numba import types

from nbops import cache, compiler
from nbops.parts import PartLibrary, parts

WORD_TO_WORD = types.int64(types.int64)


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is loaded from the cache compiles no parts."""
    monkeypatch.setattr(cache.KernelCache, "load_overload", lambda *_: None)
    monkeypatch.setattr(cache.KernelCache, "save_overload", lambda *_: None)


@compiler.part
def add_one(x: int) -> int:
    return x + 1


def twice_more(x: int) -> int:
    return 2 * add_one(x)


def call(native: Any, x: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(native.address)(x))


def library_of(part: Any) -> Any:
    (compiled,) = part.overloads.values()
    return compiled.library


def test_a_part_runs_inside_its_caller_and_as_written_in_python() -> None:
    assert call(compiler.native(WORD_TO_WORD, compiler.specialise(twice_more, "part")), 20) == 42
    assert add_one(41) == 42
    assert add_one(0.5) == 1.5


def test_a_part_has_no_machine_code_until_its_address_is_asked_for() -> None:
    inner = compiler.part(compiler.specialise(add_one, "alone"))
    compiler.native(WORD_TO_WORD, compiler.specialise(twice_more, "around", add_one=inner))
    library = library_of(inner)
    assert isinstance(library, PartLibrary)
    assert library._waits
    (compiled,) = inner.overloads.values()
    name = compiled.fndesc.llvm_func_name
    assert library.get_pointer_to_function("no such function") == 0
    assert library._waits
    assert library.get_pointer_to_function(name) != 0
    assert not library._waits
    again = compiler.native(WORD_TO_WORD, compiler.specialise(twice_more, "again", add_one=inner))
    assert call(again, 1) == 4


def test_a_users_function_in_a_task_can_still_be_called() -> None:
    """It is compiled inside the task's compilation, with what Python needs to call it."""
    step = numba.njit(lambda x: x + 1)
    task = compiler.native(WORD_TO_WORD, compiler.specialise(twice_more, "users", add_one=step))
    assert call(task, 4) == 10
    assert step.overloads
    assert step(4) == 5
    other = numba.njit(lambda x: 3 * step(x))
    assert other(1) == 6


def test_an_address_of_this_process_is_noticed_in_a_part() -> None:
    """Numba keeps no such code on disk; a part has to say so although it has no machine code."""
    library = ctypes.CDLL(None)
    library.abs.restype, library.abs.argtypes = ctypes.c_int, [ctypes.c_int]
    absolute = library.abs
    inner = numba.njit(lambda x: absolute(x))
    with parts():
        inner.compile((types.int32,))
    assert library_of(inner).has_dynamic_globals


def test_numba_compiles_as_ever_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), parts():
        raise ZeroDivisionError
    plain = numba.njit(lambda x: x * 2)
    assert plain(4) == 8
    assert not isinstance(library_of(plain), PartLibrary)


def test_threads_that_name_a_task_at_once_share_its_place() -> None:
    start = threading.Barrier(8)

    def place(_: int) -> int:
        start.wait()
        return int(compiler._place("nbops_test_shared").ctypes.data)

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(place, range(8)))) == 1


def test_a_task_is_called_by_a_name_that_is_given_later() -> None:
    address = compiler.task_address("nbops_test_later")

    @numba.njit
    def read() -> int:
        return address()

    assert read() == 0
    task = compiler.native(WORD_TO_WORD, compiler.specialise(add_one, "named"))
    assert compiler.name_task("nbops_test_later", task) is task
    assert read() == task.address
