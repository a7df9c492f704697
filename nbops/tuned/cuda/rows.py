"""softmax, log_softmax and cross-entropy as launches of `nbops.tuned.cuda.row_kernels`.

A row that fits into registers is read once; how many threads share it depends on its length::

    up to 32 elements                lanes of a warp, one element each
    up to 32 · COUNT                 a warp
    up to 512 · COUNT                a block
    longer                           a block, which reads it once more

COUNT is how many elements a thread holds: 16 float32, or 8 float64. A block of 1024 threads would leave each
of them 64 of the 65,536 registers, too few for that without a stack.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops import compiler
from nbops.frame import CONTIGUOUS
from nbops.ops import losses
from nbops.targets.cuda.kernels import Call, CudaKernel, Launch, Plan
from nbops.targets.cuda.loops import NARROW, SERIAL, on_device
from nbops.targets.cuda.toolchain import array_type, device_function, types
from nbops.tuned.cuda import row_kernels, warps
from nbops.tuned.cuda.vectors import VECTOR_BYTES

__all__ = [
    "CAPACITY_BYTES",
    "crossentropy_from_logits_gradient_plan",
    "crossentropy_from_logits_plan",
    "crossentropy_from_probabilities_gradient_plan",
    "crossentropy_from_probabilities_plan",
    "log_softmax_plan",
    "softmax_plan",
]

#: What a thread holds of a row, in bytes.
CAPACITY_BYTES = 64
SMALL_BLOCK, STREAMING_BLOCK = 128, 1024
LARGEST_GRID = 2**31 - 1


# ---- what each op does with an element ----------------------------------------------------------------

ELEMENT: Any = None
clip: Any = None
is_clipped: Any = None


def itself(value: Any, own_term: Any) -> Any:
    return value


def logarithm(total: Any, upstream: Any) -> Any:
    return math.log(total)


def below(value: Any, peak: Any, shared: Any) -> Any:
    return value - peak - shared


def upstream_share(total: Any, upstream: Any) -> Any:
    return upstream / total


def clipped_term(value: Any, peak: Any) -> Any:
    return clip(value)


def share_unless_clipped(value: Any, peak: Any, shared: Any) -> Any:
    return ELEMENT(0) if is_clipped(value) else shared


def label_unless_clipped(value: Any, finished: Any, upstream: Any) -> Any:
    return finished if is_clipped(value) else finished - upstream / value


def clipped_loss(value: Any, peak: Any, total: Any) -> Any:
    return math.log(total) - math.log(clip(value))


@dataclass(frozen=True)
class Rule:
    """What an op computes: functions that take the places of their namesakes in `row_kernels`.

    Parameters
    ----------
    x : str
        The row's name.
    to_number : bool
        Whether the result is a number, or a row.
    has_peak : bool
    has_label : bool
        Whether the row that is written depends on a label.
    functions : tuple of (str, function)
    """

    name: str
    x: str = "x"
    to_number: bool = False
    has_peak: bool = True
    has_label: bool = False
    functions: tuple[tuple[str, Callable[..., Any]], ...] = ()


PROBABILITIES = ("term", clipped_term), ("kept", itself)
SOFTMAX = Rule("softmax")
LOG_SOFTMAX = Rule("log_softmax", functions=(("kept", itself), ("share", logarithm), ("finish", below)))
FROM_LOGITS = Rule("crossentropy_from_logits", to_number=True)
FROM_LOGITS_GRADIENT = Rule(
    "crossentropy_from_logits_gradient", has_label=True, functions=(("share", upstream_share),)
)
FROM_PROBABILITIES = Rule(
    "crossentropy_from_probabilities",
    x="p",
    to_number=True,
    has_peak=False,
    functions=(*PROBABILITIES, ("loss", clipped_loss)),
)
FROM_PROBABILITIES_GRADIENT = Rule(
    "crossentropy_from_probabilities_gradient",
    x="p",
    has_peak=False,
    has_label=True,
    functions=(
        *PROBABILITIES,
        ("share", upstream_share),
        ("finish", share_unless_clipped),
        ("finish_label", label_unless_clipped),
    ),
)


def softmax_plan(call: Call) -> Plan | None:
    """softmax along the last axis."""
    return row_plan(call, SOFTMAX)


def log_softmax_plan(call: Call) -> Plan | None:
    """log_softmax along the last axis."""
    return row_plan(call, LOG_SOFTMAX)


def crossentropy_from_logits_plan(call: Call) -> Plan | None:
    """Cross-entropy from logits."""
    return row_plan(call, FROM_LOGITS)


def crossentropy_from_logits_gradient_plan(call: Call) -> Plan | None:
    """Its gradient."""
    return row_plan(call, FROM_LOGITS_GRADIENT)


def crossentropy_from_probabilities_plan(call: Call) -> Plan | None:
    """Cross-entropy from probabilities."""
    return row_plan(call, FROM_PROBABILITIES)


def crossentropy_from_probabilities_gradient_plan(call: Call) -> Plan | None:
    """Its gradient."""
    return row_plan(call, FROM_PROBABILITIES_GRADIENT)


# ---- plans --------------------------------------------------------------------------------------------


def row_plan(call: Call, rule: Rule) -> Plan | None:
    """One launch; None where rows don't lie contiguous, or are of another dtype."""
    dtype = call.dtypes[-1]
    n = call["n"]
    if dtype not in (np.float32, np.float64) or not 0 < n < NARROW:
        return None
    if call.layout != CONTIGUOUS or call.batch_rank > 1:
        return None
    rows = (rule.x,) if rule.to_number else (rule.x, "out")
    places = [call[name] for row in rows for name in (row, f"{row}_batch0")]
    aligned = n * dtype.itemsize % VECTOR_BYTES == 0 and not any(place % VECTOR_BYTES for place in places)
    threads, count = threads_and_count(n, dtype.itemsize)
    kernel = row_kernel(rule, dtype, threads, count, aligned and count != 1)
    block = max(threads, SMALL_BLOCK)
    blocks = -(-call["items"] * threads // block)
    return Plan([Launch(kernel, (blocks, 1, 1), (block, 1, 1))]) if blocks <= LARGEST_GRID else None


def threads_and_count(n: int, itemsize: int) -> tuple[int, int]:
    """How many threads share a row, and how many elements each holds; 0 where it does not fit."""
    capacity = CAPACITY_BYTES // itemsize
    for threads in 4, 8, 16, 32:
        if n <= threads:
            return threads, 1
    for count in VECTOR_BYTES // itemsize, 2 * VECTOR_BYTES // itemsize, capacity:
        if n <= warps.WARP * count:
            return warps.WARP, count
    for threads in 128, 256, 512:
        if n <= threads * capacity:
            return threads, capacity
    return STREAMING_BLOCK, 0


@functools.cache
def row_kernel(rule: Rule, dtype: np.dtype[Any], threads: int, count: int, aligned: bool) -> CudaKernel:
    """The kernel for one way to share a row.

    Parameters
    ----------
    rule : Rule
    dtype : dtype
    threads : int
        That share a row.
    count : int
        Elements that each holds; 0 for rows that don't fit into registers.
    aligned : bool
        Whether every row begins at a multiple of 16 bytes.
    """
    element = array_type(dtype, 1, "C", False).dtype
    block = max(threads, SMALL_BLOCK)
    constants: dict[str, Any] = {
        "ELEMENT": element,
        "LOWEST": dtype.type(-np.inf),
        "ITEMSIZE": dtype.itemsize,
        "WIDTH": VECTOR_BYTES // dtype.itemsize if aligned else 1,
        "THREADS": threads,
        "BLOCK": block,
        "COUNT": count,
        "SCRATCH": max(threads // warps.WARP, 1),
        "HAS_PEAK": rule.has_peak,
        "HAS_LABEL": rule.has_label,
        "index": types.uint32,
        "word": types.int64,
        "clip": device_function(on_device(losses.clip, SERIAL)),
        "is_clipped": device_function(on_device(losses.is_clipped, SERIAL)),
    }
    functions = dict(rule.functions)
    own = [functions.get(name, getattr(row_kernels, name)) for name in OWN]
    for name, function in zip(OWN, own, strict=True):
        constants[name] = device_function(compiler.specialise(function, "rows", **constants))
    for function in HELPERS:
        constants[function.__name__] = device_function(compiler.specialise(function, "rows", **constants))
    template, parameters = _template(rule, count)
    shape = f"{threads}x{count or 'any'}_{constants['WIDTH']}"
    name = f"{rule.name}_{dtype.name}_{shape}"
    return CudaKernel(template, parameters, name=name, max_threads=block, **constants)


OWN = "term", "kept", "share", "finish", "finish_label", "loss"
#: In the order in which they call each other.
HELPERS = (
    warps.sum_of_lanes,
    warps.largest_of_lanes,
    warps.all_sum,
    warps.all_largest,
    row_kernels.this_row,
    row_kernels.position,
    row_kernels.read_chunk,
    row_kernels.write_chunk,
    row_kernels.read_row,
    row_kernels.peak_of,
    row_kernels.finish_chunk,
    row_kernels.rescaled,
    row_kernels.summarise,
)


def _template(rule: Rule, count: int) -> tuple[Callable[..., Any], list[str]]:
    """The function, and the words that it takes."""
    names: tuple[str, ...]
    if rule.to_number:
        function = row_kernels.row_to_number if count else row_kernels.long_row_to_number
        names = ("label", rule.x, "out")
    else:
        function = row_kernels.row_to_row if count else row_kernels.long_row_to_row
        # an op without a label is given its row in those places, and looks at none
        names = ("label", rule.x, "dout", "out") if rule.has_label else (rule.x, rule.x, rule.x, "out")
    return function, ["items", "n", *(word for name in names for word in (name, f"{name}_batch0"))]
