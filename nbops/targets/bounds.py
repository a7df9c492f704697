"""How fast a CUDA kernel can be at most, from its machine code: ``python -m nbops.targets.bounds``.

The assembler's output says how many registers, how much stack and shared memory a kernel takes, and which
instructions its inner loop has. Each unit of a multiprocessor needs at least so many clocks for them::

    issue        one instruction per scheduler and clock, four schedulers
    float32, …   operations / operations per clock
    shared       bytes of shared memory / 128 per clock
    memory       bytes of global memory / bandwidth

The unit that takes longest sets the pace. The bound is the share of that time in which global memory works:
the fraction of the bandwidth. For a product, which multiplies what is in shared memory, it is the share in
which the arithmetic unit works, the fraction of peak FLOP/s; memory is left out there, since blocks find each
other's operands in the cache. **These are static bounds, not measured on hardware**: latency, caches and
other blocks make a kernel slower, never faster.

A kernel without a loop (a row in registers) counts as a whole, branches that are rarely taken included.
Tensor cores are not counted: the bound of a product with tf32 says nothing about them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nbops.op import registry
from nbops.targets.cuda import toolchain
from nbops.targets.cuda.architectures import ARCHITECTURES, SCHEDULERS, WARP, Architecture, occupancy
from nbops.targets.cuda.cubin import Instruction, read
from nbops.targets.cuda.kernels import Launch
from nbops.tuned.cuda.catalog import CATALOG, launches, naive

__all__ = ["Bound", "bound_of", "compiler", "inner_loop", "main", "naive_launches", "table", "tuned_launches"]

Capability = tuple[int, int]
ARITHMETIC = {"FFMA": "float32", "FADD": "float32", "FMUL": "float32"}
DOUBLE = {"DFMA", "DADD", "DMUL", "DSETP"}
GLOBAL = {"LDG", "STG", "LD", "ST", "LDGSTS"}
SHARED = {"LDS", "STS"}
LOADS = {"LDG", "LD", "LDGSTS", "LDS"}
#: Fused multiply-adds that, next to loads of shared memory, make a loop a product. A row in registers may
#: have both without a loop: its exponentials, and what its warps tell one another.
PRODUCT = 16


@dataclass(frozen=True)
class Bound:
    """A kernel on an architecture.

    Parameters
    ----------
    call : str
        That uses it; see `nbops.tuned.cuda.catalog`.
    kernel : str
    compute_capability : str
    registers, stack_bytes, spill_bytes, shared_bytes : int
        Spilled registers lie in the stack; the assembler counts the bytes that it stores and loads for them.
    occupancy : float
        The share of a multiprocessor's warps.
    instructions : int
        Of the inner loop.
    wide : float
        The share of loads and stores, by bytes, that move 16 bytes at once, in the inner loop.
    wide_loads : float
        The same of loads alone.
    multiply_adds : float
        The share of FFMA and DFMA among the inner loop's instructions.
    limit : str
        The unit that sets the pace.
    bound : float
        At most this fraction of the peak.
    peak : {"float32", "float64", "memory"}
    """

    call: str
    kernel: str
    compute_capability: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int
    occupancy: float
    instructions: int
    wide: float
    wide_loads: float
    multiply_adds: float
    limit: str
    bound: float
    peak: str


def bound_of(call: str, launch: Launch, compute_capability: Capability) -> Bound:
    """Compile a launch's kernel and bound it.

    Parameters
    ----------
    call : str
        What it is part of.
    launch : Launch
    compute_capability : tuple of 2 int
    """
    ptx, _ = toolchain.compile_ptx(launch.kernel, compute_capability)
    cubin, spilled = toolchain.compile_cubin_with_spills(ptx, compute_capability)
    code = read(cubin, compute_capability)
    body = inner_loop(code.instructions)
    count = Counter(instruction.name for instruction in body)
    clocks = _clocks(body, ARCHITECTURES[compute_capability])
    peak = "memory"
    loops = len(body) < sum(i.name != "NOP" for i in code.instructions)
    if loops and count["FFMA"] + count["DFMA"] >= PRODUCT and count["LDS"]:
        peak = "float32" if count["FFMA"] > count["DFMA"] else "float64"
        del clocks["memory"]
    limit = max(clocks, key=lambda unit: clocks[unit])
    moved = [i.nbytes for i in body if i.name in GLOBAL | SHARED]
    loaded = [i.nbytes for i in body if i.name in LOADS]
    shared = code.shared_bytes + launch.shared_bytes
    return Bound(
        call,
        launch.kernel.name,
        "{}.{}".format(*compute_capability),
        code.registers,
        code.stack_bytes,
        spilled,
        shared,
        round(occupancy(compute_capability, code.registers, shared, math.prod(launch.block)), 3),
        len(body),
        _wide_share(moved),
        _wide_share(loaded),
        round((count["FFMA"] + count["DFMA"]) / len(body), 3),
        limit,
        round(clocks[peak] / clocks[limit], 3),
        peak,
    )


def _wide_share(sizes: Sequence[int]) -> float:
    return round(sum(n for n in sizes if n == 16) / sum(sizes), 3) if sizes else 0.0


def inner_loop(instructions: Sequence[Instruction]) -> Sequence[Instruction]:
    """The innermost loop that does most, by multiply-adds and then by bytes; all, where no loop moves any.

    Parameters
    ----------
    instructions : sequence of Instruction

    Returns
    -------
    sequence of Instruction
    """
    loops = [
        (i.target, place)
        for place, i in enumerate(instructions)
        if i.name == "BRA" and i.target is not None and i.target < place
    ]
    inner = [
        (first, last)
        for first, last in loops
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops)
    ]

    def work(span: tuple[int, int]) -> tuple[int, int]:
        body = instructions[span[0] : span[1] + 1]
        products = sum(i.name in ("FFMA", "DFMA", "HMMA") for i in body)
        return (products if products >= PRODUCT else 0), sum(
            i.nbytes for i in body if i.name in GLOBAL | SHARED
        )

    best = max(inner, key=work, default=None)
    if best is None or work(best) == (0, 0):
        return [i for i in instructions if i.name != "NOP"]
    return instructions[best[0] : best[1] + 1]


def _clocks(body: Sequence[Instruction], has: Architecture) -> dict[str, float]:
    """For how many clocks one warp's instructions keep each unit of a multiprocessor busy."""
    count = Counter(instruction.name for instruction in body)
    return {
        "issue": len(body) / SCHEDULERS,
        "float32": WARP * sum(count[name] for name in ARITHMETIC) / has.float32,
        "float64": WARP * sum(count[name] for name in DOUBLE) / has.float64,
        "conversions": WARP * count["F2F"] / has.conversions,
        "special": WARP * count["MUFU"] / has.special,
        "shared": WARP * sum(i.nbytes for i in body if i.name in SHARED) / has.shared_bandwidth,
        "memory": WARP * sum(i.nbytes for i in body if i.name in GLOBAL) / has.memory,
    }


# ---- the table ----------------------------------------------------------------------------------------


def tuned_launches(
    capabilities: Sequence[Capability], only: str = ""
) -> Iterator[tuple[str, Launch, Capability]]:
    """Every tuned kernel once per architecture, by the catalogue's calls: `bound_of`'s arguments.

    One kernel's architectures follow each other, because they share most of the compiler's work.

    Parameters
    ----------
    capabilities : sequence of tuple of 2 int
    only : str
        Part of the kernels' names.
    """
    calls = (
        (f"{name}, {dtype}", launch, cc)
        for name, example in CATALOG.items()
        for dtype in example.dtypes
        for cc in capabilities
        for launch in launches(example, dtype, cc)
    )
    return _each_once(calls, only)


def naive_launches(
    capabilities: Sequence[Capability],
    only: str = "",
    dtypes: Sequence[str] = ("float32", "float64"),
    *,
    tuned: bool = False,
    strided: bool = False,
) -> Iterator[tuple[str, Launch, Capability]]:
    """Every op's own loop in the same way.

    Parameters
    ----------
    capabilities : sequence of tuple of 2 int
    only : str
        Part of the kernels' names.
    dtypes : sequence of str
        Of these, an op's are those that it computes in.
    tuned : bool
        The kernel in the loop's place, where there is one.
    strided : bool
        For operands that are not contiguous.
    """
    calls = (
        (f"{name}, {dtype}, {'tuned' if tuned else 'as written'}", launch, cc)
        for name in registry
        for dtype in naive(name).dtypes
        if dtype in dtypes
        for cc in capabilities
        for launch in launches(naive(name, strided), dtype, cc, as_written=not tuned)
    )
    return _each_once(calls, only)


def _each_once(
    calls: Iterable[tuple[str, Launch, Capability]], only: str
) -> Iterator[tuple[str, Launch, Capability]]:
    seen = set()
    for call, launch, cc in calls:
        key = launch.kernel.digest, cc
        if key not in seen and only in launch.kernel.name:
            seen.add(key)
            yield call, launch, cc


def table(bounds: Iterable[Bound]) -> str:
    """The bounds as a table in Markdown.

    Parameters
    ----------
    bounds : iterable of Bound
    """
    head = (
        "Call",
        "Kernel",
        "cc",
        "Registers",
        "Stack",
        "Spills",
        "Shared",
        "Occupancy",
        "Loop",
        "128-bit",
        "FMA",
        "Pace",
    )
    lines = [f"| {' | '.join(head)} | Bound |", "|" + "---|" * (len(head) + 1)]
    for b in bounds:
        machine = f"{b.registers} | {b.stack_bytes} | {b.spill_bytes} | {b.shared_bytes} | {b.occupancy:.0%}"
        loop = (
            f"{b.instructions} | {b.wide:.0%} | {b.multiply_adds:.0%} | {b.limit} | {b.bound:.0%} of {b.peak}"
        )
        lines.append(f"| {b.call} | {b.kernel} | {b.compute_capability} | {machine} | {loop} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m nbops.targets.bounds", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", default="", help="part of the kernels' names")
    parser.add_argument(
        "--cc", nargs="*", default=[], help="compute capabilities, such as 9.0; all five by default"
    )
    parser.add_argument(
        "--naive", action="store_true", help="the ops' own loops in place of the tuned kernels"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    chosen = [cc for cc in ARCHITECTURES if not options.cc or "{}.{}".format(*cc) in options.cc]
    listed = naive_launches if options.naive else tuned_launches
    bounds = [bound_of(*named) for named in listed(chosen, options.only)]
    print(table(bounds))
    print("\nStatic bounds, not measured on hardware.")
    if options.json:
        lines = ",\n".join(json.dumps(asdict(b)) for b in bounds)
        options.json.write_text(f'{{"compiler": "{compiler()}",\n"bounds": [\n{lines}\n]}}\n')


def compiler() -> str:
    """The versions that machine code depends on."""
    names = "numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink"
    return ", ".join(f"{wheel.name} {wheel.version}" for wheel in toolchain.distributions(*names))


if __name__ == "__main__":
    main()
