"""Helpers of kernels, compiled with the constants that they read.

A kernel's source reads constants, such as ELEMENT or THREADS, and calls helpers that read some of them too.
Each kernel has values of its own; kernels whose helper reads the same values share one compiled helper.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from nbops import compiler
from nbops.targets.cuda.toolchain import device_function

__all__ = ["add_helpers", "helper"]


def add_helpers(constants: dict[str, Any], functions: Iterable[Any]) -> None:
    """Compile functions, of which later ones may call earlier ones, and add each under its name.

    Parameters
    ----------
    constants : dict of str to value
        What the functions may read; gets the compiled ones too.
    functions : iterable of function
    """
    for function in functions:
        constants[function.__name__] = helper(function, constants)


def helper(function: Any, constants: dict[str, Any]) -> Any:
    """A function compiled with those of the constants that it reads."""
    read = {name: constants[name] for name in function.__code__.co_names if name in constants}
    # -inf in float32 equals that in float64: the types are part of what a helper is known by
    return _compiled(function, tuple((name, type(value), value) for name, value in read.items()))


@functools.cache
def _compiled(function: Any, constants: tuple[tuple[str, type, Any], ...]) -> Any:
    values = {name: value for name, _, value in constants}
    return device_function(compiler.specialise(function, "helper", **values))
