"""One adapter per library, each imported by its own worker process only.

An adapter is a module with

- ``REQUIRES``: the modules that must be there for the library to count as installed,
- ``load()``: imports the library,
- ``describe()``: its versions and thread counts, JSON,
- ``KINDS``: for each kind of workload that the library does, a function of the inputs and the options that
  gives a `Case`. It may raise `Unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["MACHINE", "PEERS", "Case", "Unavailable"]

#: The libraries and their adapters, in the order of the rounds and of the table's columns.
PEERS = {
    "nbops": "nbops.compare.peers.on_nbops",
    "numpy": "nbops.compare.peers.on_numpy",
    "torch": "nbops.compare.peers.on_torch",
    "jax": "nbops.compare.peers.on_jax",
    "tensorflow": "nbops.compare.peers.on_tensorflow",
    "keras": "nbops.compare.peers.on_keras",
    "numexpr": "nbops.compare.peers.on_numexpr",
}

#: What takes its turn beside them, and has no result: the machine, which only does what nobody can leave out.
MACHINE = {"machine": "nbops.compare.peers.on_machine"}


class Unavailable(Exception):  # noqa: N818 - nothing went wrong
    """A library does not do this workload, or not in this form; the message says which part it lacks."""


class Case(NamedTuple):
    """A workload, ready to run.

    Parameters
    ----------
    run : function
        What is timed. It returns when the result is there.
    fetch : function
        The results as NumPy arrays by name, after a run.
    stateful : bool
        Whether a second run has another result, as a training step has.
    times : float
        How often a run does the workload.
    """

    run: Callable[[], Any]
    fetch: Callable[[], dict[str, Any]]
    stateful: bool = False
    times: float = 1


def holding(run: Callable[[], Any], to_numpy: Callable[[Any], Any]) -> Case:
    """A case whose one result is what `run` returns; fetching runs it once more."""
    return Case(run, lambda: {"out": to_numpy(run())})
