"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
import platform
import re
from typing import Any

import pytest

import nbops
from nbops.__main__ import main


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake gives."""
    try:
        code: Any = main(arguments)
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nbops: the following arguments are required: COMMAND; see nbops --help"),
        (["compare", "--fast"], "nbops compare: unknown option --fast; see nbops compare --help"),
        (["compare", "--rounds", "many"], "nbops compare: argument --rounds: invalid int value: 'many'"),
        (["compare", "--rounds", "5"], "nbops compare: --rounds 5: expected at least 20"),
        (["compare", "--small", "--rounds", "0"], "nbops compare: --rounds 0: expected at least 1"),
        (["compare", "--window", "0"], "nbops compare: --window 0 --settle 150: expected times"),
        (["compare", "--window", "nan"], "nbops compare: --window nan --settle 150: expected times"),
        (["compare", "--window", "inf"], "nbops compare: --window inf --settle 150: expected times"),
        (["compare", "--settle", "nan"], "nbops compare: --window 30 --settle nan: expected times"),
        (["compare", "--only", "fft"], "nbops compare: --only fft: no workload has that in its name"),
        (["compare", "--libraries", "numpy,cupy"], "nbops compare: --libraries: 'cupy' is unknown"),
        (["compare", "--json", "/no/such/folder/f"], "nbops compare: --json /no/such/folder/f: No such file"),
        (
            ["explain", "matmull", "2x2", "float32"],
            "nbops explain: unknown op 'matmull'; did you mean matmul?",
        ),
        (["explain", "zzz", "2x2", "float32"], "nbops explain: unknown op 'zzz'; expected one of add, "),
        (["calibrate", "now"], "nbops calibrate: unknown argument now; see nbops calibrate --help"),
        (["train"], "nbops: argument COMMAND: invalid choice: 'train'"),
        (["explain", "relu", "2x", "float32"], "nbops explain: '2x' is no shape; expected lengths"),
        (["explain", "relu", "2x-1", "float32"], "nbops explain: '2x-1' is no shape; expected lengths"),
        (["explain", "relu", "2x2", "float31"], "nbops explain: unknown dtype 'float31'"),
        (["explain", "relu", "2x2", "complex64"], "nbops explain: relu: x has dtype complex64"),
        (["explain", "matmul", "2x2", "float32"], "nbops explain: matmul: 1 operands came; expected a, b"),
        (["explain", "matmul", "2x3", "2x3", "float32"], "nbops explain: matmul: "),
        (
            ["explain", "relu", "4x4", "float32", "--chunks", "2"],
            "nbops explain: --chunks: 2 for an operand of",
        ),
        (
            ["explain", "relu", "4", "float32", "--chunks", "0"],
            "nbops explain: --chunks: 0 for an operand of",
        ),
        (
            ["explain", "add", "4", "4", "float32", "--chunks", "2"],
            "nbops explain: --chunks came with 1 shapes",
        ),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(arguments, capsys).startswith(message)


@pytest.mark.parametrize("command", [["explain", "relu", "4", "float32"], ["calibrate"], ["ladder", "relu"]])
def test_a_target_of_the_environment_that_is_not_there(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for target, message in (
        ("quick", "NBOPS_TARGET: unknown target 'quick'"),
        ("cuda", "target 'cuda' was asked for"),
    ):
        if target == "quick" or not nbops.targets.cuda.available():
            monkeypatch.setenv("NBOPS_TARGET", target)
            nbops.settings._settings_from_environment.cache_clear()
            assert message in refusal(command, capsys)


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "matmul", "128x784", "784x512", "float32"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("matmul: 128x784, 784x512 -> 128x512 in float32")
    assert "because" in text


def test_explain_knows_every_dtype_that_ops_take(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    assert main(["explain", "add", "10", "10", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith("add: 10, 10 -> 10 in float32")  # where the loop runs


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"nbops {nbops.__version__}\n"


def test_explain_of_dask_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "matmul", "90x80", "80x50", "float32", "--chunks", "30x40", "40x50"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("matmul: 90x80 80x50 in float32, 6 chunks\n  target      6 serial\n")
    assert "  6 chunks of 30x40 40x50: serial, because\n" in text
    assert main(["explain", "softmax", "90x80", "float32", "--chunks", "30x40", "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert [step["op"] for step in explained["steps"]] == ["peak_and_sum", "exp_below_over"]


def test_explain_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--json", "matmul", "128x784", "784x512", "float32"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["op"] == "matmul"
    assert explained["shapes"] == [[128, 784], [784, 512], [128, 512]]
    assert explained["steps"] == 128 * 784 * 512
    assert explained["decision"]["target"] in ("serial", "parallel")


def test_explain_takes_scalars_sizes_that_fit_no_memory_and_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", "add", "1000000x1000000", "()", "float64"]) == 0
    assert main(["explain", "crossentropy_from_logits", "8", "8x10", "float32"]) == 0
    assert "in float32" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_calibrate(
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = {"layer": "omp", "threads": 2, "break_even_ns": 12_000, "samples": []}
    monkeypatch.setattr("nbops.calibrate", lambda: result)
    assert main(["calibrate", *arguments]) == 0
    out = capsys.readouterr().out
    if arguments:
        assert json.loads(out) == result
    else:
        assert out == "omp, 2 threads: parallel from 12 µs of work\n"


def test_a_figure_of_a_busy_machine_is_doubted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"layer": "pool", "threads": 2, "break_even_ns": 1_240_000, "samples": []}
    monkeypatch.setattr("nbops.calibrate", lambda: result)
    assert main(["calibrate"]) == 0
    figure, doubt = capsys.readouterr().out.splitlines()
    assert figure == "pool, 2 threads: parallel from 1.24 ms of work"
    assert doubt.startswith("The usual figure is 8 µs. Was the machine busy?")
    assert doubt.endswith("calibration.json")


def test_compare_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--list", "--only", "vecdot"]) == 0
    assert capsys.readouterr().out == "vecdot 100000000 float32\n"


def test_compare_small(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    arguments = ["--small", "--only", "small pair", "--libraries", "numpy,nbops", "--json", str(file)]
    assert main(["compare", *arguments]) == 0
    captured = capsys.readouterr()
    report = json.loads(file.read_text())
    assert [row["group"] for row in report["workloads"]] == ["small pair"] * 3
    assert all(row["best"] for row in report["workloads"])
    assert list(report["libraries"]) == ["nbops", "numpy"]
    assert "add+relu, out= 4x10 float64" in captured.out
    assert "1/3 add+relu" in captured.err
    host = re.escape(platform.node())
    assert not re.search(rf"\b{host}\b", captured.out + captured.err + file.read_text())


def test_compare_prints_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--small", "--rounds", "1", "--only", "vecdot", "--libraries", "numpy,nbops", "--json", "-"]
    assert main(["compare", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["rounds"] == 1


def test_as_a_module(run_python: Any) -> None:
    run_python("""
        import subprocess, sys
        done = subprocess.run([sys.executable, "-m", "nbops", "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        for command in ("compare", "explain", "calibrate"):
            assert command in done.stdout
    """)
