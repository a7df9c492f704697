"""An operand that says which element of a row is meant, such as the labels of a cross-entropy.

A loop can't raise: it gives NaN for an element that does not exist. TensorFlow's own ops raise
InvalidArgumentError on a CPU; so its kernel of TensorFlow's looks at the labels first, and an op says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops.signature import Signature

__all__ = ["Labels", "WrongLabelError"]


class WrongLabelError(ValueError):
    """A label that is no position in its row."""


@dataclass(frozen=True)
class Labels:
    """Which operand they are, and whose last axis they count along.

    Parameters
    ----------
    operand, rows : int
        The operands' numbers.
    argument : str
        The labels' name, for messages.
    """

    operand: int
    rows: int
    argument: str

    @classmethod
    def parse(
        cls,
        name: str,
        signature: Signature,
        types: Sequence[str],
        arguments: Sequence[str],
        label: str,
        axis: str,
    ) -> Labels:
        """Find the operand called `label`, and one whose last core axis is `axis`.

        Raises
        ------
        ValueError
            When there is none, or the labels are not int64.
        """
        rows = [o for o, names in enumerate(signature.inputs) if names[-1:] == (axis,)]
        if label not in arguments or types[arguments.index(label)] != "int64":
            raise ValueError(f"{name}: no operand of dtype int64 is called {label!r}")
        if not rows:
            raise ValueError(f"{name}: no operand of {signature} has {axis!r} as its last axis")
        return cls(arguments.index(label), rows[0], label)

    def check(self, name: str, operands: Sequence[Any]) -> None:
        """Look at every label.

        Raises
        ------
        WrongLabelError
            With the first such label.
        """
        labels, classes = np.asarray(operands[self.operand]), np.shape(operands[self.rows])[-1]
        wrong = labels[(labels < 0) | (labels >= classes)]
        if wrong.size:
            raise WrongLabelError(f"{name}: {self.argument} has {wrong.flat[0]}; expected 0 to {classes - 1}")
