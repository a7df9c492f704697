"""Which dtype an op computes in, and which it returns: NumPy 2's promotion (NEP 50), plus half precision.

An op says what it wants with a *types* string such as ``"T,int64->T"``: every ``T`` is promoted to one
common dtype, a named dtype is what it says. float16 and bfloat16 are computed in float32 and rounded once,
at the end. https://numpy.org/neps/nep-0050-scalar-promotion.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

__all__ = ["COMPUTED", "Integers", "Types", "check_real", "compute_dtype"]

#: What an op does with integers: ``keep`` computes in them, ``float`` promotes them as NumPy's exp does,
#: ``float64`` as NumPy's divide does.
Integers = Literal["keep", "float", "float64"]

_HALF = ("float16", "bfloat16")
_SUPPORTED = (*_HALF, "float32", "float64", *(f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)))


# A dtype's name takes NumPy ten microseconds, its character none.
_COMPUTED_CHARACTERS = frozenset("fdbBhHiIlLqQ")

#: What loops compute in, by name.
COMPUTED = tuple(name for name in _SUPPORTED if name not in _HALF)


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """float32 for half precision, the dtype itself otherwise."""
    if dtype.char in _COMPUTED_CHARACTERS:
        return dtype
    return np.dtype(np.float32) if dtype.name in _HALF else dtype


def check_real(dtype: np.dtype[Any], name: str, argument: str) -> None:
    """Raise TypeError unless arrays of this dtype are taken.

    Raises
    ------
    TypeError
        For anything but float16, bfloat16, float32, float64 and the integers.
    """
    if dtype.char not in _COMPUTED_CHARACTERS and dtype.name not in _SUPPORTED:
        raise TypeError(
            f"{name}: {argument} has dtype {dtype}; expected a real number dtype "
            "(float16, bfloat16, float32, float64, or an integer): convert it with astype"
        )


def promote(operands: Sequence[Any]) -> np.dtype[Any]:
    """The common dtype of arrays and Python numbers; a number is as wide as the arrays ask for.

    Examples
    --------
    >>> promote([np.ones(2, np.float32), 1.5])
    dtype('float32')
    >>> promote([np.ones(2, np.int32), 1.5])
    dtype('float64')
    """
    dtypes = [x.dtype for x in operands if isinstance(x, np.ndarray)]
    numbers = [x for x in operands if not isinstance(x, np.ndarray)]
    if not dtypes:  # a lone integer may be as large as uint64; several are of the default dtype
        return np.asarray(numbers[0]).dtype if len(numbers) == 1 else np.result_type(*map(type, numbers))
    common: np.dtype[Any] = np.result_type(*dtypes)
    if common.kind in "iub" and any(isinstance(x, float) for x in numbers):
        return np.dtype(np.float64)
    return common


class Types(NamedTuple):
    """An op's dtype rule.

    Parameters
    ----------
    inputs, outputs : tuple of str
        ``"T"`` or the name of a dtype, one per operand.
    integers : {"keep", "float", "float64"}
        What integers become where the rule says ``T``.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: Integers = "keep"

    @classmethod
    def parse(cls, text: str | None, n_inputs: int, n_outputs: int, integers: Integers) -> Types:
        """Read ``"T,int64->T"``; None means that every operand is ``T``.

        Raises
        ------
        ValueError
            When the counts differ from the signature's.
        """
        if text is None:
            return cls(("T",) * n_inputs, ("T",) * n_outputs, integers)
        sides = [tuple(side.replace(" ", "").split(",")) for side in text.split("->")]
        if len(sides) != 2 or len(sides[0]) != n_inputs or len(sides[1]) != n_outputs:
            raise ValueError(f"types {text!r}: expected {n_inputs} inputs and {n_outputs} outputs")
        for name in sides[0] + sides[1]:
            if name != "T" and name not in COMPUTED:
                raise ValueError(f"types {text!r}: {name!r} is neither T nor one of {', '.join(COMPUTED)}")
        if "T" in sides[1] and "T" not in sides[0]:
            raise ValueError(f"types {text!r}: an output is T, but no input is")
        return cls(sides[0], sides[1], integers)

    def known_by_type(self, operands: Sequence[Any]) -> bool:
        """Whether `resolve` looks at no operand's value, as it does at a lone integer's.

        Parameters
        ----------
        operands : sequence of array or number
        """
        generic = [x for x, kind in zip(operands, self.inputs, strict=True) if kind == "T"]
        return any(isinstance(x, np.ndarray | np.generic) for x in generic) or int not in map(type, generic)

    def resolve(
        self, operands: Sequence[Any], name: str, arguments: Sequence[str]
    ) -> tuple[list[np.dtype[Any]], list[np.dtype[Any]]]:
        """The dtypes in which the loop runs (every operand), and those of the results.

        Parameters
        ----------
        operands : sequence of array or Python number
        name, arguments : str, sequence of str
            The op's and its arguments' names, for messages.

        Raises
        ------
        TypeError
            For dtypes that the op does not take.
        """
        for x, argument in zip(operands, arguments, strict=True):
            if isinstance(x, np.ndarray):
                check_real(x.dtype, name, argument)
        generic = [x for x, kind in zip(operands, self.inputs, strict=True) if kind == "T"]
        try:
            common = promote(generic) if generic else np.dtype(np.float64)
        except np.exceptions.DTypePromotionError:  # float16 and bfloat16
            dtypes = ", ".join(dict.fromkeys(str(x.dtype) for x in generic if isinstance(x, np.ndarray)))
            raise TypeError(f"{name}: {dtypes} have no common dtype; convert one with astype") from None
        check_real(common, name, arguments[0])  # a number alone may be larger than any integer dtype holds
        if common.kind in "iu" and self.integers != "keep":
            common = (
                np.dtype(np.float64) if self.integers == "float64" else np.result_type(common, np.float16)
            )
        for x, kind, argument in zip(operands, self.inputs, arguments, strict=True):
            if kind != "T" and np.dtype(kind).kind == "i" and np.asarray(x).dtype.kind not in "iu":
                raise TypeError(f"{name}: {argument} has dtype {np.asarray(x).dtype}; expected integers")
        loop = [
            compute_dtype(common) if kind == "T" else np.dtype(kind) for kind in self.inputs + self.outputs
        ]
        results = [common if kind == "T" else np.dtype(kind) for kind in self.outputs]
        return loop, results
