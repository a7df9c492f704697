"""The fixed list of workloads. A workload is plain data: it travels to the workers as JSON.

Its `kind` names the function in each peer's adapter that does it; `oracles` makes its inputs and knows its
result in float64.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Workload", "operations", "select", "workloads"]

#: From so many operations for each byte on, arithmetic takes longer than moving the bytes: a core that does
#: some 30 operations in a cycle gets some 5 bytes.
BALANCE = 6


@dataclass(frozen=True)
class Workload:
    """One line of the table.

    Parameters
    ----------
    name : str
        Unique; what ``--only`` matches.
    group : str
        Lines of one group share a geometric mean.
    kind : str
        What is computed.
    options : dict
        Sizes, dtype and form.
    flops, bytes : int
        The arithmetic and the memory traffic (each operand once) of one call, 0 where that says nothing.
    fresh_process : {"", "cached", "cold"}
        Not empty: each round is the first call of a new process, with or without a filled compile cache.
    """

    name: str
    group: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    flops: int = 0
    bytes: int = 0
    fresh_process: str = ""

    @property
    def bound(self) -> str:
        """What keeps the workload from being faster: its arithmetic, its memory, or nothing that is measured.

        What a small pair of operations takes is the call.
        """
        if self.fresh_process or self.group == "small pair" or not self.flops + self.bytes:
            return ""
        return "arithmetic" if self.flops >= BALANCE * self.bytes else "memory"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def operations(kind: str, options: dict[str, Any]) -> int:
    """The additions and multiplications of a matrix product or a training step.

    Examples
    --------
    >>> from nbops.compare.workloads import operations
    >>> operations("matmul", {"m": 2, "k": 3, "n": 4})
    48
    """
    if kind == "matmul":
        return 2 * int(options["m"] * options["k"] * options["n"])
    size, hidden, classes = options["sizes"]
    # Forward and weight gradient of both layers, and the hidden layer's gradient.
    return 2 * int(options["batch"] * (2 * size * hidden + 3 * hidden * classes))


_ITEMSIZE = {"float32": 4, "float64": 8}
#: m, k, n and the layout: which operand is stored transposed.
_PRODUCTS = (
    *((size, size, size, "NN") for size in (64, 128, 256, 512, 1024, 2048)),
    (128, 784, 512, "NN"),
    (784, 128, 512, "TN"),
    (128, 512, 784, "NT"),
    (128, 512, 10, "NN"),
    (512, 128, 10, "TN"),
    (10000, 784, 512, "NN"),
)
#: Few rows, and a short inner axis: reading B, and writing C, take longer than the arithmetic.
_THIN_PRODUCTS = ((1, 784, 512, "NN"), (8, 784, 512, "NN"), (32, 784, 512, "NN"), (2000, 20, 2000, "NN"))
_SMALL_PRODUCTS = ((16, 16, 16, "NN"), (24, 12, 20, "TN"), (12, 20, 24, "NT"))
_FORMS = {"fused": "add+relu, fresh result", "out": "add+relu, out=", "calls": "add, relu: two calls"}


def _add_relu(shape: Sequence[int], dtype: str, form: str, group: str) -> Workload:
    size = 1
    for n in shape:
        size *= n
    # What must move when nothing is written twice: two operands in, one out.
    return Workload(
        f"{_FORMS[form]} {'x'.join(map(str, shape))} {dtype}",
        group,
        "add_relu",
        {"shape": list(shape), "dtype": dtype, "form": form},
        flops=2 * size,
        bytes=3 * size * _ITEMSIZE[dtype],
    )


def _matmul(m: int, k: int, n: int, layout: str, dtype: str, group: str = "") -> Workload:
    options = {"m": m, "k": k, "n": n, "layout": layout, "dtype": dtype}
    return Workload(
        f"matmul {m}x{k}x{n} {layout} {dtype}",
        group or f"matmul {dtype}",
        "matmul",
        options,
        flops=operations("matmul", options),
        bytes=(m * k + k * n + m * n) * _ITEMSIZE[dtype],
    )


def _softmax(rows: int, columns: int, axis: int) -> Workload:
    return Workload(
        f"softmax {rows}x{columns} float32" + (" of columns" if axis == 0 else ""),
        "rows",
        "softmax",
        {"shape": [rows, columns], "axis": axis, "dtype": "float32"},
        bytes=8 * rows * columns,
    )


def _training(optimizer: str, batch: int, sizes: Sequence[int], path: str) -> Workload:
    through = "" if path == "tf.function" else f", {path} path"
    options = {"optimizer": optimizer, "batch": batch, "sizes": list(sizes), "path": path}
    return Workload(
        f"training step {'-'.join(map(str, sizes))} batch {batch} {optimizer}{through}",
        "training step",
        "training_step",
        options,
        flops=operations("training_step", options),
    )


def _first_step(batch: int, sizes: Sequence[int], cache: str) -> Workload:
    return Workload(
        f"first training step of a process, {cache}",
        "first step",
        "training_step",
        {"optimizer": "sgd", "batch": batch, "sizes": list(sizes), "path": "tf.function"},
        fresh_process=cache,
    )


def workloads(small: bool = False) -> list[Workload]:
    """The list, in the table's order; `small` has the same kinds in sizes that take no time.

    Examples
    --------
    >>> from nbops.compare.workloads import workloads
    >>> len([w for w in workloads() if w.group == "matmul float32"])
    12
    """
    pair, large = ((4, 10), (1000,)) if small else ((20, 100), (10_000_000,))
    batch, sizes = (8, (12, 9, 5)) if small else (128, (784, 512, 10))
    rows, columns = (16, 20) if small else (1024, 1024)
    samples, classes = (16, 10) if small else (4096, 1000)
    length = 1000 if small else 100_000_000
    return [
        *(_add_relu(pair, "float64", form, "small pair") for form in ("fused", "out", "calls")),
        *(
            _matmul(*product, dtype)
            for dtype in ("float32", "float64")
            for product in (_SMALL_PRODUCTS if small else _PRODUCTS)
        ),
        *(
            _matmul(*product, "float32", "thin matmul float32")
            for product in ([(1, 12, 20, "NN")] if small else _THIN_PRODUCTS)
        ),
        *(
            _training(optimizer, batch, sizes, path)
            for path in ("numpy", "tf.function")
            for optimizer in ("sgd", "rmsprop")
        ),
        *(_add_relu(large, "float32", form, "large add+relu") for form in ("out", "fused")),
        _softmax(rows, columns, -1),
        _softmax(rows, columns, 0),
        Workload(
            f"cross-entropy, forward and gradient {samples}x{classes} float32",
            "rows",
            "crossentropy",
            {"shape": [samples, classes], "dtype": "float32"},
            bytes=8 * samples * classes,
        ),
        Workload(
            f"vecdot {length} float32",
            "vecdot",
            "vecdot",
            {"length": length, "dtype": "float32"},
            flops=2 * length,
            bytes=8 * length,
        ),
        *(_first_step(batch, sizes, cache) for cache in ("cached", "cold")),
    ]


def select(listed: Sequence[Workload], *patterns: str) -> list[Workload]:
    """The workloads whose name or group contains one of the patterns, or matches it as ``*`` and ``?`` do.

    All of them when there is no pattern.

    Raises
    ------
    ValueError
        When a pattern has none.
    """
    wanted: set[str] = set()
    for pattern in patterns:
        whole = f"*{pattern.lower()}*"
        found = {
            w.name
            for w in listed
            if fnmatch.fnmatchcase(w.name.lower(), whole) or fnmatch.fnmatchcase(w.group.lower(), whole)
        }
        if not found:
            groups = ", ".join(dict.fromkeys(w.group for w in listed))
            raise ValueError(f"--only {pattern}: no workload has that in its name; the groups are {groups}")
        wanted |= found
    return [w for w in listed if not patterns or w.name in wanted]
