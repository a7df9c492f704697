"""What is checked, and one call of it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from nbops import dispatch
from nbops.op import Op
from nbops.testing.layouts import LAYOUTS

__all__ = ["Call", "Subject", "as_list", "available_targets", "widen"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Sequence[Shape]], Sequence[Any]]


def as_list(results: Any) -> list[Array]:
    """One result or several, arrays or tensors, as a list of arrays."""
    return [np.asarray(x) for x in (results if isinstance(results, tuple | list) else (results,))]


def available_targets() -> tuple[list[str], dict[str, str]]:
    """The dispatcher's targets that work here, and why the others don't."""
    working, missing = [], {}
    for target in dispatch.TARGETS:
        if target not in ("auto", "cpu"):  # these two leave the choice to the dispatcher
            try:
                with dispatch.use(target):
                    working.append(target)
            except RuntimeError as error:
                missing[target] = str(error)
    return working, missing


@dataclass
class Subject:
    """An op, or a function made of ops, and what is known of it.

    Attributes
    ----------
    function : function
        As a user calls it.
    op : Op or None
        The op behind it.
    examples : list of lists of arrays
        Calls that must work; others are drawn from their values.
    oracle : function or None
        The same in NumPy; gets float64 operands (integers stay), must be right to float64's precision.
    draw_like : function or None
        ``draw(rng, shapes)``: operands of these shapes, where the examples' values do not fit all shapes.
    wanted_gradients : tuple of int or None
        The operands that must have a gradient; those for which the rule gives one unless stated.
    steps : function of shapes or None
        Accumulated terms per element of the result; derived from the signature unless given.
    float_only : bool
        Whether integers are left out.
    """

    function: Callable[..., Any]
    op: Op | None
    examples: list[list[Array]]
    oracle: Callable[..., Any] | None = None
    draw_like: Draw | None = None
    wanted_gradients: tuple[int, ...] | None = None
    steps: Callable[..., int] | None = None
    float_only: bool = False
    targets: list[str] = field(default_factory=lambda: available_targets()[0])

    @cached_property
    def name(self) -> str:
        if self.op is not None:
            return self.op.name
        function = self.function
        while isinstance(function, partial):
            function = function.func
        return getattr(function, "__name__", type(function).__name__)

    @cached_property
    def n_inputs(self) -> int:
        return len(self.examples[0])

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The operands' names."""
        if self.op is not None:
            return self.op.arguments
        try:
            names = list(inspect.signature(self.function).parameters)
        except (TypeError, ValueError):
            names = []
        return tuple((*names, *(f"operand {i}" for i in range(len(names), self.n_inputs)))[: self.n_inputs])

    @cached_property
    def generic(self) -> tuple[bool, ...]:
        """Which operands share the call's dtype; the others (labels) keep their own."""
        if self.op is not None:
            return tuple(kind == "T" for kind in self.op.types.inputs)
        return tuple(x.dtype.kind not in "iu" for x in self.examples[0])

    @cached_property
    def takes_out(self) -> bool:
        if isinstance(self.function, Op):
            return True
        try:
            return "out" in inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return False

    # ---- operands -----------------------------------------------------------------------------------

    def draw(self, rng: np.random.Generator, shapes: Sequence[Shape], dtype: Any) -> list[Array]:
        """Operands of these shapes and, where they share the call's dtype, of this one."""
        if self.draw_like is not None:
            drawn = [np.asarray(x) for x in self.draw_like(rng, shapes)]
        else:
            drawn = [self._resample(rng, index, shape) for index, shape in enumerate(shapes)]
        return [
            to_dtype(x, np.dtype(dtype)) if generic else x
            for x, generic in zip(drawn, self.generic, strict=True)
        ]

    def _resample(self, rng: np.random.Generator, index: int, shape: Shape) -> Array:
        """Values of the examples, floating point ones up to a tenth smaller, so that few are equal."""
        pool = np.concatenate([example[index].ravel() for example in self.examples])
        if not pool.size:
            pool = np.ones(1, pool.dtype)
        values = rng.choice(pool, shape)
        if pool.dtype.kind in "iu":
            return np.asarray(values)
        return np.asarray(values * rng.uniform(0.9, 1, shape))

    # ---- results ------------------------------------------------------------------------------------

    def run(self, operands: Sequence[Any], target: str, threads: int | None = None) -> list[Array]:
        """The results on a target."""
        with dispatch.use(target, threads=threads):
            return as_list(self.function(*operands))

    def expected(self, operands: Sequence[Any]) -> list[Array] | None:
        """The oracle's results; None without an oracle, or where it can't say."""
        if self.oracle is None:
            return None
        wide = [np.asarray(x) if np.asarray(x).dtype.kind in "iu" else widen(x) for x in operands]
        wide = [x.astype(np.float64) if generic else x for x, generic in zip(wide, self.generic, strict=True)]
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's mean of nothing warns
                return as_list(self.oracle(*wide))
        except (ValueError, IndexError):
            return None  # a drawn call that NumPy refuses, such as the maximum of nothing

    def tolerance(self, dtype: Any, shapes: Sequence[Shape], expected: Array) -> float:
        """The absolute error that rounding may leave: ``(4 + 2 steps) eps`` of the largest result."""
        finite = np.abs(widen(expected)[np.isfinite(widen(expected))])
        return float((4 + 2 * self.count_steps(shapes)) * epsilon(dtype) * max(1.0, finite.max(initial=0.0)))

    def count_steps(self, shapes: Sequence[Shape]) -> int:
        """Accumulated terms per element of the result."""
        if self.steps is not None:
            return self.steps(*shapes)
        if self.op is None:
            return max((int(np.prod(shape)) for shape in shapes), default=1)
        signature = self.op.signature
        sizes: dict[str, int] = {}
        for names, shape in zip(signature.inputs, shapes, strict=True):
            sizes.update(zip(names, shape[len(shape) - len(names) :], strict=True))
        kept = {name for names in signature.outputs for name in names}
        summed = int(np.prod([size for name, size in sizes.items() if name not in kept], dtype=np.int64))
        return summed + max((size for name, size in sizes.items() if name in kept), default=0)


@dataclass(frozen=True)
class Call:
    """The operands of one call.

    Attributes
    ----------
    subject : Subject
    arrays : tuple of arrays
        The operands in C order.
    layouts : tuple of str
        Names from `nbops.testing.layouts.LAYOUTS`, one per operand.
    seed : int
        For whatever else a promise draws: upstream gradients, directions.
    """

    subject: Subject
    arrays: tuple[Array, ...]
    layouts: tuple[str, ...]
    seed: int = 0

    @property
    def shapes(self) -> list[Shape]:
        return [x.shape for x in self.arrays]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that the operands share."""
        pairs = zip(self.arrays, self.subject.generic, strict=True)
        shared: list[np.dtype[Any]] = [x.dtype for x, generic in pairs if generic]
        return (shared or [self.arrays[0].dtype])[0]

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def operands(self) -> list[Array]:
        """New arrays in the call's layouts."""
        return [LAYOUTS[layout](x) for x, layout in zip(self.arrays, self.layouts, strict=True)]

    def plain(self) -> list[Array]:
        """New arrays with the same values, contiguous and in the machine's byte order."""
        return [np.array(x, dtype=x.dtype.newbyteorder("="), order="C") for x in self.operands()]

    def in_dtype(self, dtype: Any) -> list[Array]:
        """New arrays in another dtype, as `to_dtype` converts them; labels stay."""
        return [
            to_dtype(x, np.dtype(dtype)) if generic else x
            for x, generic in zip(self.plain(), self.subject.generic, strict=True)
        ]

    def __str__(self) -> str:
        """The call as a reader would type it."""
        parts = []
        for x, layout, argument in zip(self.operands(), self.layouts, self.subject.arguments, strict=True):
            values = np.array2string(x, separator=", ", threshold=60).replace("\n", "")
            note = "" if layout == "contiguous" else f" [{layout}]"
            parts.append(f"{argument} = {values} {x.dtype.name}{x.shape}{note}")
        return "; ".join(parts)


def to_dtype(x: Array, dtype: np.dtype[Any]) -> Array:
    """Values in a dtype; for integers whole ones that are never 0, and positive where they were."""
    if dtype.kind not in "iu" or x.dtype.kind in "iu":
        return np.asarray(x, dtype)
    whole = np.where(x < 0, np.floor(3 * x), np.ceil(3 * x))
    return np.asarray(np.abs(whole) if dtype.kind == "u" else whole).astype(dtype)


def widen(x: Any) -> Array:
    """Floating point values in float64; anything else as it is."""
    x = np.asarray(x)
    return np.asarray(x, None if x.dtype.kind in "iub" else np.float64)


def epsilon(dtype: Any) -> float:
    """The spacing of floating point numbers at 1; 0 for integers."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iub":
        return 0.0
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)
