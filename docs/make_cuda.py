"""Write the figures of docs/cuda.md: ``python docs/make_cuda.py``. It takes a minute; nothing needs a GPU.

The bounds are those of tests/targets/bounds.json; the counters are the emulator's, of calls made here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import nbops
from nbops.ops.losses import crossentropy_from_logits
from nbops.ops.reductions import sum_row, sum_rows
from nbops.ops.softmax import softmax_last
from nbops.ops.softmax_gradients import softmax_gradient

DOCS = Path(__file__).parent
#: Whose machine code the page describes.
SHOWN = "9.0"
PAGE, BOUNDS = DOCS / "cuda.md", DOCS.parent / "tests" / "targets" / "bounds.json"


def calls() -> list[tuple[str, Any, list[np.ndarray]]]:
    """What is counted: a label, the op, and its operands."""
    rng = np.random.default_rng(0)

    def x(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    return [
        ("add, 4096", nbops.add, [x(4096), x(4096)]),
        ("softmax, 8 × 512", softmax_last, [x(8, 512)]),
        ("softmax's gradient, 8 × 512", softmax_gradient, [x(8, 512), x(8, 512)]),
        ("cross-entropy, 8 × 512", crossentropy_from_logits, [rng.integers(0, 512, 8), x(8, 512)]),
        ("sum of rows, 8 × 4096", sum_row, [x(8, 4096)]),
        ("sum over rows, 512 × 64", sum_rows, [x(512, 64)]),
        ("matmul, 128 × 128 × 128", nbops.matmul, [x(128, 128), x(128, 128)]),
    ]


def count(op: Any, operands: list[np.ndarray]) -> list[int]:
    """Warp instructions, sectors loaded and stored, wavefronts of shared memory: of all launches."""
    with nbops.use("cuda-emulator", compute_capability=(9, 0)) as gpu:
        op(*operands)
    counted = gpu.counters.values()
    return [
        sum(int(c.issued.sum()) for c in counted),
        sum(c.global_loads.moved for c in counted),
        sum(c.global_stores.moved for c in counted),
        sum(c.shared_loads.moved + c.shared_stores.moved for c in counted),
    ]


def counters() -> str:
    head = "| Call | Kernel | Instructions | Sectors loaded | Sectors stored | Wavefronts |"
    lines = [head, "|---|---|--:|--:|--:|--:|"]
    for label, op, operands in calls():
        for kind, form in (("naive", op.as_written()), ("tuned", op)):
            figures = " | ".join(f"{n:,}" for n in count(form, operands))
            lines.append(f"| {label} | {kind} | {figures} |")
    return "\n".join(lines)


def bounds() -> str:
    """Two tables: the products, bound by FLOP/s, and all others, bound by bandwidth."""
    kept = json.loads(BOUNDS.read_text())
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
    head = "Call", "Registers", share, "Pace", *architectures
    lines = [f"| {' | '.join(head)} |", "|---|--:|--:|---|" + "--:|" * len(architectures)]
    for found in kernels:
        b = found[SHOWN]
        bound = " | ".join(f"{found[cc]['bound']:.0%}" for cc in architectures)
        lines.append(f"| {in_words(b)} | {b['registers']} | {b[figure]:.0%} | {b['limit']} | {bound} |")
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


def replaced(page: str, name: str, text: str) -> str:
    """The page with what stands between two comments replaced."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    page = PAGE.read_text()
    page = replaced(page, "counters", counters())
    PAGE.write_text(replaced(page, "bounds", bounds()))


if __name__ == "__main__":
    main()
