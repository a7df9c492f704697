"""PTX text -> a program of kernels.

Only what is needed to execute is kept: parameters with their byte offsets, variables with their state space,
registers with their widths, and a flat list of instructions. `nbops.targets.emulator.body` reads what stands
between a function's braces.
"""

from __future__ import annotations

import re

from nbops.targets.emulator.body import BodyParser, Function
from nbops.targets.emulator.errors import PTXSyntaxError
from nbops.targets.emulator.nodes import VARIABLE, Kernel, Location, Parameter, parse_variable

__all__ = ["Program"]

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_FUNCTION = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(?P<kind>entry|func)\s+(?:\((?P<results>[^)]*)\)\s*)?"
    r"(?P<name>[\w$]+)\s*(?:\((?P<parameters>.*?)\))?(?P<directives>[^{;]*)(?P<end>[{;])",
    re.S,
)


class Program:
    """PTX, parsed once.

    Parameters
    ----------
    ptx : str
    title : str, optional
        What messages and reports call the program's kernel; its name in the PTX unless given.
    formula : Location, optional
        The Python line that counts for those of nbops' own code around an op's formula.

    Attributes
    ----------
    kernels : list of str
        The names of the entry points, in order.
    target : str
        The architecture that the PTX was made for, for instance ``sm_90``.
    """

    def __init__(self, ptx: str, title: str = "", formula: Location | None = None) -> None:
        text = _COMMENT.sub("", ptx)
        files: dict[str, str] = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.M))
        target = re.search(r"\.target\s+(\w+)", text)
        if target is None:
            raise PTXSyntaxError("no .target directive: this is not PTX")
        self.target = target[1]
        self.entries: dict[str, Kernel] = {}
        outside, bodies = [], []
        position = 0
        while match := _FUNCTION.search(text, position):
            outside.append(text[position : match.start()])
            position = match.end()
            if match["end"] == "{":
                start = position
                position = _closing_brace(text, start)
                bodies.append((match, text[start : position - 1]))
        outside.append(text[position:])
        module_text = re.sub(r"\.section\s[^{]*\{[^}]*\}", "", "".join(outside))
        self.variables = {v.name: v for v in map(parse_variable, VARIABLE.finditer(module_text))}
        functions = {
            match["name"]: Function(
                [p.name for p in _parameters(match["parameters"])],
                [p.name for p in _parameters(match["results"])],
                body,
            )
            for match, body in bodies
            if match["kind"] == "func"
        }
        for match, body in bodies:
            if match["kind"] == "entry":
                kernel = Kernel(match["name"], _parameters(match["parameters"]), [], [], {}, {})
                kernel.title = title or kernel.name
                BodyParser(kernel, files, functions, self.variables, formula).parse(body)
                self.entries[match["name"]] = kernel
        if not self.entries:
            raise PTXSyntaxError("no .entry in this PTX: compile a kernel, not a device function")
        self.kernels = list(self.entries)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    raise PTXSyntaxError("a function's brace is never closed")


def _parameters(text: str | None) -> list[Parameter]:
    """A parameter list, laid out as the driver does: each at the next multiple of its alignment."""
    parameters, offset = [], 0
    for declaration in (text or "").split(","):
        match = VARIABLE.search(declaration)
        if match:
            variable = parse_variable(match)
            offset = -(-offset // variable.align) * variable.align
            parameters.append(Parameter(variable.name, match["type"], offset, variable.nbytes))
            offset += variable.nbytes
    return parameters
