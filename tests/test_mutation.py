"""The list of mutants that no test can notice is about the source as it is."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.mutants import mutants_of
from tests.mutation.survivors import gone, known_survivors

ROOT = Path(__file__).parents[1]
SOURCE = "def f(x, copy=False):\n    if x < 8:\n        return None\n    return x + 1\n"
LISTED = "# a comment\nm.py  x < 8 -> x <= 8  in  if x < 8:\n    the reason\nm.py  8 -> 9  in  if x < 9:\n"


def test_every_small_change_is_made_once() -> None:
    changes = [str(mutant) for mutant in mutants_of("m.py", "m.py", SOURCE)]
    assert sorted(changes) == [
        "m.py  1 -> 2  in  return x + 1",
        "m.py  8 -> 9  in  if x < 8:",
        "m.py  False -> True  in  def f(x, copy=False):",
        "m.py  if x < 8: -> if not x < 8:  in  if x < 8:",
        "m.py  return x + 1 -> return None  in  return x + 1",
        "m.py  x + 1 -> x - 1  in  return x + 1",
        "m.py  x < 8 -> x <= 8  in  if x < 8:",
    ]


def test_a_listed_mutant_that_is_gone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "survivors.txt"
    path.write_text(LISTED)
    known = known_survivors(path)
    mutants = list(mutants_of("m.py", "m.py", SOURCE))
    assert gone(known, mutants, ["m.py"]) == ["m.py  8 -> 9  in  if x < 9:"]
    assert gone(known, [], ["other.py"]) == [], "about other modules nothing is known"


def test_every_listed_survivor_is_a_mutant_of_the_source() -> None:
    known = known_survivors()
    modules = sorted({entry.split("  ")[0] for entry in known})
    mutants = [m for module in modules for m in mutants_of(module, module, (ROOT / module).read_text())]
    assert gone(known, mutants, modules) == []
