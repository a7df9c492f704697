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
    """A row for each kernel: what 9.0's machine code has, and the bound on every architecture."""
    kept = json.loads(BOUNDS.read_text())
    by_kernel: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for b in kept["bounds"]:
        by_kernel.setdefault((b["kernel"], b["call"]), {})[b["compute_capability"]] = b
    architectures = list(dict.fromkeys(b["compute_capability"] for b in kept["bounds"]))
    head = "Kernel", "Registers", "Occupancy", "128-bit", "FMA", "Pace", "Bound of", *architectures
    lines = [f"Compiled with {kept['compiler']}.", "", f"| {' | '.join(head)} |"]
    lines.append("|---|--:|--:|--:|--:|---|---|" + "--:|" * len(architectures))
    for (kernel, _), found in by_kernel.items():
        if SHOWN not in found:  # tensor cores have one for the architectures that have them
            continue
        b = found[SHOWN]
        figures = f"{b['registers']} | {b['occupancy']:.0%} | {b['wide']:.0%} | {b['multiply_adds']:.0%}"
        shares = " | ".join(f"{found[cc]['bound']:.0%}" if cc in found else "" for cc in architectures)
        lines.append(f"| {kernel} | {figures} | {b['limit']} | {b['peak']} | {shares} |")
    return "\n".join(lines)


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
