"""Functions that only ever become part of a task: linked into it, and optimised there, once.

Numba optimises each function by itself and makes machine code of it, and then again inside each caller. Of
most of nbops's functions that code would never run. So while a task is compiled, a function's library
(Numba's word for a module of LLVM's) is linked into its callers as it is. It is optimised, and gets machine
code of its own, when somebody asks for an address in it. A first training step takes a third less time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import CPUDispatcher, cpu_target

__all__ = ["PartDispatcher", "PlainPartDispatcher", "parts"]


class PartDispatcher(CPUDispatcher):  # type: ignore[misc]
    """A function for compiled callers. Python could call nothing of it: there it runs as written."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """The function itself, interpreted."""
        return self.py_func(*arguments, **keywords)


class PlainPartDispatcher(PartDispatcher):
    """A part that asks for no constant's value: it is compiled for integers, not for each constant anew."""

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Compile for the types of variables."""
        plain = {name: types.unliteral(value) for name, value in kws.items()}
        return super().get_call_template([types.unliteral(value) for value in args], plain)


class PartLibrary(JITCodeLibrary):  # type: ignore[misc]
    """A library whose optimisation and machine code wait until they are needed."""

    _waits = False

    def finalize(self) -> None:
        """Link what this library calls into it, and no more."""
        self._waits = True
        super().finalize()

    def _optimize_functions(self, ll_module: Any) -> None:
        """Numba's passes over single functions: those over the task do all of it."""
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        if not self._waits:
            super()._optimize_final_module()

    def _finalize_final_module(self) -> None:
        if self._waits:
            self._finalized = True
        else:
            super()._finalize_final_module()

    def _make_machine_code(self) -> None:
        self._ensure_finalized()
        if self._waits:
            self._waits = False
            self._shared_module = None  # callers to come get the optimised one
            self._optimize_final_module()
            self._finalize_final_module()

    def _defines(self, name: str) -> bool:
        try:
            return not self._final_module.get_function(name).is_declaration
        except NameError:
            return False

    def get_pointer_to_function(self, name: str) -> int:
        """The address of a function, or 0 where the library does not define it."""
        self._ensure_finalized()
        if self._waits and not self._defines(name):
            return 0
        self._make_machine_code()
        return int(super().get_pointer_to_function(name))

    @property
    def has_dynamic_globals(self) -> bool:
        """Whether an address of this process is in it."""
        self._make_machine_code()
        return bool(super().has_dynamic_globals)

    def serialize_using_object_code(self) -> Any:
        """What Numba's cache keeps."""
        self._make_machine_code()
        return super().serialize_using_object_code()

    @property
    def codegen(self) -> Any:
        """Numba's code generator; one that keeps an environment for machine code that there is."""
        return _Codegen(self._codegen) if self._waits else self._codegen


class _Codegen:
    """The code generator, for a library without machine code: there is no place to set anything in."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Only wrappers for Python read an environment, and who has one has machine code."""


@contextlib.contextmanager
def parts() -> Iterator[None]:
    """What is compiled inside, under Numba's lock, has machine code only where that is asked for."""
    codegen = cpu_target.target_context.codegen()
    usual = codegen._library_class
    codegen._library_class = PartLibrary
    try:
        yield
    finally:
        codegen._library_class = usual
