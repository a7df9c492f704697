"""Generalized-ufunc signatures: the one statement from which an op's shape rules are derived.

``"(m,k),(k,n)->(m,n)"`` says that the last two axes of the first operand are called m and k, that the
second operand's k must be as long, and that every axis before those (the *batch* axes) broadcasts. The
notation and its meaning are NumPy's: https://numpy.org/doc/stable/reference/c-api/generalized-ufuncs.html
(frozen sizes such as ``(3)`` and optional ones such as ``(m?)`` are not supported).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nbops import frame

__all__ = ["Signature"]

_OPERAND = re.compile(r"\(\s*((?:[A-Za-z_]\w*)(?:\s*,\s*[A-Za-z_]\w*)*)?\s*\)")


def _parse_side(text: str, whole: str) -> tuple[tuple[str, ...], ...]:
    operands = []
    position = 0
    while True:
        match = _OPERAND.match(text, position)
        if match is None:
            raise ValueError(
                f"signature {whole!r}: expected an operand such as (m,n) or () at {text[position:]!r}"
            )
        operands.append(tuple(re.findall(r"\w+", match.group(1) or "")))
        position = match.end()
        if position == len(text):
            return tuple(operands)
        if text[position] != ",":
            raise ValueError(f"signature {whole!r}: expected ',' at {text[position:]!r}")
        position += 1


@dataclass(frozen=True)
class Signature:
    """A parsed signature.

    Parameters
    ----------
    inputs, outputs : tuple of tuple of str
        The names of each operand's core axes.

    Examples
    --------
    >>> Signature.parse("(m,k),(k,n)->(m,n)").inputs
    (('m', 'k'), ('k', 'n'))
    """

    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Signature:
        """Read NumPy's notation.

        Raises
        ------
        ValueError
            When `text` is not a signature, or an output names an axis that no input has.
        """
        sides = re.sub(r"\s", "", text).split("->")
        if len(sides) != 2:
            raise ValueError(f"signature {text!r}: expected exactly one '->'")
        signature = cls(_parse_side(sides[0], text), _parse_side(sides[1], text))
        unknown = {n for o in signature.outputs for n in o} - set(signature.axis_names)
        if unknown:
            raise ValueError(f"signature {text!r}: no input has the output's axis {min(unknown)!r}")
        if len(signature.axis_names) > frame.MAX_CORE or any(
            len(names) > frame.MAX_CORE for names in signature.operands
        ):
            raise ValueError(f"signature {text!r}: at most {frame.MAX_CORE} core axes")
        return signature

    @property
    def operands(self) -> tuple[tuple[str, ...], ...]:
        return self.inputs + self.outputs

    @cached_property
    def axis_names(self) -> tuple[str, ...]:
        """Every core axis once, in the order in which the inputs name them."""
        return tuple(dict.fromkeys(name for operand in self.inputs for name in operand))

    @cached_property
    def is_elementwise(self) -> bool:
        return not self.axis_names

    @cached_property
    def is_of_vectors(self) -> bool:
        """Whether every input has one core axis, and no output has more."""
        return all(len(own) == 1 for own in self.inputs) and all(len(own) < 2 for own in self.outputs)

    @property
    def keywords(self) -> tuple[str, ...]:
        """What an op of this signature takes by keyword."""
        return ("out", "axes", "axis", "target") if self.is_of_vectors else ("out", "axes", "target")

    @cached_property
    def table(self) -> np.ndarray:
        """The signature as the numbers that compiled code reads; see `nbops.frame`."""
        return frame.signature_table(
            len(self.inputs),
            [[self.axis_names.index(name) for name in operand] for operand in self.operands],
        )

    def swap(self, *swapped: bool) -> Signature:
        """The same signature with the last two core axes of the marked inputs exchanged.

        Examples
        --------
        >>> str(Signature.parse("(m,k),(k,n)->(m,n)").swap(True, False))
        '(k,m),(k,n)->(m,n)'
        """
        inputs = tuple(
            (*names[:-2], names[-1], names[-2]) if swap else names
            for names, swap in zip(self.inputs, swapped, strict=True)
        )
        return Signature(inputs, self.outputs)

    def __str__(self) -> str:
        def side(operands: tuple[tuple[str, ...], ...]) -> str:
            return ",".join(f"({','.join(names)})" for names in operands)

        return f"{side(self.inputs)}->{side(self.outputs)}"

    def infer(
        self, shapes: Sequence[Sequence[int]], name: str, arguments: Sequence[str]
    ) -> list[tuple[int, ...]]:
        """The outputs' shapes for inputs of these shapes; -1 stands for an unknown length.

        Parameters
        ----------
        shapes : sequence of shapes, one per input
        name : str
            The op's name, for messages.
        arguments : sequence of str
            The inputs' names, for messages.

        Raises
        ------
        ValueError
            When the shapes break the signature; the message names the shapes and the rule.
        """
        geometry = frame.new_geometry(len(self.operands))
        for row, shape in zip(geometry, shapes, strict=False):
            frame.set_shape(row, shape)
        # Interpreted: who asks is about to build a graph, and would wait longer for the compiler.
        self.check(int(frame.infer_shapes(self.table, geometry)), geometry, name, arguments)
        return [frame.get_shape(row) for row in geometry[len(self.inputs) :]]

    def check(self, code: int, geometry: np.ndarray, name: str, arguments: Sequence[str]) -> None:
        """Raise the ValueError that `frame.infer_shapes` encoded, if any."""
        if code:
            raise ValueError(self.explain(code, geometry, name, arguments))

    def explain(self, code: int, geometry: np.ndarray, name: str, arguments: Sequence[str]) -> str:
        """What a nonzero result of `frame.infer_shapes` means, in words."""
        kind, operand, axis, other, other_axis = frame.decode_error(code)
        shapes = [frame.get_shape(row) for row in geometry[: len(self.inputs)]]

        def described(index: int) -> str:
            text = "(" + ", ".join("?" if n < 0 else str(n) for n in shapes[index])
            return f"{arguments[index]} is {text}{',)' if len(shapes[index]) == 1 else ')'}"

        def core(index: int, core_axis: int) -> str:
            return f"{arguments[index]}.shape[{core_axis - len(self.inputs[index])}]"

        if kind == frame.TOO_FEW_AXES:
            needed = len(self.inputs[operand])
            return (
                f"{name}: {described(operand)}; it must have at least {needed} "
                f"{'axis' if needed == 1 else 'axes'}, because the signature is {self}"
            )
        if kind == frame.CORE_MISMATCH and operand == other:
            rule = f"{core(operand, other_axis)} must equal {core(operand, axis)}"
            return f"{name}: {described(operand)}; {rule} (signature {self})"
        if kind == frame.CORE_MISMATCH:
            rule = f"{core(other, other_axis)} must equal {core(operand, axis)}"
            return f"{name}: {described(other)} and {described(operand)}; {rule}"
        if kind == frame.TOO_MANY_AXES:
            ndim = int(geometry[operand, frame.NDIM])
            fits = ndim <= frame.MAX_BATCH  # a row of the table has no room for more lengths
            what = described(operand) if fits else f"{arguments[operand]} has {ndim} axes"
            return f"{name}: {what}; at most {frame.MAX_BATCH} axes are supported"
        if kind == frame.TOO_LARGE:
            return f"{name}: the result would have more than 2**63 - 1 bytes"
        named = " and ".join(described(index) for index in range(len(shapes)))
        if len(self.axis_names):
            return f"{name}: {named}; the axes before the core axes of {self} must broadcast"
        return f"{name}: {named}; the shapes must broadcast: each axis equal, or 1"
