"""The statements between a function's braces -> instructions, with scopes resolved and calls expanded.

A register is known by a number afterwards, whatever scope its name had. A call of another function of the
module is replaced by that function's instructions, with registers and labels of its own: the emulator needs
no stack, and a function that calls itself is refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nbops.targets.emulator.errors import EmulatorError, PTXSyntaxError
from nbops.targets.emulator.nodes import (
    VARIABLE,
    Instruction,
    Kernel,
    Location,
    Variable,
    parse_variable,
    split_operands,
)

__all__ = ["BodyParser", "Function"]

_STATEMENT = re.compile(
    r"\s*(?:"
    r"\.loc\s+(?P<file>\d+)\s+(?P<line>\d+)\s+(?P<column>\d+)(?P<inlined>[^\n]*)\n"
    r"|(?P<brace>[{}])"
    r"|(?P<label>[$\w]+)\s*:(?!:)"
    r"|\.(?P<directive>\w+)\b(?P<declaration>[^;]*);"
    r"|(?:@(?P<negate>!?)\s*(?P<guard>[%$\w]+)\s+)?(?P<opcode>[a-z][\w.:]*)\s*(?P<operands>[^;]*);"
    r")"
)
_INLINED_AT = re.compile(r"inlined_at\s+(\d+)\s+(\d+)\s+(\d+)")
#: Files whose lines say nothing about a kernel: Numba's own, and what nbops puts around an op's loop.
_WRAPPERS = re.compile(
    r"/numba/(?:cuda|core|np|cpython|misc)/"
    r"|/nbops/(?:targets/cuda/loops|ops/nests|tuned/cuda/elementwise)\.py$"
)
_NAME = re.compile(r"[%$A-Za-z_][\w$]*")
_LOCAL_SPACES = ("local", "shared", "param")


class Function(NamedTuple):
    """A ``.func``: the names of its parameters and results, and its text."""

    parameters: list[str]
    results: list[str]
    body: str


class _Scope:
    """What the names between two braces mean: registers, families such as ``%r<9>``, renamed variables."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.families: dict[str, str] = {}


class BodyParser:
    """Fills a kernel from its text."""

    def __init__(
        self,
        kernel: Kernel,
        files: dict[str, str],
        functions: dict[str, Function],
        module_variables: dict[str, Variable],
        formula: Location | None = None,
    ) -> None:
        self.kernel = kernel
        self.files = files
        self.functions = functions
        self.module_variables = module_variables
        self.formula = formula
        #: By a place (file, line, column) in a function that was inlined, the place that called it.
        self.callers: dict[tuple[str, str, str], tuple[str, str, str]] = {}
        self.location: Location | None = None
        self.calls: list[str] = []
        self.expansions = 0

    def parse(self, body: str) -> None:
        """Read the kernel's own text."""
        self._read(body, _Scope(), "")

    def _read(self, body: str, outermost: _Scope, suffix: str) -> None:
        """Read one function's text; `suffix` sets the labels of an expanded call apart."""
        scopes = [outermost]
        position = 0
        while position < len(body):
            match = _STATEMENT.match(body, position)
            if match is None:
                if rest := body[position:].strip():
                    raise PTXSyntaxError(f"can't read: {rest[:80]!r}")
                break
            position = match.end()
            if match["opcode"]:
                self._instruction(match, scopes, suffix)
            elif match["line"]:
                self.location = self._locate(match)
            elif match["label"]:
                self.kernel.labels[match["label"] + suffix] = len(self.kernel.instructions)
            elif match["brace"] == "{":
                scopes.append(_Scope())
            elif match["brace"]:
                scopes.pop()
            elif match["directive"] == "reg":
                self._declare_registers(match["declaration"], scopes[-1])
            elif match["directive"] in _LOCAL_SPACES:
                self._declare_variable(match, scopes[-1])

    # -- names ---------------------------------------------------------------------------------------------

    def _declare_registers(self, declaration: str, scope: _Scope) -> None:
        width, names = declaration.strip().lstrip(".").split(None, 1)
        for name in names.split(","):
            family = re.match(r"\s*([%\w$]+?)<(\d+)>", name)
            if family:
                scope.families[family[1]] = width
            else:
                scope.names[name.strip()] = self._register(width)

    def _register(self, width: str) -> str:
        self.kernel.registers.append(width)
        return f"%{len(self.kernel.registers) - 1}"

    def _declare_variable(self, match: re.Match[str], scope: _Scope) -> None:
        found = VARIABLE.search(f".{match['directive']}{match['declaration']}")
        if found is None:
            raise PTXSyntaxError(f"can't read the declaration: {match[0].strip()!r}")
        variable = parse_variable(found)
        name = variable.name
        if variable.space == "param":  # each call declares its own param0
            name = f"{name}$${len(self.kernel.variables)}"
            scope.names[variable.name] = name
        self.kernel.variables[name] = variable

    def _resolve(self, text: str, scopes: list[_Scope]) -> str:
        """Every register's name becomes ``%<number>``; a variable may have a name of its own."""

        def replace(match: re.Match[str]) -> str:
            name = match[0]
            prefix = name.rstrip("0123456789")
            for scope in reversed(scopes):
                if name in scope.names:
                    return scope.names[name]
                if prefix in scope.families and prefix != name:
                    scope.names[name] = self._register(scope.families[prefix])
                    return scope.names[name]
            if name in self.module_variables:
                self.kernel.variables[name] = self.module_variables[name]
            return name

        return _NAME.sub(replace, text)

    # -- instructions --------------------------------------------------------------------------------------

    def _instruction(self, match: re.Match[str], scopes: list[_Scope], suffix: str) -> None:
        opcode = match["opcode"]
        guard = self._resolve(match["guard"], scopes) if match["guard"] else None
        operands = split_operands(self._resolve(match["operands"].strip(), scopes))
        text = " ".join(match[0].split())
        kind = opcode.split(".", 1)[0]
        if kind == "call":
            callee = next(operand for operand in operands if operand[0] != "(")
            if callee in self.functions and guard is None:
                self._expand(callee, operands)
                return
        if kind == "bra":
            operands[0] += suffix
        elif kind == "ret" and suffix:
            opcode, operands = "bra", [f"return{suffix}"]
        self.kernel.instructions.append(
            Instruction(
                opcode,
                operands,
                guard,
                match["negate"] == "!",
                text,
                self.location,
                len(self.kernel.instructions),
            )
        )

    def _expand(self, callee: str, operands: list[str]) -> None:
        """Put a function's instructions where it is called; its parameters are the caller's variables."""
        if callee in self.calls:
            raise EmulatorError(f"{self.kernel.title}: {callee} calls itself, which the emulator does not do")
        function = self.functions[callee]
        position = operands.index(callee)
        results = split_operands(operands[0][1:-1].strip()) if position else []
        lists = [operand for operand in operands[position + 1 :] if operand[0] == "("]
        arguments = split_operands(lists[0][1:-1].strip()) if lists else []
        scope = _Scope()
        scope.names.update(zip(function.parameters, arguments, strict=True))
        scope.names.update(zip(function.results, results, strict=True))
        self.expansions += 1
        suffix = f"$call{self.expansions}"
        self.calls.append(callee)
        location = self.location
        self._read(function.body, scope, suffix)
        self.kernel.labels[f"return{suffix}"] = len(self.kernel.instructions)
        self.location = location
        self.calls.pop()

    def _locate(self, match: re.Match[str]) -> Location | None:
        """The Python line of a ``.loc``.

        It is the innermost one, that of the function which was inlined: an op's own loop in nbops' kernel.
        Lines of Numba and of what nbops puts around a loop count for the line that called them; where nobody
        did, for the op's formula, which is all that its author wrote.
        """
        place = match["file"], match["line"], match["column"]
        called = _INLINED_AT.search(match["inlined"])
        if called:
            self.callers[place] = called[1], called[2], called[3]
        climbed = {place}
        while (place[1] == "0" or self._is_wrapper(place[0])) and self.callers.get(
            place, place
        ) not in climbed:
            place = self.callers[place]
            climbed.add(place)
        if place[1] == "0":
            return self.location
        if self.formula and self._is_wrapper(place[0]):
            return self.formula
        return Location(self.files.get(place[0], "?"), int(place[1]))

    def _is_wrapper(self, file: str) -> bool:
        return _WRAPPERS.search(self.files.get(file, "").replace("\\", "/")) is not None
