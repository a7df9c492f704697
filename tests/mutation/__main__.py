"""Run the mutants: ``python -m tests.mutation [--sample N] [--seed S] [module ...]``.

The tests run in the interpreter (``NUMBA_DISABLE_JIT=1``; no compile), first as they are: unless all pass,
nothing else happens. Then a sample of the mutants, drawn with a fixed seed, or all with ``--sample 0``, each
with the tests that execute it. Exits with 1 when fewer than 90 % are killed. Survivors are printed as
``module:line  before -> after  in  statement``. Those known to mean the same are listed like that, without
the line, in ``survivors.txt``, with reasons; they count as survivors too. The list must be right: an entry
that is no mutant any more, or that a test kills, makes the exit code 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

os.environ["NUMBA_DISABLE_JIT"] = "1"
os.environ["NBOPS_TENSORFLOW_OPS"] = "numpy_function"

import hypothesis  # noqa: F401  (imported before the fork: it is what takes time)
import ml_dtypes  # noqa: F401
import numba  # noqa: F401
import numpy  # noqa: F401
import tensorflow  # noqa: F401

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.session import OUTPUT, Session, in_child, is_killed_when_imported
from tests.mutation.survivors import gone, known_survivors

ROOT = Path(__file__).parents[2]
MODULES = [
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "nbops/ops").glob("[a-z]*.py")),
    "nbops/dispatch.py",
    "nbops/settings.py",
]
TESTS = [
    "tests/test_interpreted.py",
    "tests/test_values.py",
    "tests/test_gradients.py",
    "tests/test_semantics.py",
    "tests/test_dispatch_rules.py",
    "tests/test_promotion.py",
    "tests/test_dask.py::test_values",
    "tests/test_dask.py::test_a_call_becomes_the_quickest_ops",
    "tests/tensorflow/test_ops.py",
    "tests/tensorflow/test_semantics.py",
    "-k",
    "not serial and not parallel and not asked_for and not can_be_replaced and (not test_dask or ragged"
    " or quickest) or test_dispatch_rules",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES, help="nbops/ops and the dispatcher")
    parser.add_argument("--sample", type=int, default=300, metavar="N", help="how many; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sources = {module: (ROOT / module).read_text() for module in options.modules}
    mutants = [
        m for module, source in sources.items() for m in mutants_of(module, str(ROOT / module), source)
    ]
    known = known_survivors()
    wrong = [f"no mutant any more: {entry}" for entry in gone(known, mutants, options.modules)]
    if options.sample and options.sample < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.sample)
    originals = {module: compile(source, str(ROOT / module), "exec") for module, source in sources.items()}
    begun = time.monotonic()
    results = in_child(lambda: run_session(mutants, originals), 24 * 3600)
    if isinstance(results, str) or results is None:
        print(results or "the session ended early", file=sys.stderr)
        return 1
    killed = 0
    listed = 0
    for mutant, (is_killed, names, seconds) in zip(mutants, results, strict=True):
        if not mutant.is_inside:
            is_killed = is_killed_when_imported(mutant, names, seconds)
        is_known = str(mutant) in known
        killed += is_killed
        listed += is_known and not is_killed
        if is_killed and is_known:
            wrong.append(f"killed: {mutant}")
        if not is_killed:
            reason = " (listed)" if is_known else "" if names else " (no test executes it)"
            where = str(mutant).replace(mutant.module, f"{mutant.module}:{mutant.lines[0]}", 1)
            print(f"{where}{reason}", flush=True)
    for entry in wrong:
        print(f"tests/mutation/survivors.txt lists what is {entry}", file=sys.stderr)
    print(
        f"{killed} of {len(mutants)} mutants killed ({100 * killed / max(len(mutants), 1):.1f} %), "
        f"{listed} known survivors; {time.monotonic() - begun:.0f} s, seed {options.seed}"
    )
    return 0 if killed >= 0.9 * len(mutants) and not wrong else 1


def run_session(
    mutants: list[Mutant], originals: dict[str, object]
) -> list[tuple[bool, list[str], float]] | str:
    """Of each mutant: whether it was killed, who can notice it, and how long that may take."""
    results: list[tuple[bool, list[str], float]] = []

    def report(mutant: Mutant, is_killed: bool, names: list[str], seconds: float) -> None:
        results.append((is_killed, names, seconds))
        if len(results) % 20 == 0:
            killed = sum(result[0] for result in results)
            os.write(OUTPUT, f"  {len(results)} of {len(mutants)} run, {killed} killed so far\n".encode())

    session = Session(TESTS, mutants, originals, ROOT)
    code = session.run(report)
    return results if len(results) == len(mutants) else session.problem or f"pytest ended with {code}"


if __name__ == "__main__":
    sys.exit(main())
