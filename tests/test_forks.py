"""What is done in a child of ``fork`` is done there, and what asks for it is not kept alive."""

from __future__ import annotations

import os
import typing
import weakref

import pytest

import nbops
from nbops.forks import after_in_child

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
