"""One batch item on several cores, by cutting a core axis: each gets the loop's own task and a smaller frame.

An op that says ``matvec.split("m", reduced="n")`` has the results for some rows side by side. So a core can
run the serial task on a frame that describes those rows alone::

    frame    a [1000, 50]   x [50]   out [1000]
    piece    a[250:500]     x        out[250:500]       any core takes any piece

Nothing is compiled for it but this file, once for the operands that are cut. Numba's parallel compiler takes
seconds for each loop and dtype, and the code that it made of a matvec of 10000 x 64 took twice as long on two
cores as the serial task on one.
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

FRAME_AT, ITEM, PIECES = 0, 1, 2  # what a worker is told: where the frame is, an item of it, how many pieces
PIECES_EACH = 4  # for each worker, so that one who is through early finds more
AXIS = 0  # which core axis is cut
IS_CUT: tuple[bool, ...] = ()  # for each operand, whether it is its first core axis; others are needed whole


def piece_address() -> int:
    """Stands in for the address of `run_piece`."""
    raise NotImplementedError


def spread(task: int, frame: int, items: int, workers: int, grain: int) -> None:
    """Stands in for the parallel loop of `nbops.targets.cpu`."""
    raise NotImplementedError


def run_cut(frame: Any, start: int, stop: int) -> None:
    """The parallel task: each item in pieces."""
    told, workers = new_words(3), frame[WORKERS]
    told[FRAME_AT], told[PIECES] = address_of(frame), min(max(1, frame[CORE + AXIS]), PIECES_EACH * workers)
    for item in range(start, stop):
        told[ITEM] = item
        spread(piece_address(), address_of(told), told[PIECES], workers, 1)


def run_piece(told: Any, start: int, stop: int) -> None:
    """Run the serial task on the pieces start to stop, as one."""
    frame, piece = frame_pointer(told[FRAME_AT]), new_words((1 + len(IS_CUT)) * WIDTH)
    length, pieces = frame[CORE + AXIS], told[PIECES]
    first, last = length * start // pieces, length * stop // pieces
    for row in range(1 + len(IS_CUT)):  # an item has no batch axes
        for word in range(row * WIDTH, row * WIDTH + CORE + MAX_CORE):
            piece[word] = frame[word]
    piece[ITEMS], piece[BATCH_RANK], piece[WORKERS], piece[CORE + AXIS] = 1, 0, 1, last - first
    for operand in range(len(IS_CUT)):
        row = 1 + operand
        offset = item_offset(frame, row, told[ITEM])
        if IS_CUT[operand]:
            offset += first * frame[row * WIDTH + CORE]
        piece[row * WIDTH + POINTER] += offset
    call_task(frame[SERIAL], address_of(piece), 0, 1)


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
    name = signature.axis_names[axis]
    return _task_for(axis, tuple(name in own for own in signature.operands))


@functools.cache
def _task_for(axis: int, leads: tuple[bool, ...]) -> Any:
    name = f"{axis}_{''.join('cut' if lead else 'whole' for lead in leads)}"
    names = {"AXIS": axis, "IS_CUT": leads}
    with global_compiler_lock:
        piece = compiler.native(TASK, compiler.specialise(run_piece, name, **names))
        compiler.name_task(f"nbops_piece_{name}", piece)
        names |= {"piece_address": compiler.task_address(f"nbops_piece_{name}")}
        twin = compiler.specialise(run_cut, name, spread=cpu.spread_compiled(), **names)
        task = compiler.native(TASK, twin)
    task.piece = piece
    return task
