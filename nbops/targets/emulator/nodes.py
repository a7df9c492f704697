"""What PTX consists of once read: kernels, instructions, variables, and the Python lines behind them."""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

import numpy as np

from nbops.targets.emulator.errors import PTXSyntaxError

__all__ = [
    "BYTES",
    "VARIABLE",
    "Instruction",
    "Kernel",
    "Location",
    "Parameter",
    "Variable",
    "parse_variable",
    "split_operands",
]

BYTES = {
    f"{kind}{bits}": bits // 8 for kind in "busf" for bits in (8, 16, 32, 64) if kind + str(bits) != "f8"
}
BYTES |= {"f16x2": 4, "bf16": 2, "bf16x2": 4, "tf32": 4, "pred": 0}

VARIABLE = re.compile(
    r"\.(?P<space>shared|global|const|local|param)\s+(?:\.align\s+(?P<align>\d+)\s+)?(?:\.\w+\s+)*?\.(?P<type>[busf]\d+)\s+"
    r"(?:\.ptr\s+(?:\.(?:global|const|shared|local)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"(?P<name>[%\w$]+)\s*(?P<dimensions>(?:\[\d*\]\s*)*)(?:=\s*(?P<initial>\{[^}]*\}|[^;,{]+))?"
)


class Location(NamedTuple):
    """A line of Python."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its type and where it lies in the parameter buffer."""

    name: str
    type: str
    offset: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable in a state space; `nbytes` is 0 for dynamic shared memory."""

    name: str
    space: str
    align: int
    nbytes: int
    initial: bytes | None


@dataclasses.dataclass
class Instruction:
    """One instruction: ``@guard opcode operands``; register names are already resolved to ``%<number>``."""

    opcode: str
    operands: list[str]
    guard: str | None
    negate: bool
    text: str
    location: Location | None
    index: int = 0

    @property
    def parts(self) -> list[str]:
        """The opcode split at its dots."""
        return self.opcode.split(".")


@dataclasses.dataclass
class Kernel:
    """An entry point; `title` is its name for people, where it has one."""

    name: str
    parameters: list[Parameter]
    registers: list[str]
    instructions: list[Instruction]
    labels: dict[str, int]
    variables: dict[str, Variable]
    title: str = ""

    @property
    def parameter_bytes(self) -> int:
        """The size of the parameter buffer."""
        return self.parameters[-1].offset + self.parameters[-1].nbytes if self.parameters else 0


def split_operands(text: str) -> list[str]:
    """Split at commas outside brackets: ``{a, b}, [c+4]`` -> ``{a, b}`` and ``[c+4]``."""
    if "{" not in text and "(" not in text:
        return [part.strip() for part in text.split(",")] if text else []
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    return [*parts, current.strip()] if current.strip() else parts


def parse_variable(match: re.Match[str]) -> Variable:
    """The variable that a match of `VARIABLE` declares, its initial value as the bytes that memory holds."""
    kind = match["type"]
    count = 1
    for extent in re.findall(r"\[(\d*)\]", match["dimensions"]):
        count *= int(extent or 0)
    initial = None
    if match["initial"]:
        values = match["initial"].strip("{} \n\t").split(",")
        kinds = {"f32": "u4", "f64": "u8"}
        dtype = np.dtype(kinds.get(kind, f"u{BYTES[kind]}"))
        numbers = [_constant(value.strip()) for value in values if value.strip()]
        mask = (1 << (8 * dtype.itemsize)) - 1
        initial = np.array([number & mask for number in numbers], dtype).tobytes()
    align = int(match["align"] or BYTES[kind])
    return Variable(match["name"], match["space"], align, count * BYTES[kind], initial)


def _constant(text: str) -> int:
    if text[:2] in ("0f", "0F", "0d", "0D"):
        return int(text[2:], 16)
    try:
        return int(text.rstrip("U"), 0)
    except ValueError:
        raise PTXSyntaxError(f"an initial value that is no number: {text!r}") from None
