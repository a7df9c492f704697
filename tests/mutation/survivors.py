"""The mutants that no test can notice: ``survivors.txt``, and whether what it lists is still true."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.mutation.mutants import Mutant

__all__ = ["gone", "known_survivors"]


LIST = Path(__file__).with_name("survivors.txt")


def known_survivors(path: Path = LIST) -> set[str]:
    """The entries, without their reasons, which are indented."""
    lines = path.read_text().splitlines()
    return {line for line in lines if line and line[0] not in "# "}


def gone(known: set[str], mutants: Iterable[Mutant], modules: list[str]) -> list[str]:
    """The entries about these modules that are no mutants any more."""
    there = {str(mutant) for mutant in mutants}
    return sorted(entry for entry in known - there if entry.split("  ")[0] in modules)
