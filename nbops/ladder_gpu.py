"""The ladder's rung on a GPU: timed where there is one; elsewhere, what an emulated one counts.

The emulator executes the kernels that a GPU would (see `nbops.targets.emulator`). It has no clock. What it
counts says how close a kernel comes to the least that it could do: sectors of global memory and wavefronts of
shared memory, each beside its ideal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbops import dispatch
from nbops.targets import cuda

if TYPE_CHECKING:
    from nbops.op import Op

__all__ = ["Emulated", "count", "run_on_gpu"]


class Emulated(NamedTuple):
    """What an emulated GPU counted for one call.

    Parameters
    ----------
    shapes : tuple of shapes
        The operands'.
    launches : int
        Of kernels.
    instructions : int
        A warp's count once.
    sectors, ideal_sectors : int
        Of 32 bytes of global memory: moved, and what would have been enough.
    wavefronts, ideal_wavefronts : int
        Of shared memory.
    error : float
        Against the same loop in float64.
    """

    shapes: tuple[tuple[int, ...], ...]
    launches: int
    instructions: int
    sectors: int
    ideal_sectors: int
    wavefronts: int
    ideal_wavefronts: int
    error: float

    def __str__(self) -> str:
        kernels = "1 kernel" if self.launches == 1 else f"{self.launches} kernels"
        shared = (
            f", {self.wavefronts:,} wavefronts of shared memory (ideal {self.ideal_wavefronts:,})"
            if self.wavefronts
            else ""
        )
        return (
            f"cuda-emulator counted {kernels}, {self.instructions:,} warp instructions, {self.sectors:,} "
            f"sectors of global memory (ideal {self.ideal_sectors:,}){shared}; it has no clock."
        )


def run_on_gpu(op: Op) -> Callable[..., Callable[[], Any]] | None:
    """Prepare a call that copies its operands to the GPU and its result back; None where there is no GPU."""
    if not cuda.available():
        return None
    return lambda inputs, outputs: partial(op, *inputs, out=_one_or_all(outputs), target="cuda")


def _one_or_all(outputs: Sequence[np.ndarray]) -> Any:
    """What ``out=`` takes."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def count(op: Op, values: Sequence[np.ndarray], error: Callable[[Any], float]) -> Emulated | None:
    """Execute one call on an emulated GPU; None where kernels can't be compiled for one.

    Parameters
    ----------
    op : Op
    values : sequence of ndarray
        The operands.
    error : function
        Of the result.
    """
    try:
        cuda.require("cuda-emulator")
    except RuntimeError:
        return None
    with dispatch.use("cuda-emulator") as device:
        result = op(*values)
    emulator = device.emulator
    counters = list(emulator.counters.values())
    memory = [traffic for c in counters for traffic in (c.global_loads, c.global_stores)]
    shared = [traffic for c in counters for traffic in (c.shared_loads, c.shared_stores)]
    return Emulated(
        shapes=tuple(x.shape for x in values),
        launches=sum(emulator.launches.values()),
        instructions=sum(sum(c.instructions.values()) for c in counters),
        sectors=sum(traffic.moved for traffic in memory),
        ideal_sectors=sum(traffic.ideal for traffic in memory),
        wavefronts=sum(traffic.moved for traffic in shared),
        ideal_wavefronts=sum(traffic.ideal for traffic in shared),
        error=error(result),
    )
