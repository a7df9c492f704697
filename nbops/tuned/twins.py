"""Helpers with two sources: one that is read and interpreted, and one that is compiled.

A loop in `nbops.ops` calls a helper such as ``exp(x)`` or ``largest(row)``. The helper's plain source says
what it means, and the interpreter runs it. Compiled code gets another function in its place, which computes
the same in an order, or with instructions, that suit the machine. So the loop around it stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from numba.extending import overload

from nbops import compiler

__all__ = ["Twin", "compiled_as"]

Source = Callable[..., Any]


class Twin:
    """A function that is interpreted as written, and compiled from another source.

    Parameters
    ----------
    plain : function
        What the helper means.
    compiled : function or dict
        Takes its place in compiled code: plain Python too, which may call functions compiled by Numba. A
        dict has a function for each of some Numba types of the first argument, and one under None for others.
    portable : bool
        Whether `compiled` suits a GPU too; there `plain` is compiled otherwise.

    Attributes
    ----------
    portable : dict
        What is compiled for a GPU, by the Numba type of the first argument.
    cache_key : str
        What stands for the helper in the digest of a loop that calls it; see `nbops.compiler`.
    """

    def __init__(
        self, plain: Source, compiled: Source | Mapping[Any, Source], portable: bool = False
    ) -> None:
        sources = compiled if isinstance(compiled, Mapping) else {None: compiled}
        self.plain = plain
        self.portable = sources if portable else {None: plain}
        self.__name__ = plain.__name__
        self.__doc__ = plain.__doc__
        self._sources = plain, *sources.values()

        def choose(*arguments: Any) -> Source | None:
            return sources.get(arguments[0], sources.get(None))

        overload(self, jit_options={**compiler.FLAGS, "forceinline": True}, strict=False)(choose)

    @functools.cached_property
    def cache_key(self) -> str:
        # When it is first asked for: an import needs none. The digest of `exp`, which calls ``np.exp``, comes
        # back to the name `exp`.
        self.__dict__["cache_key"] = f"twin {self.__name__}"
        return f"twin {[_digest(source) for source in self._sources]}"

    def __call__(self, *arguments: Any) -> Any:
        return self.plain(*arguments)


def _digest(source: Source) -> str:
    assert isinstance(source, FunctionType)
    return compiler.digest(source)


def compiled_as(compiled: Source | Mapping[Any, Source], portable: bool = False) -> Callable[[Source], Twin]:
    """A decorator for a helper that has another source for compiled code; see `Twin`."""
    return lambda plain: Twin(plain, compiled, portable)
