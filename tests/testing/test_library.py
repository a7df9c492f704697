"""Every row of the table of cases keeps every promise of `nbops.testing`."""

from __future__ import annotations

import numpy as np
import pytest

from nbops.testing import check
from tests.cases import CASES, Case, describe

pytestmark = pytest.mark.slow

#: Their second order is the loss's third, which has no rule.
FIRST_ORDER_ONLY = (
    "crossentropy_and_gradient",
    "crossentropy_from_logits_gradient",
    "crossentropy_from_probabilities_gradient",
)


def without(case: Case) -> list[str]:
    """What a row does not promise."""
    left_out = ["second_order"] if case.name in FIRST_ORDER_ONLY else []
    return left_out + (["refuses", "tensor_refuses"] if case.view else [])  # views are of anything


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_every_promise(case: Case, rng: np.random.Generator) -> None:
    check(
        case.function,
        examples=[case.draw(rng, shapes) for shapes in case.shapes[:3]],
        op=case.op,
        oracle=case.oracle,
        draw=case.draw,
        gradients=case.differentiable,
        steps=case.steps,
        without=without(case),
        calls=3,
    )
