"""What a loop's code says about how a GPU may share it out, read from Numba's intermediate form.

`prange` and `lanes` promise independent iterations. Whether the code *around* them may be run by every block,
or by every thread of one, is seen here. It may when nothing is written there, because then all of them
compute the same. Where it may not, the loop still runs on the GPU, with less parallelism:

``prange`` -> blocks or threads of the grid
    if there is one prange, everything is written inside it, and no variable is carried from one iteration to
    the next;
``lanes`` -> the threads of a block
    if everything is written inside a lanes loop, no lanes loop is inside another, no variable is carried, and
    what is read outside of them is never written: then no thread can see another's unfinished work, given a
    barrier at the start of every lanes loop, and every thread of a block reaches each barrier.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from numba.core import analysis, ir
from numba.core.compiler import run_frontend

from nbops import kernel as written
from nbops.tuned.twins import Twin

__all__ = ["Structure", "structure_of"]


@dataclass(frozen=True)
class Structure:
    """How a loop may be shared out.

    Parameters
    ----------
    prange_shared : bool
        Its `prange` may be split over blocks or threads.
    lanes_shared : bool
        Its `lanes` may be split over the threads of a block.
    """

    prange_shared: bool
    lanes_shared: bool


def structure_of(loop: Callable[..., Any], n_inputs: int) -> Structure:
    """Read a loop whose first `n_inputs` parameters are only read."""
    code = run_frontend(loop)
    inputs = list(inspect.signature(loop).parameters)[:n_inputs]
    return _Reader(code, inputs).structure()


class _Reader:
    """One pass over the blocks of a loop."""

    def __init__(self, code: Any, inputs: list[str]) -> None:
        self.code = code
        self.blocks = code.blocks
        self.inputs = set(inputs)
        graph = analysis.compute_cfg_from_blocks(self.blocks)
        uses = analysis.compute_use_defs(self.blocks)
        self.live = analysis.compute_live_map(graph, self.blocks, uses.usemap, uses.defmap)
        self.defined = uses.defmap
        loops = graph.loops().values()
        self.pranges = [loop for loop in loops if self._ranges_over(loop.header, written.prange)]
        self.lanes = [loop for loop in loops if self._ranges_over(loop.header, written.lanes)]

    def structure(self) -> Structure:
        in_prange = {block for loop in self.pranges for block in loop.body}
        in_lanes = {block for loop in self.lanes for block in loop.body}
        writes = set(self._blocks_that_write())
        prange_shared = (
            len(self.pranges) == 1
            and writes <= in_prange
            and not any(map(self._carries, self.pranges))
            and not any(loop.header in in_lanes for loop in self.pranges)
        )
        lanes_shared = (
            bool(self.lanes)
            and writes <= in_lanes
            and not any(map(self._carries, self.lanes))
            and not any(a.header in b.body for a in self.lanes for b in self.lanes if a is not b)
            and not any(self._reads_what_is_written(label) for label in set(self.blocks) - in_lanes)
        )
        return Structure(prange_shared, lanes_shared)

    def _definition(self, variable: Any) -> Any:
        """The expression that a variable is, where there is only one."""
        found = self.code._definitions.get(variable.name, [])
        value = found[0] if len(found) == 1 else None
        return self._definition(value) if isinstance(value, ir.Var) else value

    def _called(self, call: Any) -> Any:
        """The Python object that a call calls, as far as it is a global name or an attribute of a module."""
        function = self._definition(call.func)
        if isinstance(function, ir.Global | ir.FreeVar):
            return function.value
        if isinstance(function, ir.Expr) and function.op == "getattr":
            module = self._definition(function.value)
            if isinstance(module, ir.Global | ir.FreeVar) and isinstance(module.value, ModuleType):
                return getattr(module.value, function.attr, None)
        return None

    def _ranges_over(self, header: int, function: Callable[..., Any]) -> bool:
        """Whether the loop with this header iterates over ``function(...)``."""
        for step in self.blocks[header].find_exprs("iternext"):
            iterator = self._definition(step.value)
            if isinstance(iterator, ir.Expr) and iterator.op == "getiter":
                call = self._definition(iterator.value)
                if isinstance(call, ir.Expr) and call.op == "call" and self._called(call) is function:
                    return True
        return False

    def _carries(self, loop: Any) -> bool:
        """Whether a variable set in one iteration is read in the next, or after the loop."""
        set_inside = {name for label in loop.body for name in self.defined[label]}
        own = set_inside - self.defined[loop.header]
        return any(not name.startswith("$") for name in own & self.live[loop.header])

    def _blocks_that_write(self) -> Iterator[int]:
        stores = ir.SetItem | ir.StaticSetItem | ir.SetAttr
        for label, block in self.blocks.items():
            called = (self._called(call) for call in block.find_exprs("call"))
            if any(isinstance(s, stores) for s in block.body) or any(map(_may_write, called)):
                yield label

    def _reads_what_is_written(self, label: int) -> bool:
        """Whether a block reads an element of anything but an input, or hands such an array to a function."""
        reads = [*self.blocks[label].find_exprs("getitem"), *self.blocks[label].find_exprs("static_getitem")]
        if any(not self._is_input(read.value) for read in reads):
            return True
        return any(
            isinstance(self._called(call), FunctionType | Twin)
            and any(self._is_array(argument) and not self._is_input(argument) for argument in call.args)
            for call in self.blocks[label].find_exprs("call")
            if self._called(call) not in (written.lanes, written.prange)
        )

    def _origin(self, variable: Any) -> Any:
        """The parameter that a variable is an element, a row or an attribute of."""
        value = self._definition(variable)
        while isinstance(value, ir.Expr) and value.op in ("getitem", "static_getitem", "getattr"):
            value = self._definition(value.value)
        return value

    def _is_input(self, variable: Any) -> bool:
        """Whether a variable is a part of an input, or of no operand at all, such as a shape."""
        value = self._definition(variable)
        if isinstance(value, ir.Expr) and value.op == "getattr":
            return True  # x.shape, x.dtype
        origin = self._origin(variable)
        return isinstance(origin, ir.Arg) and origin.name in self.inputs

    def _is_array(self, variable: Any) -> bool:
        return isinstance(self._origin(variable), ir.Arg)


def _may_write(function: Any) -> bool:
    """Whether a function called from a loop may write an array that it is given."""
    if isinstance(function, Twin):
        function = function.plain
    if function is None:
        return True
    if isinstance(function, type | BuiltinFunctionType) or not isinstance(function, FunctionType):
        return False  # a conversion, math.exp, np.exp
    if "STORE_SUBSCR" in {i.opname for i in dis.get_instructions(function)}:
        return True
    called = (function.__globals__.get(name) for name in function.__code__.co_names)
    return any(_may_write(f) for f in called if isinstance(f, FunctionType | Twin) and f is not function)
