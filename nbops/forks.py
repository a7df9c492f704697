"""What a module does around ``fork``, and in the child, where only the thread that forked goes on.

The interpreter keeps what it is told to call until its very end, and with a function all that its module can
reach. Holding Numba and NumPy that long made every exit of Python a quarter slower, so what is kept from here
is a weak reference.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["after_in_child", "around"]


def after_in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call a module's function in every child, for as long as the module lives; a decorator.

    Examples
    --------
    >>> from nbops import forks
    >>> @forks.after_in_child
    ... def forget_threads():
    ...     threads.clear()
    """
    call = _weakly(function)
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=call)
    return function


def around(manager: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Any]]:
    """Enter what a module's function gives before every fork, and leave it after, in parent and child.

    Examples
    --------
    >>> from nbops import forks
    >>> @forks.around
    ... def nobody_writes():
    ...     return lock
    """
    make = _weakly(manager)
    entered: list[AbstractContextManager[Any]] = []

    def before() -> None:
        made = make()
        if made is not None:
            made.__enter__()
            entered.append(made)

    def after() -> None:
        if entered:
            entered.pop().__exit__(None, None, None)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=after)
    return manager


def _weakly(function: Callable[[], Any]) -> Callable[[], Any]:
    """Calls a function for as long as it lives."""
    known = weakref.ref(function)

    def call() -> Any:
        found = known()
        return None if found is None else found()

    return call
