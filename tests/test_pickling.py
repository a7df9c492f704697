"""Ops are copied and pickled: nbops's by name, a script's as code, or by name where nothing else can."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import nbops


def test_a_copy_of_an_op_is_the_op() -> None:
    for op in (nbops.matmul, nbops.exp):
        assert copy.copy(op) is copy.deepcopy([op])[0] is pickle.loads(pickle.dumps(op)) is op


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("has_cloudpickle", [True, False])
def test_an_op_of_a_script_is_what_a_pool_maps(run_python: Any, method: str, has_cloudpickle: bool) -> None:
    if has_cloudpickle:
        pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")
    run_python(
        """
        import multiprocessing, sys
        if sys.argv[2] == "False":
            sys.modules["cloudpickle"] = None
        import numpy as np, nbops

        factor = 3.0

        @nbops.elementwise
        def scaled(x):
            return x * type(x)(factor)

        @nbops.op("(n)->()")
        def largest(x, out):
            best = x[0]
            for i in range(x.shape[0]):
                best = max(best, x[i])
            out[()] = best

        if __name__ == "__main__":
            rows = [np.arange(4.0) + n for n in range(3)]
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                assert pool.map(largest, rows) == [3, 4, 5]
                for row, result in zip(rows, pool.map(scaled, rows)):
                    assert (result == 3 * row).all()
        """,
        method,
        str(has_cloudpickle),
    )


def test_two_ops_of_one_name_keep_their_numbers() -> None:
    pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")

    def times(factor: float) -> Any:
        def scaled_by_a_number(x: Any) -> Any:
            return x * type(x)(factor)

        scaled_by_a_number.__module__ = "__main__"
        return nbops.elementwise(scaled_by_a_number)

    double, triple = times(2), times(3)
    assert pickle.loads(pickle.dumps(triple)) is triple
    again = pickle.loads(pickle.dumps(double))
    np.testing.assert_array_equal(again(np.ones(3)), [2, 2, 2])
    np.testing.assert_array_equal(triple(np.ones(3)), [3, 3, 3])
