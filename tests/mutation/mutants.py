"""Every small change of a module's source: an operator, a constant, a condition, a result that is None.

``nanoseconds=`` of an op is left alone: it says what a step costs, and decides only between serial and
parallel, whose results are equal.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType

__all__ = ["Mutant", "code_in", "mutants_of"]

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.USub: ast.UAdd,
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes
    ----------
    module : str
        The file, ``nbops/ops/dense.py``.
    statement : str
        The first line of the statement that is changed.
    before, after : str
        The changed piece of source.
    lines : range
        Where the statement begins, up to where the change ends: who executes none of them can't notice.
    is_inside : bool
        Whether it is inside a function; else importing the module runs it.
    code : code
        The compiled module with the change in it.
    """

    module: str
    statement: str
    before: str
    after: str
    lines: range
    is_inside: bool
    code: CodeType

    def __str__(self) -> str:
        return f"{self.module}  {self.before} -> {self.after}  in  {self.statement}"


def mutants_of(module: str, path: str, source: str) -> Iterator[Mutant]:
    """The mutants of a module; `path` is the file name that their code gets."""
    tree, written = ast.parse(source), source.splitlines()
    spared = {id(node.value) for node in ast.walk(tree) if _is_cost(node)}
    places = dict(_places(tree, 1, False))
    for index, node in enumerate(ast.walk(tree)):
        for change in () if id(node) in spared else _changes(node):
            changed = copy.deepcopy(tree)
            twin = next(other for i, other in enumerate(ast.walk(changed)) if i == index)
            before = ast.unparse(node).splitlines()[0]
            setattr(twin, *change)
            ast.fix_missing_locations(changed)
            after = ast.unparse(twin).splitlines()[0]
            if after != before:
                first, is_inside = places[id(node)]
                last = getattr(getattr(node, "test", node), "end_lineno", first)
                code = compile(changed, path, "exec")
                lines = range(min(first, last), last + 1)  # a decorator ends before its function begins
                yield Mutant(module, written[first - 1].strip(), before, after, lines, is_inside, code)


def code_in(code: CodeType) -> Iterator[CodeType]:
    """The code of every function in a module's, or in another function's."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from code_in(constant)


def _is_cost(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "nanoseconds"


def _places(node: ast.AST, first: int, is_inside: bool) -> Iterator[tuple[int, tuple[int, bool]]]:
    """Of every node below: the first line of its statement, and whether it is in a function's body."""
    if isinstance(node, ast.stmt | ast.ExceptHandler):
        first = node.lineno
    yield id(node), (first, is_inside)
    for field, value in ast.iter_fields(node):
        is_body = field == "body" and isinstance(node, ast.FunctionDef | ast.Lambda)
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child, first, is_inside or is_body)


def _changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The fields of a node to change, and what they become."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.UnaryOp) and type(node.op) in _SWAPS:
        yield "op", _SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _SWAPS:
        yield "ops", [_SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.If | ast.IfExp):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "value", ast.Constant(None)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield "value", node.value + 1
