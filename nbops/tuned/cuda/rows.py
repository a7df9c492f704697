"""softmax, log_softmax and cross-entropy as launches of `nbops.tuned.cuda.row_kernels`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbops.ops import losses
from nbops.targets.cuda.kernels import Call, CudaKernel, Plan
from nbops.targets.cuda.loops import SERIAL, on_device
from nbops.targets.cuda.toolchain import device_function
from nbops.tuned.cuda import row_kernels, row_layout, warps
from nbops.tuned.cuda.helpers import add_helpers, helper

__all__ = [
    "crossentropy_and_gradient_plan",
    "crossentropy_from_logits_gradient_plan",
    "crossentropy_from_logits_plan",
    "crossentropy_from_probabilities_gradient_plan",
    "crossentropy_from_probabilities_plan",
    "log_softmax_plan",
    "softmax_plan",
]


# ---- what each op does with an element ----------------------------------------------------------------

ELEMENT: Any = None
clip: Any = None
is_clipped: Any = None


def itself(value: Any, own_term: Any) -> Any:
    """Keep the element, not its term."""
    return value


def logarithm(total: Any, upstream: Any) -> Any:
    """What log_softmax takes from all elements of a row, beside the peak."""
    return math.log(total)


def below(value: Any, peak: Any, shared: Any) -> Any:
    """A log_softmax: the element without the peak and the sum's logarithm."""
    return value - peak - shared


def upstream_share(total: Any, upstream: Any) -> Any:
    """A gradient's factor of the whole row: the upstream gradient over the sum."""
    return upstream / total


def clipped_term(value: Any, peak: Any) -> Any:
    """What a probability adds to the total: itself, clipped."""
    return clip(value)


def share_unless_clipped(value: Any, peak: Any, shared: Any) -> Any:
    """The gradient of a probability that is not the label's: 0 where it was clipped."""
    return ELEMENT(0) if is_clipped(value) else shared


def label_unless_clipped(value: Any, finished: Any, upstream: Any) -> Any:
    """The gradient of the labelled probability: what others have, less that of its logarithm."""
    return finished if is_clipped(value) else finished - upstream / value


def clipped_loss(value: Any, peak: Any, total: Any) -> Any:
    """Cross-entropy of one row: minus the logarithm of the label's normalized probability."""
    return math.log(total) - math.log(clip(value))


@dataclass(frozen=True)
class Rule:
    """What an op computes: functions that take the places of their namesakes in `row_kernels`.

    Parameters
    ----------
    x : str
        The name of the row that is read.
    row, number : str
        The names of the row and of the number that are written; empty for none.
    has_peak : bool
    has_label : bool
        Whether what is written depends on a label.
    functions : tuple of (str, function)
    """

    name: str
    x: str = "x"
    row: str = "out"
    number: str = ""
    has_peak: bool = True
    has_label: bool = False
    functions: tuple[tuple[str, Callable[..., Any]], ...] = ()


PROBABILITIES = ("term", clipped_term), ("kept", itself)
SOFTMAX = Rule("softmax")
LOG_SOFTMAX = Rule("log_softmax", functions=(("kept", itself), ("share", logarithm), ("finish", below)))
FROM_LOGITS = Rule("crossentropy_from_logits", row="", number="out", has_label=True)
UPSTREAM = ("share", upstream_share)
FROM_LOGITS_GRADIENT = Rule("crossentropy_from_logits_gradient", has_label=True, functions=(UPSTREAM,))
LOSS_AND_GRADIENT = Rule(
    "crossentropy_and_gradient", row="gradient", number="loss", has_label=True, functions=(UPSTREAM,)
)
FROM_PROBABILITIES = Rule(
    "crossentropy_from_probabilities",
    x="p",
    row="",
    number="out",
    has_peak=False,
    has_label=True,
    functions=(*PROBABILITIES, ("loss", clipped_loss)),
)
FROM_PROBABILITIES_GRADIENT = Rule(
    "crossentropy_from_probabilities_gradient",
    x="p",
    has_peak=False,
    has_label=True,
    functions=(
        *PROBABILITIES,
        UPSTREAM,
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


def crossentropy_and_gradient_plan(call: Call) -> Plan | None:
    """Both in one."""
    return row_plan(call, LOSS_AND_GRADIENT)


def crossentropy_from_probabilities_plan(call: Call) -> Plan | None:
    """Cross-entropy from probabilities."""
    return row_plan(call, FROM_PROBABILITIES)


def crossentropy_from_probabilities_gradient_plan(call: Call) -> Plan | None:
    """Its gradient."""
    return row_plan(call, FROM_PROBABILITIES_GRADIENT)


# ---- plans --------------------------------------------------------------------------------------------


def row_plan(call: Call, rule: Rule) -> Plan | None:
    """One launch; see `row_layout.plan`."""
    rows = [name for name in (rule.x, rule.row) if name]
    return row_layout.plan(call, rows, functools.partial(row_kernel, rule))


@functools.cache
def row_kernel(rule: Rule, dtype: np.dtype[Any], threads: int, count: int, aligned: bool) -> CudaKernel:
    """The kernel of a rule for one way to share a row; see `row_layout.plan`."""
    constants = row_layout.constants(dtype, threads, count, aligned)
    constants |= {
        "HAS_PEAK": rule.has_peak,
        "HAS_LABEL": rule.has_label,
        "HAS_ROW": bool(rule.row),
        "HAS_NUMBER": bool(rule.number),
        "clip": device_function(on_device(losses.clip, SERIAL)),
        "is_clipped": device_function(on_device(losses.is_clipped, SERIAL)),
    }
    functions = dict(rule.functions)
    for name in OWN:
        constants[name] = helper(functions.get(name, getattr(row_kernels, name)), constants)
    add_helpers(constants, HELPERS)
    # an op that lacks one of them is given its row in that place, and does not look at it
    label, upstream = ("label", "dout" if rule.row else rule.x) if rule.has_label else (rule.x, rule.x)
    operands = label, rule.x, upstream, rule.row or rule.x, rule.number or rule.x
    return CudaKernel(
        row_kernels.row_in_registers if count else row_kernels.streamed_row,
        ["items", "n", *(word for name in operands for word in (name, f"{name}_batch0"))],
        name=f"{rule.name}_{dtype.name}_{row_layout.shape_name(constants)}",
        max_threads=constants["BLOCK"],
        **constants,
    )


OWN = "term", "kept", "share", "finish", "finish_label", "loss"
#: In the order in which they call each other.
HELPERS = (
    warps.sum_of_lanes,
    warps.largest_of_lanes,
    warps.of_every_warp,
    warps.all_sum,
    warps.all_largest,
    row_kernels.this_row,
    row_kernels.position,
    row_kernels.read_chunk,
    row_kernels.write_chunk,
    row_kernels.read_row,
    row_kernels.peak_of,
    row_kernels.finish_chunk,
    row_kernels.chosen_of,
    row_kernels.put_number,
    row_kernels.rescaled,
    row_kernels.summarise,
)
