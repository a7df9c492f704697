"""atom and red: lanes that meet at one address take their turns in the order of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nbops.targets.emulator.batch import Batch
from nbops.targets.emulator.decode import Decoder, Step, dtype_of, instruction
from nbops.targets.emulator.instructions.data import space_of
from nbops.targets.emulator.lanes import Active, Array
from nbops.targets.emulator.nodes import Instruction

__all__: list[str] = []


def _increment(old: Array, limit: Array) -> Array:
    result: Array = np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1))
    return result


def _decrement(old: Array, limit: Array) -> Array:
    return np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
    "inc": _increment,
    "dec": _decrement,
    "cas": lambda old, expected, new: np.where(old == expected, new, old),
}


@instruction("atom", "red")
def _atomic(decoder: Decoder, ins: Instruction) -> Step:
    parts = ins.parts
    kind = parts[-1]
    name = next((part for part in parts if part in _OPERATIONS), None)
    if name is None or kind in ("f16x2", "bf16", "bf16x2", "b128") or "v2" in parts or "v4" in parts:
        raise decoder.unknown(ins)
    operands = ins.operands if parts[0] == "atom" else ["_", *ins.operands]
    space = space_of(ins)
    dtype = dtype_of(kind)
    address = decoder.address(operands[1])
    reads = [decoder.read(operand, kind) for operand in operands[2:]]
    write = decoder.write(operands[0], kind)
    dead = decoder.is_dead(operands[0])
    function = _OPERATIONS[name]
    in_order = function if isinstance(function, np.ufunc) else None
    if kind[0] == "f" and name in ("min", "max"):
        function = in_order = np.fmin if name == "min" else np.fmax

    def run(batch: Batch, active: Active) -> None:
        where = address(batch, active)
        values = [np.broadcast_to(np.asarray(read(batch, active), dtype), where.shape) for read in reads]
        old = np.empty(where.size, dtype)
        for access in batch.accesses(space, where, dtype.itemsize, active, ins, "atomic access"):
            batch.check_atomic(access)
            cells, chosen = access.offsets // dtype.itemsize, access.chosen
            own = values if chosen is None else [value[chosen] for value in values]
            view = access.region.view(dtype)
            if dead and in_order is not None:
                in_order.at(view, cells, *own)  # NumPy applies them one by one, in order
                continue
            old[slice(None) if chosen is None else chosen] = _one_by_one(view, cells, own, function)
        if not dead:
            write(batch, active, old)

    return run


def _one_by_one(view: Array, cells: Array, values: list[Array], function: Callable[..., Any]) -> Array:
    """Round after round, the first lane that is left at each address takes its turn; the old values."""
    old = np.empty(cells.size, view.dtype)
    left = np.arange(cells.size)
    while left.size:
        _, first = np.unique(cells[left], return_index=True)
        turn = left[first]
        here = cells[turn]
        old[turn] = view[here]
        view[here] = function(old[turn], *[value[turn] for value in values])
        rest = np.ones(left.size, bool)
        rest[first] = False
        left = left[rest]
    return old
