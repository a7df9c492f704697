"""softmax and its relatives on the emulated GPU: rows of every length, each read once where it fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import Op
from nbops.ops import logits as from_logits
from nbops.ops import losses
from nbops.ops.softmax import log_softmax_last, softmax_last
from nbops.ops.softmax_gradients import log_softmax_gradient, softmax_gradient
from tests.cases import as_list
from tests.targets.cuda import needs_compiler

pytestmark = needs_compiler

#: A few lanes, a whole warp with and without vectors, blocks, and rows beyond the registers.
LENGTHS = [1, 10, 32, 33, 128, 701, 2048, 8200, 8203]
IN_REGISTERS = [10, 128, 2048]
TO_ROWS = ["softmax", "log_softmax", "softmax_gradient", "log_softmax_gradient"]
ROWS = 5


def logits(rng: np.random.Generator, n: int, dtype: str) -> list[np.ndarray]:
    return [(3 * rng.normal(size=(ROWS, n))).astype(dtype)]


def pairs(rng: np.random.Generator, n: int, dtype: str) -> list[np.ndarray]:
    """Rows of length 1, so that totals don't grow with n, and an upstream gradient."""
    return [(rng.normal(size=(ROWS, n)) / np.sqrt(n)).astype(dtype), rng.normal(size=(ROWS, n)).astype(dtype)]


def labelled_logits(rng: np.random.Generator, n: int, dtype: str) -> list[np.ndarray]:
    """The second label is no element's, and neither is the last."""
    labels = rng.integers(0, n, ROWS)
    labels[1], labels[-1] = -1, n
    return [labels, *logits(rng, n, dtype)]


def labelled_probabilities(rng: np.random.Generator, n: int, dtype: str) -> list[np.ndarray]:
    """Some are clipped, among them the first row's label."""
    p = rng.uniform(-0.1, 1.1, (ROWS, n)).astype(dtype)
    labels, _ = labelled_logits(rng, n, dtype)
    p[0, labels[0]] = 0
    return [labels, p]


def with_upstream(draw: Callable[..., list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
    def drawn(rng: np.random.Generator, n: int, dtype: str) -> list[np.ndarray]:
        return [*draw(rng, n, dtype), rng.normal(size=ROWS).astype(dtype)]

    return drawn


OPS: dict[str, tuple[Op, Callable[..., list[np.ndarray]]]] = {
    "softmax": (softmax_last, logits),
    "log_softmax": (log_softmax_last, logits),
    "softmax_gradient": (softmax_gradient, pairs),
    "log_softmax_gradient": (log_softmax_gradient, pairs),
    "from_logits": (from_logits.crossentropy_from_logits, labelled_logits),
    "from_logits_and_gradient": (from_logits.crossentropy_and_gradient, with_upstream(labelled_logits)),
    "from_logits_gradient": (from_logits.crossentropy_from_logits_gradient, with_upstream(labelled_logits)),
    "from_probabilities": (losses.crossentropy_from_probabilities, labelled_probabilities),
    "from_probabilities_gradient": (
        losses.crossentropy_from_probabilities_gradient,
        with_upstream(labelled_probabilities),
    ),
}
THOROUGHLY = "softmax", "softmax_gradient"
POINTS = [
    *[("softmax", n, "float32", (9, 0)) for n in LENGTHS],
    *[("softmax_gradient", n, "float32", (9, 0)) for n in LENGTHS],
    *[(name, n, "float64", (12, 0)) for name in ("softmax", "softmax_gradient") for n in (10, 1024, 4099)],
    *[
        (name, n, "float32", (9, 0))
        for name in OPS
        if name not in ("softmax", "softmax_gradient")
        for n in (10, 2048, 8203)
    ],
    *[(name, 700, "float64", (9, 0)) for name in list(OPS)[1:]],
]


def run(op: Op, operands: list[np.ndarray], cc: tuple[int, int] = (9, 0)) -> tuple[Any, Any]:
    """The result and the counters of the only kernel."""
    with nbops.use("cuda-emulator", compute_capability=cc) as gpu:
        result = op(*operands)
    ((name, counters),) = gpu.counters.items()
    assert "in_registers" in name or "streamed" in name
    return result, counters


@pytest.mark.parametrize(("name", "n", "dtype", "cc"), POINTS)
def test_values(name: str, n: int, dtype: str, cc: Any, rng: np.random.Generator) -> None:
    op, draw = OPS[name]
    operands = draw(rng, n, dtype)
    results, _ = run(op, operands, cc)
    exact = op(*[x.astype(np.float64) if x.dtype.kind == "f" else x for x in operands], target="serial")
    for result, wanted in zip(as_list(results), as_list(exact), strict=True):
        assert result.dtype == dtype
        largest = np.nanmax(np.abs(wanted), initial=1)
        # each term carries a few roundings, and a tree of additions log2(n) more
        bound = (8 + 2 * np.log2(n)) * np.finfo(dtype).eps * largest
        np.testing.assert_allclose(result, wanted, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.parametrize("n", IN_REGISTERS)
@pytest.mark.parametrize("name", TO_ROWS)
def test_a_row_in_registers_is_read_once(name: str, n: int, rng: np.random.Generator) -> None:
    op, draw = OPS[name]
    operands = draw(rng, n, "float32")
    result, counters = run(op, operands)
    assert counters.global_loads.bytes == sum(x.nbytes for x in operands)
    assert counters.global_stores.bytes == result.nbytes
    assert counters.global_loads.ratio == counters.global_stores.ratio == 1
    if n % 4 == 0:
        sizes = {name for name in counters.instructions if name.startswith(("LDG", "STG"))}
        assert sizes == {"LDG.128", "STG.128"}


@pytest.mark.parametrize("name", ["softmax", "softmax_gradient"])
def test_a_row_beyond_the_registers_is_read_twice(name: str, rng: np.random.Generator) -> None:
    op, draw = OPS[name]
    operands = draw(rng, 8200, "float32")
    _, counters = run(op, operands)
    assert counters.global_loads.bytes == 2 * sum(x.nbytes for x in operands)
    assert counters.instructions["LDG.128"] == 2 * len(operands) * counters.instructions["STG.128"]


def test_loss_and_gradient_read_a_row_once(rng: np.random.Generator) -> None:
    op, draw = OPS["from_logits_and_gradient"]
    operands = draw(rng, 2048, "float32")
    _, counters = run(op, operands)
    assert counters.instructions["LDG.128"] == counters.instructions["STG.128"]
    assert counters.global_stores.bytes == operands[1].nbytes + ROWS * 4


def test_the_loss_reads_a_long_row_once(rng: np.random.Generator) -> None:
    operands = labelled_logits(rng, 8200, "float32")
    _, counters = run(from_logits.crossentropy_from_logits, operands)
    one_of_each_row = ROWS * (8 + 4)
    assert operands[1].nbytes < counters.global_loads.bytes <= operands[1].nbytes + one_of_each_row


SPECIAL = {
    "a NaN": lambda n: np.where(np.arange(n) == n // 2, np.nan, 1),
    "a NaN first": lambda n: np.where(np.arange(n) == 0, np.nan, 1),
    "inf": lambda n: np.where(np.arange(n) == n - 1, np.inf, 1),
    "-inf": lambda n: np.where(np.arange(n) % 3, -np.inf, 1),
    "-inf only": lambda n: np.full(n, -np.inf),
    "-inf and a NaN": lambda n: np.where(np.arange(n) == n // 3, np.nan, -np.inf),
    "huge": lambda n: np.where(np.arange(n) % 2, 3e38, -3e38),
    "in order": lambda n: np.arange(n) / 8,
    "the other way": lambda n: -np.arange(n) / 8,
}


@pytest.mark.parametrize("n", [10, 128, 8200])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_gradient", "from_logits"])
def test_special_values_as_in_the_loop(name: str, n: int) -> None:
    x = np.stack([make(n) for make in SPECIAL.values()]).astype(np.float32)
    op, _ = OPS[name]
    operands = {"from_logits": [np.arange(len(x)) % n, x], "softmax_gradient": [x, x]}.get(name, [x])
    result, _ = run(op, operands)
    np.testing.assert_allclose(result, op(*operands, target="serial"), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("n", [10, 2048, 8203])
def test_a_row_alone_gives_the_same_bits(n: int, rng: np.random.Generator) -> None:
    (x,) = logits(rng, n, "float32")
    together, _ = run(softmax_last, [x])
    alone, _ = run(softmax_last, [x[2].copy()])
    np.testing.assert_array_equal(together[2], alone)


def test_other_layouts_and_dtypes_run_the_loop(rng: np.random.Generator) -> None:
    (x,) = logits(rng, 12, "float32")
    with nbops.use("cuda-emulator") as gpu:
        np.testing.assert_allclose(
            nbops.softmax(x, axis=0), nbops.softmax(x, axis=0, target="serial"), rtol=1e-6
        )
    assert not any("in_registers" in name for name in gpu.counters)
