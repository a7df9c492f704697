"""An operand that is one number for a whole row, as compiled loops get it.

A loop reads ``x[j]`` whatever x is. Were x an array of stride 0, LLVM would have to assume that the stride is
any and that writing the result may change x, and would compute one element at a time. `Repeated` is a number
that is indexed like an array: each index gives the number.
"""

from __future__ import annotations

import operator
from typing import Any

from numba import types
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["Repeated"]


class Repeated(types.Type):  # type: ignore[misc]
    """Numba's type of a number that stands for a row of equal ones."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Repeated({dtype})")


@register_model(Repeated)
class _RepeatedModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Repeated) -> None:
        super().__init__(manager, kind, manager.lookup(kind.dtype).get_value_type())


@intrinsic
def number_of(typingctx: Any, row: Any) -> Any:
    """The number."""
    return row.dtype(row), lambda context, builder, call, arguments: arguments[0]


@overload(operator.getitem, inline="always")
def _get(row: Any, index: Any) -> Any:
    def number(row: Any, index: Any) -> Any:
        return number_of(row)

    return number if isinstance(row, Repeated) else None
