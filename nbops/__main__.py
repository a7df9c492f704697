"""The command line: ``nbops compare``, ``nbops explain``, ``nbops calibrate``, ``nbops doctor``…

Each command is a function that adds its parser, and one that runs it and returns the exit code. A mistake in
the arguments ends with exit code 2 and one line.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from nbops import __version__
from nbops.files import check_writable, replacing

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """argparse's, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class Mistake(Exception):  # noqa: N818 - the user's
    """What is wrong with the arguments, found after they were parsed."""


def _write_json(value: Any, place: str | None) -> None:
    """Write JSON to a file, or to stdout where `place` is ``-``."""
    text = json.dumps(value, indent=1)
    if place in (None, "-"):
        print(text)
        return
    assert place is not None
    try:
        with replacing(place) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise Mistake(f"--json {place}: {error.strerror}; name a file that can be written") from None


# ---- compare ----------------------------------------------------------------------------------------


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="nbops beside its peers, one process per library",
        description="Runs the fixed list of workloads on nbops and every installed peer, in turn, and shows "
        "the best peer's time over nbops's. Exit code 1: a result was wrong or a library failed.",
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        action="append",
        help="workloads with this in their name or group; may be given several times",
    )
    parser.add_argument("--libraries", metavar="A,B", help="these libraries, separated by commas")
    parser.add_argument("--rounds", type=int, help="windows per library; 20 unless given, and at least 20")
    parser.add_argument("--window", type=float, default=30, metavar="MS", help="a window's length; 30")
    parser.add_argument("--settle", type=float, default=150, metavar="MS", help="pause before a window; 150")
    parser.add_argument("--small", action="store_true", help="tiny sizes, 3 rounds: to see that it works")
    parser.add_argument("--list", action="store_true", help="print the workloads and stop")
    parser.add_argument("--json", metavar="FILE", help="write everything to a file; - is stdout")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from nbops.compare import PEERS, compare, select, table, workloads

    try:
        chosen = select(workloads(options.small), *options.only or ())
    except ValueError as error:
        raise Mistake(str(error)) from None
    if options.list:
        print("\n".join(workload.name for workload in chosen))
        return 0
    libraries = PEERS
    if options.libraries is not None:
        names = [name.strip() for name in options.libraries.split(",")]
        unknown = [name for name in names if name not in PEERS]
        if unknown:
            raise Mistake(f"--libraries: {unknown[0]!r} is unknown; expected some of {', '.join(PEERS)}")
        libraries = {name: module for name, module in PEERS.items() if name in names}
    if options.json not in (None, "-"):
        _check_writable(options.json)
    report = compare(chosen, libraries, _settings(options), lambda line: print(line, file=sys.stderr))
    if options.json is not None:
        _write_json(report, options.json)
    if options.json != "-":
        table.show(report)
    bad = ("wrong", "failed")
    cells = [cell for row in report["workloads"] for cell in row["results"].values()]
    return int(any(cell["status"] in bad for cell in [*cells, *report["libraries"].values()]))


def _settings(options: argparse.Namespace) -> Any:
    from nbops.compare import Settings

    least = 1 if options.small else 20
    rounds = options.rounds if options.rounds is not None else 3 if options.small else 20
    if rounds < least:
        raise Mistake(f"--rounds {rounds}: expected at least {least}, or the 10th percentile means nothing")
    if not (0 < options.window < math.inf and 0 <= options.settle < math.inf):
        raise Mistake(
            f"--window {options.window:g} --settle {options.settle:g}: expected times in milliseconds"
        )
    return Settings(
        rounds=rounds,
        fresh_rounds=1 if options.small else max(5, rounds // 4),
        window_ms=1 if options.small else options.window,
        settle_ms=0 if options.small else options.settle,
        small=options.small,
    )


def _check_writable(place: str) -> None:
    """Find out before the measurement, not after it."""
    try:
        check_writable(place)
    except OSError as error:
        raise Mistake(f"--json {place}: {error.strerror}; name a file that can be written") from None


# ---- explain ----------------------------------------------------------------------------------------


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="what would run where, and why",
        description="What the dispatcher would do: nbops explain matmul 128x784 784x512 float32, and for "
        "Dask arrays: nbops explain matmul 8192x8192 8192x512 float32 --chunks 2048x2048 2048x512",
    )
    parser.add_argument("op", metavar="OP", help="an op or a function of ops: matmul, dense, mean")
    parser.add_argument("shapes", metavar="SHAPE", nargs="+", help="one per operand: 128x784, 10, or ()")
    parser.add_argument("dtype", metavar="DTYPE", help="float32, float64, …")
    parser.add_argument(
        "--chunks", metavar="SHAPE", nargs="+", help="one per operand: for Dask arrays with such chunks"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_explain)


def _explain(options: argparse.Namespace) -> int:
    import nbops
    from nbops.op import Op

    function, dtype = _function(options.op), _dtype(options.dtype)
    shapes = [_shape(text) for text in options.shapes]
    try:
        kinds = ["T"] * len(shapes)
        if isinstance(function, Op):
            function.check_count(shapes)
            kinds = list(function.types.inputs)
        operands = _empty(shapes, kinds, dtype)
        if options.chunks:
            operands = _in_chunks(operands, [_shape(text) for text in options.chunks])
        explanation = nbops.explain(function, *operands)
    except (TypeError, ValueError) as error:
        raise Mistake(str(error)) from None
    if options.json:
        _write_json(dataclasses.asdict(explanation), None)
    else:
        print(explanation)
    return 0


def _function(name: str, composites: Sequence[str] = ("dense", "dot", "mean", "sum")) -> Any:
    """An op, or one of these functions of ops."""
    import nbops
    from nbops.op import registry

    known = {**{name: getattr(nbops, name) for name in composites}, **registry}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    public = ", ".join(sorted(known.keys() & set(nbops.__all__)))
    hint = f"did you mean {close[0]}?" if close else f"expected one of {public}"
    raise Mistake(f"unknown op {name!r}; {hint}")


def _dtype(name: str) -> Any:
    import numpy as np

    with contextlib.suppress(ImportError):
        import ml_dtypes  # noqa: F401 - bfloat16 has a name then
    try:
        return np.dtype(name)
    except TypeError:
        raise Mistake(f"unknown dtype {name!r}; expected one such as float32 or int64") from None


def _empty(shapes: Sequence[tuple[int, ...]], kinds: Sequence[str], dtype: Any) -> list[Any]:
    """Operands of any size that take no memory: without strides an array is one element."""
    import numpy as np

    return [
        np.broadcast_to(np.zeros((), dtype if kind == "T" else kind), shape)
        for kind, shape in zip(kinds, shapes, strict=True)
    ]


def _in_chunks(operands: Sequence[Any], chunks: Sequence[tuple[int, ...]]) -> list[Any]:
    """Dask arrays of such operands; as lazy as any."""
    try:
        import dask.array as da
    except ImportError:
        raise Mistake("--chunks is for Dask arrays; install them with: pip install 'nbops[dask]'") from None
    if len(chunks) != len(operands):
        raise Mistake(f"--chunks came with {len(chunks)} shapes; expected {len(operands)}, one per operand")
    for x, own in zip(operands, chunks, strict=True):
        if len(own) != x.ndim or 0 in own:
            wanted = f"expected {x.ndim} lengths of at least 1"
            raise Mistake(f"--chunks: {'x'.join(map(str, own))} for an operand of {x.shape}; {wanted}")
    return [da.zeros(x.shape, dtype=x.dtype, chunks=own) for x, own in zip(operands, chunks, strict=True)]


def _shape(text: str) -> tuple[int, ...]:
    lengths = text.split("x") if text != "()" else []
    if not all(length.isdecimal() for length in lengths):
        raise Mistake(f"{text!r} is no shape; expected lengths joined by x, such as 128x784, or ()")
    return tuple(map(int, lengths))


# ---- calibrate --------------------------------------------------------------------------------------


def _add_calibrate(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure from how much work on a second core pays",
        description="Measures the break-even of a parallel launch on this machine and keeps it.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> int:
    import nbops
    from nbops.calibration import SHIPPED, file
    from nbops.durations import duration

    result = nbops.calibrate()
    if options.json:
        _write_json(result, None)
    elif result["break_even_ns"] == sys.maxsize:
        print(f"{result['layer'] or 'no threading layer'}, {result['threads']} threads: one core is faster")
    else:
        limit = duration(result["break_even_ns"])
        print(f"{result['layer']}, {result['threads']} threads: parallel from {limit} of work")
        usual = SHIPPED.get(result["layer"], sys.maxsize)
        if result["break_even_ns"] > 20 * usual:
            print(
                f"The usual figure is {duration(usual)}. Was the machine busy? Then run it again, idle, or "
                f"delete {file()}"
            )
    if not options.json and "cuda" in result:
        gpu = result["cuda"]
        print(
            f"{gpu['device']}: {gpu['launch_microseconds']:.3g} µs a call, "
            f"{gpu['bytes_per_microsecond'] / 1e3:.3g} GB/s, as fast as {gpu['cores']:.3g} cores"
        )
    return 0


# ---- ladder -----------------------------------------------------------------------------------------


def _add_ladder(commands: Any) -> None:
    parser = commands.add_parser(
        "ladder",
        help="one loop, interpreted, compiled, parallel and tuned, against this machine's ceiling",
        description="Prints an op's loop and one row per way to run it: nbops ladder matmul 512x512 512x512",
    )
    parser.add_argument("op", metavar="OP", help="relu, add, matmul, softmax, dense, or with shapes any op")
    parser.add_argument("shapes", metavar="SHAPE", nargs="*", help="one per operand")
    parser.add_argument("--dtype", default="float32", help="float32 or float64; float32")
    parser.add_argument("--seconds", type=float, default=0.5, help="for how long to run each rung; 0.5")
    parser.add_argument("--plot", metavar="FILE", help="save a picture over sizes; .png, .svg, .pdf")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_ladder)


def _ladder(options: argparse.Namespace) -> int:
    import nbops

    _function(options.op, ("dense",))
    if not 0 < options.seconds < math.inf:
        raise Mistake(f"--seconds {options.seconds:g}: expected a positive number")
    if options.plot:
        _check_plot(options.plot)
    try:
        steps = nbops.ladder(
            options.op, *map(_shape, options.shapes), dtype=options.dtype, seconds=options.seconds
        )
    except (TypeError, ValueError) as error:
        raise Mistake(str(error)) from None
    if options.json:
        _write_json(steps.as_json(), None)
    else:
        steps.show()
    if options.plot:
        try:
            steps.plot(options.plot, options.seconds / 5)
        except OSError as error:
            raise Mistake(f"--plot {options.plot}: {error.strerror or error}") from None
    return 0


def _check_plot(place: str) -> None:
    """Find out before the measurement, not after it."""
    try:
        from nbops import ladder_plot

        ladder_plot.check(place)
    except OSError as error:
        raise Mistake(f"--plot {place}: {error.strerror}; name a file that can be written") from None
    except (ImportError, ValueError) as error:
        raise Mistake(f"--plot {place}: {error}") from None


# ---- doctor -----------------------------------------------------------------------------------------


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="what works here, what does not, and what repairs it",
        description="Compiles and runs a kernel on every target. Exit code 1: something that is installed "
        "should work and does not.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from nbops.compare.table import Section, print_section
    from nbops.doctor import examine

    findings = examine()
    if options.json:
        _write_json([dataclasses.asdict(finding) for finding in findings], None)
    else:
        rows: list[tuple[str, ...]] = [
            (f.verdict, f.name, f.found + (f"\n→ {f.repair}" if f.repair else "")) for f in findings
        ]
        print_section(Section("nbops doctor", ("verdict", "what", "found"), rows))
    return int(any(finding.verdict == "broken" for finding in findings))


# ---- all --------------------------------------------------------------------------------------------

COMMANDS: tuple[Callable[[Any], None], ...] = (
    _add_compare,
    _add_explain,
    _add_calibrate,
    _add_ladder,
    _add_doctor,
)


def _parser() -> _Parser:
    parser = _Parser(prog="nbops", description="Plain loops on every core: what would run, and how fast.")
    parser.add_argument("--version", action="version", version=f"nbops {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def _check_environment() -> None:
    """``NBOPS_TARGET`` is an argument too."""
    from nbops import dispatch

    try:
        dispatch.settings()
    except (ValueError, RuntimeError) as error:
        raise Mistake(str(error)) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line's unless given.
    """
    options, unknown = _parser().parse_known_args(arguments)
    try:
        if unknown:
            what = "option" if unknown[0].startswith("-") else "argument"
            raise Mistake(f"unknown {what} {unknown[0]}; see nbops {options.command} --help")
        _check_environment()
        code: int = options.run(options)
    except Mistake as mistake:
        print(f"nbops {options.command}: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
