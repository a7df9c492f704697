"""What is done around a ``fork`` and in its child is done there, and what asks for it is not kept alive."""

from __future__ import annotations

import contextlib
import os
import typing
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import nbops
from nbops.forks import after_in_child, around

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def status_of_child(exit_status: list[int]) -> int:
    child = os.fork()
    if not child:
        os._exit(exit_status[0])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_function_is_called_in_a_child_while_it_lives_and_never_in_the_parent() -> None:
    exit_status = [0]

    @after_in_child
    def told() -> None:
        exit_status[0] = 7

    assert status_of_child(exit_status) == 7
    assert exit_status == [0]
    known = weakref.ref(told)
    del told
    assert known() is None
    assert status_of_child(exit_status) == 0


def test_typing_keeps_no_overload_of_nbops() -> None:
    """It would keep Numba and NumPy until Python's very end, and make every exit slower."""
    assert typing.get_overloads(nbops.elementwise) == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*fork:RuntimeWarning")
def test_a_manager_is_entered_before_a_fork_and_left_in_parent_and_child() -> None:
    seen: list[str] = []

    @around
    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        seen.append("entered")
        yield
        seen.append("left")

    child = os.fork()
    if not child:
        os._exit(len(seen))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert seen == ["entered", "left"]
    del watched
    assert status_of_child([3]) == 3
    assert seen == ["entered", "left"]


def test_a_fork_while_another_thread_compiles(run_python: Any) -> None:
    """It waits; a child that inherits a lock of Numba's or LLVM's in use waits for ever."""
    run_python("""
        import os, signal, threading, warnings
        import numpy as np, nbops
        warnings.simplefilter("ignore")  # Python warns of forks with threads, which is the point here
        compiled, stop = threading.Semaphore(0), threading.Event()

        def times(factor):
            def scaled(x):
                return x * type(x)(factor)
            return nbops.elementwise(scaled, name=f"scaled_{factor}")

        def work():
            for factor in range(2, 200):
                times(factor)(np.ones(3))
                compiled.release()
                if stop.is_set():
                    break

        thread = threading.Thread(target=work)
        thread.start()
        compiled.acquire()
        codes = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(100)
                with nbops.use("serial"):
                    os._exit(0 if (times(1000 + number)(np.ones(3)) == 1000 + number).all() else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            if codes[-1]:
                break
        stop.set()
        thread.join()
        assert codes == [0] * 3, codes
    """)
