"""One batch item on several cores, by cutting a core axis: each gets the loop's own task and a smaller frame.

An op that says ``matvec.split("m", reduced="n")`` has the results for some rows side by side. So a core can
run the serial task on a frame that describes those rows alone::

    frame    a [1000, 50]   x [50]   out [1000]
    piece    a[250:500]     x        out[250:500]       any core takes any piece

Nothing is compiled for it but this file, once for a signature. Numba's parallel compiler takes seconds for
each loop and dtype, and the code that it made of a matvec of 10000 x 64 took twice as long on two cores as
the serial task on one.
"""

from __future__ import annotations

import functools
from typing import Any

from numba.core.compiler_lock import global_compiler_lock

from nbops import compiler
from nbops.frame import BATCH_RANK, CORE, ITEMS, MAX_CORE, POINTER, SERIAL, WIDTH, WORKERS, item_offset
from nbops.signature import Signature
from nbops.targets import cpu
from nbops.targets.tasks import TASK, call_task, frame_pointer
from nbops.targets.words import new_words
from nbops.tuned.pointers import address_of

__all__ = ["cut_task"]

WHOLE, ITEM, PIECES = 0, 1, 2  # what a worker is told: the frame's address, an item of it, in how many pieces
PIECES_EACH = 4  # for each worker, so that one who is through early finds more
AXIS = 0  # which core axis is cut
LEADS: tuple[bool, ...] = ()  # the operands whose first core axis it is; the others are needed whole


def piece_address() -> int:
    """Stands in for the address of `run_piece`."""
    raise NotImplementedError


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Stands in for the parallel loop of `nbops.targets.cpu`."""
    raise NotImplementedError


def run_cut(frame: Any, start: int, stop: int) -> None:
    """The parallel task: each item in pieces."""
    told, workers = new_words(3), frame[WORKERS]
    told[WHOLE], told[PIECES] = address_of(frame), min(max(1, frame[CORE + AXIS]), PIECES_EACH * workers)
    for item in range(start, stop):
        told[ITEM] = item
        spread(piece_address(), address_of(told), told[PIECES], workers, 1)


def run_piece(told: Any, start: int, stop: int) -> None:
    """Run the serial task on the pieces start to stop, as one."""
    frame, piece = frame_pointer(told[WHOLE]), new_words((1 + len(LEADS)) * WIDTH)
    length, pieces = frame[CORE + AXIS], told[PIECES]
    first, last = length * start // pieces, length * stop // pieces
    for row in range(1 + len(LEADS)):  # an item has no batch axes
        for word in range(row * WIDTH, row * WIDTH + CORE + MAX_CORE):
            piece[word] = frame[word]
    piece[ITEMS], piece[BATCH_RANK], piece[WORKERS], piece[CORE + AXIS] = 1, 0, 1, last - first
    for operand in range(len(LEADS)):
        row = 1 + operand
        offset = item_offset(frame, row, told[ITEM])
        if LEADS[operand]:
            offset += first * frame[row * WIDTH + CORE]
        piece[row * WIDTH + POINTER] += offset
    call_task(frame[SERIAL], address_of(piece), 0, 1)


@functools.cache
def cut_task(signature: Signature, axis: int) -> Any:
    """The parallel task of the ops of a signature that can be cut along a core axis.

    Parameters
    ----------
    signature : Signature
    axis : int
        From `nbops.pieces.leading_axis`.

    Returns
    -------
    cfunc
        Its ``address`` is that of the task, which runs the serial one that the launcher puts into the
        frame's header. Keep a reference as long as the address is in use.
    """
    name = f"{'_'.join(''.join(names) or 'number' for names in signature.operands)}_{axis}"
    leads = tuple(signature.axis_names[axis] in own for own in signature.operands)
    names = {"AXIS": axis, "LEADS": leads}
    with global_compiler_lock:
        piece = compiler.native(TASK, compiler.specialise(run_piece, name, **names))
        compiler.name_task(f"nbops_piece_{name}", piece)
        names |= {"piece_address": compiler.task_address(f"nbops_piece_{name}")}
        twin = compiler.specialise(run_cut, name, spread=cpu.spread_compiled(), **names)
        whole = compiler.native(TASK, twin)
    whole.piece = piece
    return whole
