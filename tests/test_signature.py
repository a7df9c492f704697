"""Signatures: parsing, and the output shapes and messages derived from them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from nbops.signature import Signature

MATMUL = Signature.parse("(m,k),(k,n)->(m,n)")
NAMES = ("a", "b")


@pytest.mark.parametrize(
    ("text", "inputs", "outputs"),
    [
        ("(m,k),(k,n)->(m,n)", (("m", "k"), ("k", "n")), (("m", "n"),)),
        ("(),()->()", ((), ()), ((),)),
        (" ( n ) , ( n ) -> ( ) ", (("n",), ("n",)), ((),)),
        ("(m,k),(m,n)->(k,n),(n)", (("m", "k"), ("m", "n")), (("k", "n"), ("n",))),
        ("(rows,k_2)->(k_2)", (("rows", "k_2"),), (("k_2",),)),
    ],
)
def test_parse(text: str, inputs: Any, outputs: Any) -> None:
    signature = Signature.parse(text)
    assert signature.inputs == inputs
    assert signature.outputs == outputs
    assert Signature.parse(str(signature)) == signature


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(n)", "exactly one '->'"),
        ("(n)->(n)->(n)", "exactly one '->'"),
        ("n->n", "expected an operand"),
        ("(n)->", "expected an operand"),
        ("(n)(m)->(n)", "expected ','"),
        ("(n),->(n)", "expected an operand"),
        ("(3)->()", "expected an operand"),
        ("(m?)->()", "expected an operand"),
        ("(n)->(k)", "no input has the output's axis 'k'"),
        ("(a,b,c,d,e,f,g,h,i)->()", "at most 8 core axes"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Signature.parse(text)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(3, 4), (4, 5)], (3, 5)),
        ([(2, 3, 4), (4, 5)], (2, 3, 5)),
        ([(2, 1, 3, 4), (7, 4, 5)], (2, 7, 3, 5)),
        ([(0, 3, 4), (1, 4, 5)], (0, 3, 5)),
        ([(-1, 4), (4, 5)], (-1, 5)),
        ([(3, -1), (4, -1)], (3, -1)),
        ([(-1, 3, 4), (4, 5)], (-1, 3, 5)),
        ([(-1, 3, 4), (1, 4, 5)], (-1, 3, 5)),
        ([(-1, 3, 4), (7, 4, 5)], (7, 3, 5)),
        ([(1, 3, 4), (-1, 4, 5)], (-1, 3, 5)),
    ],
)
def test_infer(shapes: Any, expected: Any) -> None:
    assert MATMUL.infer(shapes, "matmul", NAMES) == [expected]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 4), (5, 2)], r"a is \(3, 4\) and b is \(5, 2\); a.shape\[-1\] must equal b.shape\[-2\]"),
        ([(-1, 4), (5, 2)], r"a is \(\?, 4\) and b is \(5, 2\)"),
        ([(4,), (4, 2)], r"a is \(4,\); it must have at least 2 axes"),
        ([(2, 3, 4), (3, 4, 5)], r"must broadcast"),
        ([(1,) * 65, (1, 1)], r"at most 64 axes"),
        ([(2**40, 1), (1, 2**40)], r"2\*\*63 - 1 bytes"),
    ],
)
def test_infer_errors(shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MATMUL.infer(shapes, "matmul", NAMES)


def test_an_axis_named_twice_by_one_operand() -> None:
    square = Signature.parse("(n,n)->()")
    assert square.infer([(2, 3, 3)], "trace", ["a"]) == [(2,)]
    with pytest.raises(ValueError, match=r"trace: a is \(2, 3\); a.shape\[-2\] must equal a.shape\[-1\]"):
        square.infer([(2, 3)], "trace", ["a"])


def test_swap() -> None:
    assert str(MATMUL.swap(True, False)) == "(k,m),(k,n)->(m,n)"
    assert MATMUL.swap(True, True).swap(True, True) == MATMUL


def test_elementwise() -> None:
    assert Signature.parse("(),()->()").is_elementwise
    assert not MATMUL.is_elementwise


@given(st.data(), st.sampled_from(["(m,k),(k,n)->(m,n)", "(n),(n)->()", "(),(n),()->(n)", "(),()->()"]))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_shapes_that_fit_are_inferred_as_numpy_would(data: Any, text: str) -> None:
    """Hypothesis draws shapes by NumPy's own rules; an unknown length may stand in for any of them."""
    shapes = data.draw(mutually_broadcastable_shapes(signature=text, max_dims=4, min_side=0, max_side=4))
    signature = Signature.parse(text)
    names = "abc"[: len(shapes.input_shapes)]
    (result,) = signature.infer(shapes.input_shapes, "op", names)
    assert result == shapes.result_shape
    hidden = [tuple(-1 if data.draw(st.booleans()) else n for n in shape) for shape in shapes.input_shapes]
    (partial,) = signature.infer(hidden, "op", names)
    assert len(partial) == len(result)
    assert all(known in (-1, n) for known, n in zip(partial, result, strict=True))


@given(st.data())
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_shapes_that_do_not_broadcast_raise(data: Any) -> None:
    shapes = data.draw(
        mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, min_side=2, max_side=4)
    )
    first, second = shapes.input_shapes
    if first and second:
        wrong = (*second[:-1], 5 if first[-1] > 1 else second[-1])
        if wrong[-1] != second[-1]:
            with pytest.raises(ValueError, match="must broadcast"):
                Signature.parse("(),()->()").infer([first, wrong], "add", "xy")
