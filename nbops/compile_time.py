"""What shortens the time that Numba takes to compile, and changes nothing of what the code does.

Of a first training step on a machine where nothing is kept, most is Numba's own work, in Python: finding the
types, writing LLVM's instructions, keeping books in between. Some of it need not be done:

- *Typing each addition of two integers anew.* Numba asks some ten templates what ``+`` means, those of arrays
  and of strings among them, and writes a message for each that declines. So it does for the truth of each
  condition. `operators_typed_once` keeps the answer.
- *Looking for new declarations.* Numba goes through all of its modules for each call of an intrinsic, some
  hundreds of times in a kernel. `one_registry`.
- *Looking for what isn't there.* nbops's own helpers have no closures, no array expressions and no context
  managers. `PlainCompiler` leaves out the passes that look for them.
- *Looking for garbage.* Compiling makes objects by the million and keeps most of them; `no_collection`.

Together they take more than a quarter of the time away; see also `nbops.parts`.
"""

from __future__ import annotations

import contextlib
import gc
import operator
from collections.abc import Iterator
from typing import Any

from numba import types
from numba.core import typed_passes, untyped_passes
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typing.templates import _TemplateTargetHelperMixin

__all__ = ["PlainCompiler", "less_work"]


class PlainCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler for functions that are loops and arithmetic, and nothing else."""

    def define_pipelines(self) -> list[PassManager]:
        """Numba's passes but those that such a function has no use for."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [entry for entry in passes.passes if entry[0] not in NOT_NEEDED]
        return [passes]


NOT_NEEDED = {
    untyped_passes.WithLifting,
    untyped_passes.InlineClosureLikes,
    untyped_passes.RewriteSemanticConstants,
    untyped_passes.DeadBranchPrune,
    untyped_passes.GenericRewrites,
    untyped_passes.MakeFunctionToJitFunction,
    untyped_passes.InlineInlinables,
    untyped_passes.FindLiterallyCalls,
    untyped_passes.LiteralUnroll,
    untyped_passes.LiteralPropagationSubPipelinePass,
    typed_passes.InlineOverloads,
    typed_passes.NopythonRewrites,
    typed_passes.DumpParforDiagnostics,
}


@contextlib.contextmanager
def less_work() -> Iterator[None]:
    """Inside, under Numba's lock, compiling takes less time."""
    with no_collection(), one_registry(), operators_typed_once():
        yield


#: What a number is to Numba. A constant is one of them as well, and operators treat it like any other.
NUMBERS = (types.Integer, types.Float, types.Boolean, types.IntegerLiteral, types.BooleanLiteral)
#: Operators whose meaning depends on the value of a constant.
BY_VALUE = (operator.pow, operator.ipow)
#: Functions that are operators in all but their syntax; Numba calls `bool` for each condition.
LIKE_OPERATORS = (bool, min, max)

_known: dict[tuple[Any, tuple[Any, ...]], Any] = {}


@contextlib.contextmanager
def operators_typed_once() -> Iterator[None]:
    """Inside, under Numba's lock, ``int64 + int64`` is looked up where its type was found before."""
    context = cpu_target.typing_context
    if "resolve_function_type" in vars(context):  # inside of such a block already
        yield
        return
    usual = context.resolve_function_type

    def resolve(function: Any, arguments: Any, keywords: Any) -> Any:
        if keywords or not _is_operator(function) or not all(isinstance(kind, NUMBERS) for kind in arguments):
            return usual(function, arguments, keywords)
        kinds = tuple(map(types.unliteral, arguments))
        if (function, kinds) not in _known:
            _known[function, kinds] = usual(function, kinds, keywords)
        return _known[function, kinds]

    context.resolve_function_type = resolve
    try:
        yield
    finally:
        del context.resolve_function_type  # the class has it


def _is_operator(function: Any) -> bool:
    if not isinstance(function, types.Function):
        return False
    key = function.typing_key
    if getattr(key, "__module__", None) == operator.add.__module__:
        return key not in BY_VALUE
    return key in LIKE_OPERATORS


@contextlib.contextmanager
def one_registry() -> Iterator[None]:
    """Inside, under Numba's lock, intrinsics are declared where the first of them was.

    Numba asks anew for each, and looks through all of its modules for new declarations before it answers.
    """
    usual = _TemplateTargetHelperMixin._get_target_registry
    found: dict[str, Any] = {}

    def get_target_registry(template: Any, reason: str) -> Any:
        target = template.metadata.get("target", "generic")
        if target not in found:
            found[target] = usual(template, reason)
        return found[target]

    _TemplateTargetHelperMixin._get_target_registry = get_target_registry
    try:
        yield
    finally:
        _TemplateTargetHelperMixin._get_target_registry = usual


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Inside, Python looks for no garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
