"""Write the figures of docs/cuda.md: ``make cuda-figures``. It takes some minutes; nothing needs a GPU.

The bounds are those of tests/targets/bounds.json; the counters are the emulator's, of calls made here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nbops
from nbops.op import Op, registry

DOCS = Path(__file__).parent
#: Whose machine code the page describes.
SHOWN = "9.0"
PAGE, BOUNDS = DOCS / "cuda.md", DOCS.parent / "tests" / "targets" / "bounds.json"


@dataclass(frozen=True)
class Call:
    """What is counted: a label, the op's name, and its operands."""

    label: str
    name: str
    operands: list[np.ndarray]
    tf32: bool = False

    @property
    def forms(self) -> dict[str, Op]:
        """The kernels to compare; the loop as written knows no tf32."""
        op = registry[self.name]
        return {"tuned": op} if self.tf32 else {"naive": op.as_written(), "tuned": op}


def calls() -> list[Call]:
    rng = np.random.default_rng(0)

    def x(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    square = 128, 128
    return [
        Call("add, 4096", "add", [x(4096), x(4096)]),
        Call("softmax, 8 × 512", "softmax", [x(8, 512)]),
        Call("softmax's gradient, 8 × 512", "softmax_gradient", [x(8, 512), x(8, 512)]),
        Call("log_softmax, 8 × 512", "log_softmax", [x(8, 512)]),
        Call("cross-entropy, 8 × 512", "crossentropy_from_logits", [rng.integers(0, 512, 8), x(8, 512)]),
        Call("sum of rows, 8 × 4096", "sum_row", [x(8, 4096)]),
        Call("sum over rows, 512 × 64", "sum_rows", [x(512, 64)]),
        Call("vecdot, 16384", "vecdot", [x(16384), x(16384)]),
        Call("matvec, 512 × 512", "matvec", [x(512, 512), x(512)]),
        Call("vecmat, 512 × 512", "vecmat", [x(512), x(512, 512)]),
        Call("matmul, 128 × 128 × 128", "matmul", [x(*square), x(*square)]),
        Call("matmul with tf32, 128 × 128 × 128", "matmul", [x(*square), x(*square)], tf32=True),
        Call("matmul in parts (split-K), 32 × 2048 × 32", "matmul", [x(32, 2048), x(2048, 32)]),
        Call("gemm, 128 × 128 × 128", "gemm", [x(*square), x(*square), x(*square), np.float32(0.5)]),
        Call("dense, relu, 64 × 128 × 128", "dense_relu", [x(64, 128), x(*square), x(128)]),
        Call("dense weight gradient, 128 × 64 × 64", "dense_weight_gradient", [x(128, 64), x(128, 64)]),
    ]


def count(op: Op, operands: list[np.ndarray], tf32: bool = False) -> list[str]:
    """Of all launches: warp instructions, sectors loaded and stored, wavefronts; an ideal if it differs."""
    with nbops.use("cuda-emulator", compute_capability=(9, 0), tf32=tf32) as gpu:
        op(*operands)
    counted = list(gpu.counters.values())
    traffic = (
        [c.global_loads for c in counted],
        [c.global_stores for c in counted],
        [t for c in counted for t in (c.shared_loads, c.shared_stores)],
    )
    figures = [f"{sum(int(c.issued.sum()) for c in counted):,}"]
    for kind in traffic:
        moved, ideal = sum(t.moved for t in kind), sum(t.ideal for t in kind)
        figures.append(f"{moved:,}" if moved == ideal else f"{moved:,} ({ideal:,})")
    return figures


def rows(call: Call) -> list[str]:
    """A row for each kernel."""
    return [
        f"| {call.label} | {kind} | {' | '.join(count(op, call.operands, call.tf32))} |"
        for kind, op in call.forms.items()
    ]


def counters() -> str:
    head = "Call", "Kernel", "Instructions", "Sectors loaded", "Sectors stored", "Wavefronts"
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "--:|" * (len(head) - 2)]
    return "\n".join([*lines, *(row for call in calls() for row in rows(call))])


def bounds() -> str:
    """Two tables: the products, bound by FLOP/s, and all others, bound by bandwidth."""
    kept = json.loads(BOUNDS.read_text(encoding="utf-8"))
    by_kernel: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for b in kept["bounds"]:
        by_kernel.setdefault((b["kernel"], b["call"]), {})[b["compute_capability"]] = b
    # The bounds count no tensor cores.
    shown = [found for (_, call), found in by_kernel.items() if "tf32" not in call]
    products = [found for found in shown if found[SHOWN]["peak"] != "memory"]
    others = [found for found in shown if found[SHOWN]["peak"] == "memory"]
    return "\n".join(
        [
            "### Products: share of peak FLOP/s",
            "",
            bounds_table(products, "FMA", "multiply_adds"),
            "",
            "### All others: share of memory bandwidth",
            "",
            bounds_table(others, "16 bytes", "wide"),
            "",
            f"Compiled with {kept['compiler']}.",
        ]
    )


def bounds_table(kernels: list[dict[str, dict[str, Any]]], share: str, figure: str) -> str:
    """A row for each kernel: what 9.0's machine code has, and the bound on every architecture."""
    architectures = list(dict.fromkeys(cc for found in kernels for cc in found))
    head = "Call", "Registers", "Shared", "Occupancy", share, "Pace", *architectures
    lines = [f"| {' | '.join(head)} |", "|---|--:|--:|--:|--:|---|" + "--:|" * len(architectures)]
    for found in kernels:
        b = found[SHOWN]
        bound = " | ".join(f"{found[cc]['bound']:.0%}" for cc in architectures)
        room = f"{b['registers']} | {b['shared_bytes']:,} | {b['occupancy']:.1%}"
        lines.append(f"| {in_words(b)} | {room} | {b[figure]:.0%} | {b['limit']} | {bound} |")
    return "\n".join(lines)


def in_words(b: dict[str, Any]) -> str:
    """The call, and what this kernel does in it where that is not the call's main work."""
    call, kernel = b["call"], b["kernel"]
    if kernel.endswith("_scaled"):
        return f"{call}: scaled, and added to c"
    if (kernel.startswith("add_") and "_parts_" in kernel) or "_totals_" in kernel:
        return f"{call}: adding the parts"
    if call.startswith("dense") and not kernel.startswith(("product", "add")):
        return f"{call}: {'the softmax' if kernel.startswith('softmax') else 'the gradient of b'}"
    return call


def section(page: str, name: str) -> str:
    """What stands between two comments of the page."""
    return page.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- end of {name} -->")[0].strip()


def replaced(page: str, name: str, text: str) -> str:
    """The page with what stands between two comments replaced."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    page = replaced(page, "counters", counters())
    PAGE.write_text(replaced(page, "bounds", bounds()), encoding="utf-8")


if __name__ == "__main__":
    main()
