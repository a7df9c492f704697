"""What a module does in a child of ``fork``, where only the thread that forked goes on.

The interpreter keeps what it is told to call until its very end, and with a function all that its module can
reach. Holding Numba and NumPy that long made every exit of Python a quarter slower, so what is kept from here
is a weak reference.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

__all__ = ["after_in_child"]


def after_in_child(function: Callable[[], None]) -> Callable[[], None]:
    """Call a module's function in every child, for as long as the module lives; a decorator.

    Examples
    --------
    >>> from nbops import forks
    >>> @forks.after_in_child
    ... def forget_threads():
    ...     threads.clear()
    """
    known = weakref.ref(function)

    def call() -> None:
        found = known()
        if found is not None:
            found()

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=call)
    return function
