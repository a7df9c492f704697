"""Every op on operands of any dtype, shape and layout, on every target: no crash, no mismatch.

1,500 calls in the suite; 24,000 with ``make fuzz``, ``pytest -m fuzz --hypothesis-profile=nightly``, in eight
parts of 3,000. A process keeps all kernels that it has compiled, some gigabytes of them for all parts, so
``make fuzz`` starts one for each. The seed is printed; ``NBOPS_FUZZ_SEED`` sets it.
"""

from __future__ import annotations

import functools
import os
import secrets
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import nbops
from nbops.testing.on_arrays import wrapped
from nbops.testing.strategies import calls
from nbops.testing.subject import Subject, available_targets
from tests.cases import BFLOAT16, CASES, Case, as_list, assert_close

#: They take the positions of a row's elements, each once: a layout that repeats them makes another operand.
NEED_POSITIONS = ("find_label", "one_hot")

PROFILE = settings.get_current_profile_name()
PROFILE = PROFILE if PROFILE in ("ci", "nightly") else "ci"
NIGHTLY = PROFILE == "nightly"
SEED = int(os.environ.get("NBOPS_FUZZ_SEED") or (secrets.randbits(32) if NIGHTLY else 0))

#: Each costs a compile per op and layout, so that the suite leaves the narrow integers to the night.
FLOATS = ("float64", "float32", "float16", BFLOAT16)
INTEGERS = ("int64", "int32", *(("int8", "uint8", "int16", "uint16", "uint32", "uint64") if NIGHTLY else ()))


@functools.cache
def subject_of(name: str) -> tuple[Case, Subject]:
    case = next(case for case in CASES if case.name == name)
    rng = np.random.default_rng(0)
    examples = [case.draw(rng, shapes) for shapes in case.shapes]
    return case, Subject(case.function, case.op, examples, case.oracle, case.draw, steps=case.steps)


def on_tensors(case: Case, operands: list[Any]) -> Any:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    plain = [np.ascontiguousarray(x).reshape(x.shape) for x in operands]
    return as_list(case.function(*(tf.constant(x.astype(x.dtype.newbyteorder("="))) for x in plain)))


def has_no_class(case: Case, operands: list[Any]) -> bool:
    """Whether there are labels, but no classes: on tensors, no label is right then."""
    labels = case.op.labels if case.op is not None else None
    if labels is not None:
        return bool(operands[labels.rows].shape[-1] == 0)
    return case.name.startswith("sparse_categorical") and 0 in operands[1].shape


@pytest.mark.fuzz
@pytest.mark.parametrize("part", [f"part{number}" for number in range(8 if NIGHTLY else 1)])
def test_any_call(part: str, request: pytest.FixtureRequest) -> None:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nfuzz: profile {PROFILE}, {part}, NBOPS_FUZZ_SEED={SEED}")
    drawn = settings(settings.get_profile(PROFILE))(given(st.data())(check_any_call))
    seed(SEED + int(part.removeprefix("part")))(drawn)()


def check_any_call(data: Any) -> None:
    case, subject = subject_of(
        data.draw(st.sampled_from([case.name for case in CASES if case.name not in NEED_POSITIONS]))
    )
    targets = ["auto", *available_targets()[0], *(["tensorflow"] if "tensorflow" in sys.modules else [])]
    target = data.draw(st.sampled_from(targets))
    dtypes = FLOATS if target == "tensorflow" else (*FLOATS, *INTEGERS)
    call = data.draw(calls(subject, dtypes, max_side=6))
    operands = call.operands()
    expected = subject.expected(operands)
    if target == "tensorflow":
        try:
            results = on_tensors(case, operands)
        except Exception as error:
            if type(error).__name__ == "InvalidArgumentError" and has_no_class(case, operands):
                return
            raise
    else:
        with nbops.use(target):
            for _ in range(2 if target == "auto" else 1):  # the second takes the short way
                results = as_list(case.function(*operands))
    if expected is not None:
        wanted = [wrapped(x, y.dtype) for x, y in zip(expected, results, strict=True)]
        assert_close(tuple(results), wanted, case, call.shapes)


@pytest.mark.parametrize(
    ("dtype", "values", "held"),
    [
        ("int8", [127.0, 128.0, -129.0], [127, -128, 127]),
        ("int8", [0.5, 300.0], [0.5, 300.0]),
        ("float16", [65504.0, 132158.0, -1e6, 0.1, np.nan], [65504, np.inf, -np.inf, 0.1, np.nan]),
        (BFLOAT16, [1e38, -1e39, 0.1], [1e38, -np.inf, 0.1]),
        ("float64", [1e300, np.inf], [1e300, np.inf]),
    ],
)
def test_what_a_result_of_a_dtype_can_be(dtype: Any, values: list[float], held: list[float]) -> None:
    np.testing.assert_array_equal(wrapped(np.array(values), np.dtype(dtype)), held)
