"""Frames: how arrays are described to compiled loops; pointers against NumPy's own strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from nbops import frame
from nbops.signature import Signature
from nbops.testing import LAYOUTS


def build(text: str, *arrays: np.ndarray) -> np.ndarray:
    """The frame of a call with these inputs and outputs."""
    table = Signature.parse(text).table
    geometry, built = frame.new_geometry(len(arrays)), frame.new_frame(len(arrays))
    for row, array in zip(geometry, arrays, strict=True):
        frame.describe(row, array)
    frame.build(table, geometry, built)
    return built


@pytest.mark.parametrize(
    ("text", "shapes", "rank", "items"),
    [
        ("(),()->()", [(3, 4), (3, 4), (3, 4)], 0, 12),  # one row of 12
        ("(),()->()", [(3, 4), (4,), (3, 4)], 1, 12),  # a repeated row
        ("(),()->()", [(2, 3, 4), (3, 4), (2, 3, 4)], 1, 24),  # the same, in two axes
        ("(),()->()", [(), (), ()], 0, 1),
        ("(),()->()", [(1, 1), (1,), (1, 1)], 0, 1),
        ("(),()->()", [(3, 1), (1, 4), (3, 4)], 1, 12),
        ("(n),(n)->()", [(5, 6, 7), (5, 6, 7), (5, 6)], 1, 30),
        ("(n),(n)->()", [(5, 6, 7), (6, 7), (5, 6)], 2, 30),
        ("(m,k),(k,n)->(m,n)", [(2, 3), (3, 4), (2, 4)], 0, 1),
        ("(),()->()", [(0, 4), (4,), (0, 4)], 1, 0),
    ],
)
def test_batch_axes_are_merged(text: str, shapes: Any, rank: int, items: int) -> None:
    built = build(text, *(np.zeros(shape) for shape in shapes))
    assert built[0, frame.BATCH_RANK] == rank
    assert built[0, frame.ITEMS] == items


@pytest.mark.parametrize(
    ("layouts", "expected"),
    [
        (("C", "C"), frame.CONTIGUOUS),
        (("row", "C"), frame.CONTIGUOUS),
        (("column", "C"), 1),
        (("C", "column"), 2),
        (("sliced", "C"), frame.GENERAL),
        (("C", "reversed"), frame.GENERAL),
        (("column", "sliced"), frame.GENERAL),
    ],
)
def test_layout_of_an_elementwise_call(layouts: Any, expected: int) -> None:
    x = np.ones((3, 4))
    made = {"C": x, "row": x[:1], "column": x[:, :1]} | {
        name: LAYOUTS[name](x) for name in ("sliced", "reversed")
    }
    built = build("(),()->()", *(made[layout] for layout in layouts), x.copy())
    assert built[0, frame.LAYOUT] == expected


@pytest.mark.parametrize(
    ("layout", "expected"),
    [("fortran", frame.GENERAL), ("sliced", frame.GENERAL), ("read_only", frame.CONTIGUOUS)],
)
def test_layout_of_a_product(layout: str, expected: int) -> None:
    a = LAYOUTS[layout](np.ones((3, 4)))
    assert build("(m,k),(k,n)->(m,n)", a, np.ones((4, 2)), np.ones((3, 2)))[0, frame.LAYOUT] == expected


def test_a_size_of_1_has_no_stride_that_matters() -> None:
    a = np.ones((3, 8))[:, ::8]
    assert build("(m,k),(k,n)->(m,n)", a, np.ones((1, 2)), np.ones((3, 2)))[0, frame.LAYOUT] == frame.GENERAL
    assert (
        build("(m,k),(k,n)->(m,n)", a[:1], np.ones((1, 2)), np.ones((1, 2)))[0, frame.LAYOUT]
        == frame.CONTIGUOUS
    )


@given(st.data())
@settings(max_examples=80, deadline=None, derandomize=True, database=None)
def test_item_offsets_visit_what_numpy_broadcasts(data: Any) -> None:
    """Reading each operand at the offsets of items 0, 1, 2, … gives some order of its broadcast elements,
    the same order for all operands.
    """
    shapes = data.draw(
        mutually_broadcastable_shapes(signature="(n),(n)->()", max_dims=4, min_side=1, max_side=3)
    )
    arrays = []
    for index, shape in enumerate((*shapes.input_shapes, shapes.result_shape)):
        axes = data.draw(st.permutations(range(len(shape))))
        values = np.arange(int(np.prod(shape)), dtype=np.int64) + 1000 * index
        arrays.append(values.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes)))
    built = build("(n),(n)->()", *arrays)
    batch = shapes.result_shape
    seen = []
    for row, array in enumerate(arrays, start=1):
        first = array[..., 0] if row <= 2 else array
        wanted = np.broadcast_to(first, batch)
        start = array.__array_interface__["data"][0]
        offsets = [frame.item_offset(built.ravel(), row, item) for item in range(int(built[0, frame.ITEMS]))]
        positions = dict(zip(*addresses(first, start), strict=True))
        visited = [positions[offset] for offset in offsets]
        assert sorted(visited) == sorted(wanted.ravel().tolist())
        seen.append(visited)
    together = {
        tuple(values)
        for values in zip(
            *(
                np.broadcast_to(a[..., 0] if i < 2 else a, batch).ravel().tolist()
                for i, a in enumerate(arrays)
            ),
            strict=True,
        )
    }
    assert set(zip(*seen, strict=True)) == together


def addresses(array: np.ndarray, start: int) -> tuple[list[int], list[int]]:
    """Byte offsets from `start`, and the values there."""
    places = list(np.ndindex(array.shape))
    base = array.__array_interface__["data"][0] - start
    offsets = [base + sum(i * s for i, s in zip(place, array.strides, strict=True)) for place in places]
    return offsets, [int(array[place]) for place in places]


def test_error_codes_come_back_whole() -> None:
    code = frame._error(2, 1, 63, 2, 7)
    assert frame.decode_error(code) == (2, 1, 63, 2, 7)


def test_count_steps() -> None:
    table = Signature.parse("(m,k),(k,n)->(m,n)").table
    built = build("(m,k),(k,n)->(m,n)", np.ones((6, 2, 3)), np.ones((3, 4)), np.ones((6, 2, 4)))
    assert frame.count_steps(table, built) == (6, 6 * 2 * 3 * 4)
