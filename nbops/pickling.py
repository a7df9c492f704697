"""Pickles of ops: by name, or for those of a script, which other processes can't import, with their code."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

from nbops import compiler
from nbops.dtypes import Types
from nbops.kernel import Kernel
from nbops.labels import Labels
from nbops.op import Op, elementwise, registry
from nbops.pieces import Pieces
from nbops.signature import Signature

__all__ = ["reduced"]


def reduced(op: Op) -> str | tuple[Any, ...]:
    """What pickle keeps of an op: its name and module or, of a script's or notebook's op, its definition."""
    if op.__module__ != "__main__":
        return _by_name, (op.name, op.__module__)
    try:
        import cloudpickle
    except ImportError:
        return op.name  # pickle looks for it in the script, as it does for functions
    # As bytes: the function's name in the script is the op's, and pickle would look it up there.
    written = cloudpickle.dumps(op.formula or op.loop)
    definition = (op.name, str(op.signature), written, op.formula is not None)
    properties = (op.types, op.arguments, op.nanoseconds, op.in_place, op.pieces, op.labels)
    return _defined_again, (*definition, *properties)


def _by_name(name: str, module: str) -> Op:
    """An op out of a pickle: the one of this name, once the module that defines it is imported."""
    if name not in registry:
        importlib.import_module(module)
    return registry[name]


def _defined_again(
    name: str,
    signature: str,
    written: bytes,
    is_formula: bool,
    types: Types,
    arguments: tuple[str, ...],
    nanoseconds: float,
    in_place: tuple[str, ...],
    pieces: Pieces,
    labels: Labels | None,
) -> Op:
    """An op of a script or notebook out of a pickle: the process that reads it can't import its module."""
    known = registry.get(name)
    function = pickle.loads(written)
    if known is not None and _digest_of(known.formula or known.loop) == _digest_of(function):
        return known
    if is_formula:
        result = elementwise(name=name, integers=types.integers, nanoseconds=nanoseconds)(function)
    else:
        parsed = Signature.parse(signature)
        kernel = Kernel(function, parsed, name)
        result = Op(name, parsed, kernel, types, arguments, nanoseconds, in_place=in_place)
    result.pieces, result.labels = pieces, labels
    return result


def _digest_of(written: Callable[..., Any]) -> str:
    """What tells code and the numbers in its closure apart."""
    return compiler.digest(cast(FunctionType, written))
