"""Tables of 64-bit words in compiled code: on the stack of their maker, read by row and column.

`nbops.frame` reads and writes ``geometry[row, column]``. Interpreted, that is a NumPy array. In the kernel of
a TensorFlow op it is a `Rows`, a pointer that knows the length of a row. An array would have to be allocated,
and each of its elements would take Numba several times the instructions, for shapes, strides and negative
indices that no table has: of the time to compile such a kernel, a third.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

__all__ = ["Rows", "new_rows", "new_words"]

WORD = ir.IntType(64)
PAIR = types.UniTuple(types.int64, 2)


class Rows(types.Type):  # type: ignore[misc]
    """A pointer to rows of `width` words."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(f"Rows({width})")


@register_model(Rows)
class _RowsModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Rows) -> None:
        super().__init__(manager, kind, WORD.as_pointer())


def _is_pair(index: Any) -> bool:
    return isinstance(index, types.BaseTuple) and len(index) == 2


@infer_global(operator.getitem)
class _TypeOfGet(AbstractTemplate):  # type: ignore[misc]
    def generic(self, arguments: Any, keywords: Any) -> Any:
        rows, index = arguments
        return signature(types.int64, rows, PAIR) if isinstance(rows, Rows) and _is_pair(index) else None


@infer_global(operator.setitem)
class _TypeOfSet(AbstractTemplate):  # type: ignore[misc]
    def generic(self, arguments: Any, keywords: Any) -> Any:
        rows, index, _ = arguments
        if isinstance(rows, Rows) and _is_pair(index):
            return signature(types.void, rows, PAIR, types.int64)
        return None


def _place(builder: Any, call: Any, rows: Any, index: Any) -> Any:
    row, column = (builder.extract_value(index, axis) for axis in range(2))
    return builder.gep(rows, [builder.add(builder.mul(row, WORD(call.args[0].width)), column)])


@lower_builtin(operator.getitem, Rows, types.UniTuple)
def _get(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
    return builder.load(_place(builder, call, *arguments))


@lower_builtin(operator.setitem, Rows, types.UniTuple, types.Integer)
def _set(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
    builder.store(arguments[2], _place(builder, call, *arguments[:2]))
    return context.get_dummy_value()


def _zeros(builder: Any, count: Any) -> Any:
    """So many words on the stack, all 0; where Numba's `alloca_once` goes, a count isn't known yet."""
    place = builder.alloca(WORD, count)
    cgutils.memset(builder, builder.bitcast(place, cgutils.voidptr_t), builder.mul(count, WORD(8)), 0)
    return place


@intrinsic
def new_words(typingctx: Any, count: Any) -> Any:
    """A pointer to `count` words on the stack, all 0. Its caller must neither return it nor be a loop."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return _zeros(builder, arguments[0])

    return types.CPointer(types.int64)(types.int64), codegen


@functools.cache
def new_rows(width: int) -> Any:
    """An intrinsic ``new(count)``: `count` rows of `width` words on the stack, as `new_words` makes them."""
    result = Rows(width)

    @intrinsic
    def new(typingctx: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            return _zeros(builder, builder.mul(arguments[0], WORD(width)))

        return result(types.int64), codegen

    new.cache_key = f"rows of {width} words"
    return new
