"""Numba's bounds checks: a loop that leaves its arrays raises, and no loop of nbops does.

``make bounds`` runs the whole suite with them; here a process runs every row of the table once.
"""

from __future__ import annotations

from typing import Any


def test_a_loop_that_leaves_its_arrays_raises(run_python: Any) -> None:
    run_python(
        """
        import numpy as np, nbops

        @nbops.op("(n)->(n)", name="bounds_test_shift")
        def shift(x, out):
            for i in nbops.prange(x.shape[0]):
                out[i] = x[i + 1]

        for target in ("serial", "parallel", None, "python", None):
            for shape in ((1, 7), (50, 7)):
                try:
                    shift(np.ones(shape), target=target)
                except IndexError as error:
                    assert "out of bounds" in str(error), error
                else:
                    raise SystemExit(f"nothing was raised on {target}")
        assert nbops.add(np.ones(3), 1.0).tolist() == [2, 2, 2]
        """,
        NUMBA_BOUNDSCHECK="1",
    )


def test_checked_code_is_kept_apart_in_the_cache(run_python: Any, tmp_path: Any) -> None:
    """A process without checks must not load code with them, nor the other way round."""
    source = """
        import sys, numpy as np, nbops

        @nbops.op("(n)->(n)", name="bounds_test_reader")
        def reader(x, out):
            for i in range(x.shape[0]):
                out[i] = x[i + 1]

        try:
            reader(np.ones((2, 3)))
            print("silent")
        except IndexError:
            print("raised")
    """
    cache = str(tmp_path / "cache")
    for flag, wanted in ((None, "silent"), ("1", "raised"), (None, "silent"), ("1", "raised")):
        assert run_python(source, NUMBA_CACHE_DIR=cache, NUMBA_BOUNDSCHECK=flag).stdout.strip() == wanted


def test_no_loop_of_nbops_leaves_its_arrays(run_python: Any) -> None:
    """Each op once; `make bounds` runs the whole suite so. A checked parallel loop is the serial one."""
    done = run_python(
        """
        import numpy as np, nbops
        from nbops.testing import LAYOUTS
        from tests.cases import CASES, assert_close

        rng = np.random.default_rng(0)
        for case in CASES:
            operands = [LAYOUTS["sliced"](x) for x in case.draw(rng, case.shapes[0])]
            with nbops.use("serial"):
                assert_close(case.function(*operands), case.expected(operands), case, case.shapes[0])
        """,
        NUMBA_BOUNDSCHECK="1",
        timeout=600,
    )
    assert not done.stderr, done.stderr
