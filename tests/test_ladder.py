"""The ladder: its rungs, its figures, and the three ways to show them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import nbops
from nbops import ceilings
from nbops.__main__ import main
from nbops.execution import prepared
from nbops.ladder import SHAPES, Ladder, operands_of, shrunk, work
from nbops.op import registry
from nbops.targets import cuda

SMALL = {
    "relu": [(16, 20)],
    "add": [(16, 20), (20,)],
    "matmul": [(8, 12), (12, 10)],
    "softmax": [(8, 20)],
    "dense": [(8, 12), (12, 10), (10,)],
}


@pytest.fixture(scope="module")
def small() -> dict[str, Ladder]:
    return {name: nbops.ladder(name, *shapes, seconds=0.001) for name, shapes in SMALL.items()}


@pytest.mark.parametrize("name", SMALL)
def test_every_rung_is_right(name: str, small: dict[str, Ladder]) -> None:
    steps = small[name]
    assert [rung.name for rung in steps.rungs][:3] == ["interpreted", "serial", "parallel"]
    assert ("tuned" in [rung.name for rung in steps.rungs]) == (name in ("matmul", "dense"))
    for rung in steps.rungs:
        assert 0 <= rung.error < 1e-5, rung
        assert rung.seconds > 0
        assert rung.speedup == pytest.approx(rung.rate / steps.rungs[0].rate)


@pytest.mark.parametrize("name", SMALL)
def test_rates_and_shares_follow_from_times(name: str, small: dict[str, Ladder]) -> None:
    steps = small[name]
    limits = ceilings.measure("float32")
    for rung in steps.rungs:
        flops, moved = work(registry[steps.op], rung.shapes, "float32")
        amount = moved if steps.unit == "GB/s" else flops
        assert rung.rate == pytest.approx(amount / rung.seconds / 1e9)
        assert rung.share == pytest.approx(limits.seconds(flops, moved) / rung.seconds)


@pytest.mark.parametrize("target", ["python", "serial", "parallel"])
@pytest.mark.parametrize("name", ["relu", "matmul", "softmax"])
def test_a_prepared_call_can_be_made_again(name: str, target: str) -> None:
    """It is the loop alone: it reads the operands as they are then, and makes no new arrays."""
    op = registry[name]
    values = operands_of(op, tuple((6, 6) for _ in range(op.n_inputs)), "float64")
    out = np.full((6, 6), np.nan)
    call = prepared(op, values, [out], target)
    for factor in (1, -2):
        values[0] *= factor
        assert call() is None
        np.testing.assert_allclose(out, op(*values, target="python"), rtol=1e-12, atol=1e-12)


def test_work_is_counted() -> None:
    assert work(nbops.matmul, ((8, 12), (12, 10)), "float32") == (2 * 8 * 12 * 10, 4 * (96 + 120 + 80))
    assert work(nbops.add, ((16, 20), (20,)), "float64") == (320, 8 * (320 + 20 + 320))


def test_the_plain_loop_is_not_the_tuned_kernel(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 40, 40))
    written = nbops.matmul.as_written()
    assert nbops.matmul.kernel.is_tuned
    assert not written.kernel.is_tuned
    np.testing.assert_allclose(written(a, b, target="serial"), a @ b, rtol=1e-12, atol=1e-12)
    assert registry["matmul"] is nbops.matmul


def test_the_interpreter_gets_a_size_that_it_can_do() -> None:
    assert math.prod(shrunk(((1000, 8),), 3)[0]) == 125
    steps = nbops.ladder("relu", (4000, 1000), seconds=0.001)
    assert math.prod(steps.rungs[0].shapes[0]) < math.prod(steps.rungs[1].shapes[0])
    assert "The interpreter ran a smaller size" in str(steps)


def test_ceilings_are_plausible() -> None:
    limits = ceilings.measure("float32")
    assert 1.2 < limits.flops / ceilings.measure("float64").flops < 3  # twice as many in a vector
    assert 1e8 < limits.flops < 1e14
    assert 1e8 < limits.bandwidth < 1e13
    assert limits.seconds(10**9, 0) == pytest.approx(1e9 / limits.flops)
    assert limits.seconds(0, 10**9) == pytest.approx(1e9 / limits.bandwidth)


def test_it_shows_the_loop_and_a_line_for_each_rung(small: dict[str, Ladder]) -> None:
    text, page = str(small["matmul"]), small["matmul"]._repr_html_()
    for shown in (text, page):
        assert "out[i, j] += a[i, p] * b[p, j]" in shown
        for word in ("interpreted", "serial", "parallel", "tuned", "GFLOP/s", "max error"):
            assert word in shown
    assert page.count("<tr>") == 1 + len(small["matmul"].rows())
    assert "Parameters" not in text


def test_a_loop_is_shown_whole(capsys: pytest.CaptureFixture[str], small: dict[str, Ladder]) -> None:
    """The summary of relu's formula is longer than the 80 columns that are taken for a pipe's width."""
    small["relu"].show()
    assert max(map(len, small["relu"].source.splitlines())) > 80
    shown = "".join(capsys.readouterr().out.split())
    assert "".join(small["relu"].source.split()) in shown


def test_a_rung_above_the_ceiling_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work may have run while the ceiling was measured."""
    monkeypatch.setattr(ceilings, "measure", lambda dtype: ceilings.Ceilings(1.0, 1.0))
    assert "Above 100 %" in str(nbops.ladder("relu", (16, 20), seconds=0.001))
    monkeypatch.setattr(ceilings, "measure", lambda dtype: ceilings.Ceilings(1e20, 1e20))
    assert "Above 100 %" not in str(nbops.ladder("relu", (16, 20), seconds=0.001))


def test_without_a_gpu_an_emulated_one_counts(small: dict[str, Ladder]) -> None:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    if cuda.available():
        assert all(steps.rungs[-1].name == "cuda" and steps.emulated is None for steps in small.values())
        return
    for steps in small.values():
        counted = steps.emulated
        assert counted is not None
        assert 0 <= counted.error < 1e-5
        assert counted.launches > 0
        assert counted.instructions > 0
        assert counted.sectors >= counted.ideal_sectors > 0
        assert "cuda-emulator" in str(steps)
        assert str(counted) in steps._repr_html_()
    relu = small["relu"].emulated
    assert relu is not None
    assert relu.sectors == 2 * 16 * 20 * 4 / 32  # read once, written once
    matmul = small["matmul"].emulated
    assert matmul is not None
    assert matmul.wavefronts > 0


def test_what_is_counted_is_in_the_json(small: dict[str, Ladder]) -> None:
    counted = json.loads(json.dumps(small["add"].as_json()))["emulated"]
    assert (counted is None) == (small["add"].emulated is None)
    assert counted is None or counted["shapes"] == [[16, 20], [20]]


def test_users_ops_climb_too() -> None:
    @nbops.elementwise(name="ladder_test_cube")
    def cube(x: Any) -> Any:
        return x * x * x

    steps = nbops.ladder(cube, (10, 10), dtype="float64", seconds=0.001)
    assert "return x * x * x" in steps.source
    assert max(rung.error for rung in steps.rungs) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("fft", (3,)), TypeError, "no op"),
        ((nbops.multiply,), ValueError, "multiply needs shapes"),
        ((nbops.relu, (3,), (4,)), TypeError, "2 operands came"),
    ],
)
def test_mistakes(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        nbops.ladder(*arguments)


def test_refuses_other_dtypes() -> None:
    with pytest.raises(ValueError, match="expected float32 or float64"):
        nbops.ladder("relu", (3,), dtype="int32")


def test_every_default_has_shapes_that_fit() -> None:
    for name, shapes in SHAPES.items():
        assert work(registry[{"dense": "dense_relu"}.get(name, name)], shapes, "float32")[0] > 10**6


def test_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "relu.png"
    arguments = ["ladder", "relu", "64x64", "--seconds", "0.001", "--json", "--plot", str(picture)]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shapes"] == [[64, 64]]
    assert [rung["name"] for rung in report["rungs"]][:3] == ["interpreted", "serial", "parallel"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ladder", "fft"], "nbops ladder: unknown op 'fft'"),
        (["ladder", "multiply"], "nbops ladder: ladder: multiply needs shapes"),
        (["ladder", "sum", "3x4"], "nbops ladder: unknown op 'sum'; did you mean "),
        (
            ["ladder", "relu", "3", "--seconds", "nan"],
            "nbops ladder: --seconds nan: expected a positive number",
        ),
        (
            ["ladder", "relu", "3", "--seconds", "inf"],
            "nbops ladder: --seconds inf: expected a positive number",
        ),
        (["ladder", "relu", "3", "--seconds", "0"], "nbops ladder: --seconds 0: expected a positive number"),
        (
            ["ladder", "relu", "3", "--plot", "/no/such/folder/x.png"],
            "nbops ladder: --plot /no/such/folder/x.png: No such file or directory; name a file that can be",
        ),
        (
            ["ladder", "relu", "3", "--plot", "x.zip"],
            "nbops ladder: --plot x.zip: there is no format 'zip'; expected one of ",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
        monkeypatch.setattr("nbops.ladder", lambda *rest, **more: pytest.fail("measured before it was told"))
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(message)
    assert errors.count("\n") == 1
