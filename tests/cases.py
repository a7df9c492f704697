"""The table that drives the tests: one row per op, and what every test asks of a row.

A row says how to call the op, what NumPy in float64 makes of it, and from where to draw operands.
Values, gradients, dtypes, layouts, targets and TensorFlow are tested for every row. A new op costs one row
in `CASES`.

**The tolerance** is stated once, in `tolerance`: an op of n steps per element may be off by ``(4 + 2 n) eps``
of the dtype it computes in, relative to the largest result (at least 1). Operands are of the order of 1.
`gradient_steps` says what n is for a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

import nbops
import nbops.numpy_nn
from nbops.op import Op, registry

Shape = tuple[int, ...]
Array = np.ndarray

# NumPy has these from 2.2 on.
matvec = getattr(np, "matvec", lambda a, x: (a @ x[..., None])[..., 0])
vecmat = getattr(np, "vecmat", lambda x, a: (x[..., None, :] @ a)[..., 0, :])

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


# ---- domains: where operands are drawn from ---------------------------------------------------------
# A domain takes a generator, the shapes of all operands and the number of this one.


def anything(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    """Either sign, magnitudes in [0.25, 2): away from the kinks and poles at 0."""
    return rng.choice([-1.0, 1.0], shapes[index]) * rng.uniform(0.25, 2, shapes[index])


def positive(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    return rng.uniform(0.25, 2, shapes[index])


def probabilities(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    """Inside (ε, 1 - ε), where cross-entropy is not clipped; rows need not sum to 1."""
    return rng.uniform(0.05, 0.9, shapes[index])


def never_tied(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    """Operands of even and odd number that differ by at least 0.15, and add up to at least that."""
    grid = 0.5 * rng.integers(-4, 4, shapes[index]) + (0.25 if index % 2 else 0)
    return grid + rng.uniform(-0.05, 0.05, shapes[index])


def one_or_two(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    """Values that are often equal."""
    return rng.integers(1, 3, shapes[index]).astype(np.float64)


def labels(
    rng: np.random.Generator, shapes: Sequence[Shape], index: int, axis: int = -1, ahead: int = 1
) -> Array:
    """Class numbers for the operand that follows, or one further `ahead`, whose classes are on `axis`."""
    return rng.integers(0, max(shapes[index + ahead][axis], 1), shapes[index])


def positions(rng: np.random.Generator, shapes: Sequence[Shape], index: int) -> Array:
    """0, 1, 2, …"""
    return np.arange(shapes[index][-1])


# ---- a row -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One row.

    Parameters
    ----------
    name : str
    function : function
        As a user calls it, on arrays or tensors.
    oracle : function
        The same in plain NumPy; gets float64 (labels as int64).
    shapes : sequence of tuples of shapes
        Operand shapes to try; the first is typical.
    op : Op, optional
        The op behind the function, whose `vjp` is tested.
    domains : function or tuple of them
        One for all operands, or one per operand.
    differentiable : tuple of int, optional
        The operands that have a gradient; all unless given.
    steps : function of the operands' shapes
        Accumulated terms per element of the result.
    integers : {"keep", "float", "float64"}
        What integer operands become.
    numpy : function, optional
        NumPy's function of the same meaning, whose result dtype is the rule.
    out : bool
        Whether the function takes ``out=``.
    view : bool
        Whether the result is a view of the operand.
    """

    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    shapes: Sequence[tuple[Shape, ...]]
    op: Op | None = None
    domains: Any = anything
    differentiable: tuple[int, ...] | None = None
    steps: Callable[..., int] = lambda *shapes: 1
    integers: str = "keep"
    numpy: Callable[..., Any] | None = None
    out: bool = True
    view: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def n_inputs(self) -> int:
        return len(self.shapes[0])

    @property
    def gradients(self) -> tuple[int, ...]:
        """The numbers of the differentiable operands."""
        return tuple(range(self.n_inputs)) if self.differentiable is None else self.differentiable

    def domain(self, index: int) -> Callable[..., Array]:
        return self.domains[index] if isinstance(self.domains, tuple) else self.domains

    def draw(self, rng: np.random.Generator, shapes: Sequence[Shape], dtype: Any = np.float64) -> list[Array]:
        """Operands of these shapes; labels stay int64."""
        dtype = np.dtype(dtype)
        operands = [np.asarray(self.domain(i)(rng, shapes, i)) for i in range(len(shapes))]
        return [x if x.dtype.kind == "i" else _to_dtype(x, dtype) for x in operands]

    def expected(self, operands: Sequence[Array]) -> list[Array]:
        """The oracle's results in float64, as a list."""
        wide = [
            np.asarray(x).astype(np.int64 if is_label(self, i) else np.float64)
            for i, x in enumerate(operands)
        ]
        with np.errstate(all="ignore"):
            return as_list(self.oracle(*wide))

    def result_dtype(self, dtype: Any) -> np.dtype:
        """The dtype of a result on operands of this dtype."""
        dtype = np.dtype(dtype)
        if dtype.kind not in "iu" or self.integers == "keep":
            return dtype
        return np.dtype(np.float64) if self.integers == "float64" else np.result_type(dtype, np.float16)


def _to_dtype(x: Array, dtype: np.dtype) -> Array:
    if dtype.kind not in "iu":
        return x.astype(dtype)
    whole = np.where(x < 0, np.floor(3 * x), np.ceil(3 * x))  # never 0, and positive stays positive
    return (np.abs(whole) if dtype.kind == "u" else whole).astype(dtype)


def is_label(case: Case, index: int) -> bool:
    domain = case.domain(index)
    return (domain.func if isinstance(domain, partial) else domain) in (labels, positions)


def as_list(results: Any) -> list[Array]:
    several = results if isinstance(results, tuple) else (results,)
    # A tensor's own ``numpy()``: its ``__array__`` gives no array for a single bfloat16.
    return [np.asarray(x.numpy() if hasattr(x, "numpy") else x) for x in several]


# ---- the tolerance -----------------------------------------------------------------------------------


def tolerance(dtype: Any, steps: int, expected: Array) -> float:
    """The absolute error that `steps` roundings in `dtype` may leave; see the file's docstring."""
    finite = np.abs(expected[np.isfinite(expected)])
    return float((4 + 2 * steps) * ml_dtypes.finfo(dtype).eps * max(1.0, finite.max(initial=0.0)))


def gradient_steps(case: Case, shapes: Sequence[Shape], index: int) -> int:
    """Accumulated terms per element of one operand's gradient.

    A rule works with the op's results, or repeats their sums: as many terms as in a result. Then each element
    adds up what arrives from every result that it is part of: along the results' axes that it lacks or that
    were broadcast.
    """
    assert case.op is not None
    signature = case.op.signature
    names = signature.inputs[index]
    length = {
        name: n
        for own, shape in zip(signature.inputs, shapes, strict=True)
        for name, n in zip(own, shape[len(shape) - len(own) :], strict=True)
    }
    batches = [shape[: len(shape) - len(own)] for own, shape in zip(signature.inputs, shapes, strict=True)]
    broadcast = int(np.prod(np.broadcast_shapes(*batches))) // max(1, int(np.prod(batches[index])))
    arriving = sum(
        int(np.prod([length[name] for name in own if name not in names])) for own in signature.outputs
    )
    return case.steps(*shapes) + broadcast * arriving


def assert_gradients_close(
    gradients: Sequence[Any], expected: Sequence[Any], case: Case, operands: Sequence[Array]
) -> None:
    """Compare an op's gradients to others that may be rounded too, each within `tolerance` in its dtype."""
    shapes = [x.shape for x in operands]
    for index, (gradient, wanted) in enumerate(zip(gradients, expected, strict=True)):
        assert (gradient is None) == (wanted is None)
        if wanted is not None:
            gradient, wanted = np.asarray(gradient), np.asarray(wanted)
            assert (gradient.shape, gradient.dtype) == (wanted.shape, operands[index].dtype)
            steps = gradient_steps(case, shapes, index)
            atol = sum(tolerance(x.dtype, steps, wanted) for x in (gradient, wanted))
            np.testing.assert_allclose(gradient, wanted, rtol=0, atol=atol, err_msg=f"operand {index}")


def assert_close(results: Any, expected: Sequence[Array], case: Case, shapes: Sequence[Shape]) -> None:
    """Compare results to the oracle: shapes equal; integers equal; floats within `tolerance`."""
    results = as_list(results)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        if result.dtype.kind in "iu":
            np.testing.assert_array_equal(result, wanted)
        else:
            atol = tolerance(result.dtype, case.steps(*shapes), wanted)
            np.testing.assert_allclose(result.astype(np.float64), wanted, rtol=0, atol=atol)


# ---- oracles -----------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array, axis: int = -1) -> Array:
    power = np.exp(x - x.max(axis, keepdims=True, initial=-np.inf))
    return power / power.sum(axis, keepdims=True)


def log_softmax(x: Array, axis: int = -1) -> Array:
    shifted = x - x.max(axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def softmax_gradient(y: Array, dy: Array) -> Array:
    return y * (dy - (y * dy).sum(-1, keepdims=True))


def log_softmax_gradient(y: Array, dy: Array) -> Array:
    return dy - np.exp(y) * dy.sum(-1, keepdims=True)


def at_label(label: Array, x: Array, axis: int = -1) -> Array:
    x = np.moveaxis(x, axis, -1)
    batch = np.broadcast_shapes(label.shape, x.shape[:-1])
    label, x = np.broadcast_to(label, batch), np.broadcast_to(x, (*batch, x.shape[-1]))
    return np.take_along_axis(x, label[..., None], -1)[..., 0]


def one_hot(label: Array, n: int) -> Array:
    return (label[..., None] == np.arange(n)).astype(float)


def crossentropy(label: Array, p: Array, from_logits: bool, axis: int = -1) -> Array:
    """Keras's formula: log of the clipped probabilities, then TensorFlow's cross-entropy from logits."""
    logits = p if from_logits else np.log(np.clip(p, 1e-7, 1 - 1e-7))
    return -at_label(label, log_softmax(logits, axis), axis)


def crossentropy_gradient(label: Array, p: Array, dout: Array, from_logits: bool) -> Array:
    hot = one_hot(label, p.shape[-1])
    if from_logits:
        return dout[..., None] * (softmax(p) - hot)
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    return (p == clipped) * dout[..., None] * (1 / clipped.sum(-1, keepdims=True) - hot / clipped)


def crossentropy_curvature(label: Array, p: Array, dout: Array, upstream: Array) -> Array:
    clipped = np.clip(p, 1e-7, 1 - 1e-7)
    inside = p == clipped
    common = (inside * upstream).sum(-1, keepdims=True) / clipped.sum(-1, keepdims=True) ** 2
    return inside * dout[..., None] * (one_hot(label, p.shape[-1]) * upstream / clipped**2 - common)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softmax": softmax,
}


def dense(x: Array, w: Array, b: Array | float = 0.0, activation: str = "linear") -> Array:
    bias = b[..., None, :] if isinstance(b, np.ndarray) else b
    return ACTIVATIONS[activation](np.matmul(x, w) + bias)


def weight_gradient(x: Array, dz: Array) -> tuple[Array, Array]:
    """Both in the operands' common batch."""
    dw = np.matmul(np.swapaxes(x, -1, -2), dz)
    return dw, np.broadcast_to(dz.sum(-2), (*dw.shape[:-2], dw.shape[-1]))


# ---- shapes ------------------------------------------------------------------------------------------

UNARY = [((3, 4),), ((),), ((7,),), ((1, 1),), ((2, 3, 5),), ((0,),), ((2, 0, 3),)]
BINARY = [
    ((3, 4), (3, 4)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 3, 4)),
    ((3, 1), (1, 4)),
    ((), ()),
    ((5,), ()),
    ((), (5,)),
    ((1, 1), (1,)),
    ((2, 3, 1, 5), (3, 4, 1)),
    ((64,), (2, 64)),
    ((0, 3), (3,)),
    ((2, 0), (1,)),
]
TERNARY = [((3, 4), (3, 4), (3, 4)), ((2, 3, 1), (4,), ()), ((), (3, 1), (1, 4)), ((0, 2), (2,), (1,))]
QUINARY = [((3, 4), (3, 4), (3, 4), (), ()), ((2, 3), (3,), (), (2, 1), ()), ((0,), (0,), (1,), (), ())]
MATRICES = [
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((1, 1), (1, 1)),
    ((1, 6), (6, 1)),
    ((37, 70), (70, 41)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((3, 4), (4, 0)),
    ((0, 3, 4), (4, 5)),
]
DENSE = [
    ((3, 4), (4, 5), (5,)),
    ((2, 3, 4), (4, 5), (5,)),
    ((3, 4), (2, 4, 5), (5,)),
    ((3, 4), (4, 5), (2, 5)),
    ((1, 1), (1, 1), (1,)),
    ((37, 70), (70, 10), (10,)),
    ((0, 4), (4, 5), (5,)),
    ((3, 0), (0, 5), (5,)),
]
ROWS = [((3, 5),), ((6,),), ((2, 3, 4),), ((4, 1),), ((1, 300),), ((0, 4),)]
COLUMNS = [((3, 5),), ((2, 70, 3),), ((5, 1),), ((9, 130),), ((0, 4),), ((4, 0),)]
PAIRS_OF_ROWS = [(*x, *x) for x in ROWS] + [((2, 1, 5), (3, 5))]
LABELLED = [((3,), (3, 5)), ((), (4,)), ((2, 3), (2, 3, 4)), ((2, 1), (3, 4)), ((2,), (2, 1)), ((0,), (0, 4))]
WITH_POSITIONS = [(y, x[-1:], x) for y, x in LABELLED]


def _last(x: Shape, *others: Shape) -> int:
    """The last axis of the first operand is summed over."""
    return x[-1]


def _elementwise(name: str, oracle: Any, n_inputs: int = 1, **fields: Any) -> Case:
    shapes = {1: UNARY, 2: BINARY, 3: TERNARY, 5: QUINARY}[n_inputs]
    return Case(name, registry[name], oracle, shapes, op=registry[name], **fields)


def _op(name: str, oracle: Any, shapes: Any, **fields: Any) -> Case:
    return Case(name, registry[name], oracle, shapes, op=registry[name], **fields)


def _function(name: str, function: Any, oracle: Any, shapes: Any, **fields: Any) -> Case:
    return Case(name, function, oracle, shapes, **fields)


def _reduction(name: str, numpy_function: Any, shapes: Any, integers: str, **arguments: Any) -> Case:
    ours = partial(getattr(nbops, name), **arguments)
    oracle = partial(numpy_function, **arguments)
    described = ", ".join(f"{key}={value}" for key, value in arguments.items())
    count = lambda x: int(np.prod(x))  # noqa: E731
    return Case(f"{name}({described})", ours, oracle, shapes, steps=count, integers=integers, numpy=oracle)


_of_columns: dict[str, Any] = {
    "steps": lambda x: x[-2],
    "differentiable": (),
    "integers": "float",
}


# ---- the table ---------------------------------------------------------------------------------------

CASES = [
    # elementwise
    _elementwise("add", np.add, 2, numpy=np.add),
    _elementwise("subtract", np.subtract, 2, numpy=np.subtract),
    _elementwise("multiply", np.multiply, 2, numpy=np.multiply),
    _elementwise("divide", np.divide, 2, integers="float64", numpy=np.divide),
    _elementwise("maximum", np.maximum, 2, domains=never_tied, numpy=np.maximum),
    _elementwise("minimum", np.minimum, 2, domains=never_tied, numpy=np.minimum),
    _elementwise("negative", np.negative, numpy=np.negative),
    _elementwise("relu", lambda x: np.maximum(x, 0)),
    _elementwise("add_relu", lambda x, y: np.maximum(x + y, 0), 2, domains=never_tied),
    _elementwise("exp", np.exp, integers="float", numpy=np.exp),
    _elementwise("log", np.log, domains=positive, integers="float", numpy=np.log),
    _elementwise("sqrt", np.sqrt, domains=positive, integers="float", numpy=np.sqrt),
    _elementwise("tanh", np.tanh, integers="float", numpy=np.tanh),
    _elementwise("sigmoid", sigmoid, integers="float"),
    _elementwise("relu_gradient", lambda y, dy: dy * (y > 0), 2, differentiable=(1,)),
    _elementwise(
        "rmsprop_mean_square",
        lambda v, g, rho: rho * v + (1 - rho) * g * g,
        3,
        differentiable=(),
        integers="float",
    ),
    _elementwise(
        "rmsprop_update",
        lambda w, g, v, rate, epsilon: w - rate * g / np.sqrt(v + epsilon),
        5,
        domains=positive,
        differentiable=(),
        integers="float",
    ),
    _elementwise("sgd_update", lambda w, g, rate: w - rate * g, 3, differentiable=(), integers="float"),
    _elementwise("tanh_gradient", lambda y, dy: dy * (1 - y * y), 2),
    _elementwise("sigmoid_gradient", lambda y, dy: dy * y * (1 - y), 2),
    _elementwise(
        "keep_where_taken",
        lambda x, t, v: v * (x == t),
        3,
        domains=(one_or_two,) * 2 + (anything,),
        differentiable=(2,),
    ),
    _elementwise(
        "keep_where_not_taken",
        lambda x, t, v: v * (x != t),
        3,
        domains=(one_or_two,) * 2 + (anything,),
        differentiable=(2,),
    ),
    # products
    _op(
        "vecdot",
        np.vecdot,
        [
            ((5,), (5,)),
            ((2, 3, 5), (5,)),
            ((4, 1, 5), (3, 5)),
            ((1,), (1,)),
            ((300,), (300,)),
            ((0,), (2, 0)),
        ],
        steps=_last,
        numpy=np.vecdot,
    ),
    _op(
        "matvec",
        matvec,
        [
            ((3, 5), (5,)),
            ((2, 3, 5), (5,)),
            ((3, 5), (4, 5)),
            ((1, 1), (1,)),
            ((40, 33), (33,)),
            ((3, 0), (0,)),
            ((0, 5), (5,)),
        ],
        steps=_last,
        numpy=matvec,
    ),
    _op(
        "vecmat",
        vecmat,
        [
            ((3,), (3, 5)),
            ((2, 3), (3, 5)),
            ((3,), (4, 3, 5)),
            ((1,), (1, 1)),
            ((33,), (33, 40)),
            ((0,), (0, 5)),
            ((3,), (3, 0)),
        ],
        steps=_last,
        numpy=vecmat,
    ),
    _op("matmul", np.matmul, MATRICES, steps=_last, numpy=np.matmul),
    _op(
        "gemm",
        lambda a, b, c, alpha: c + alpha[..., None, None] * (a @ b),
        [
            ((3, 4), (4, 5), (3, 5), ()),
            ((2, 3, 4), (4, 5), (3, 5), (2,)),
            ((3, 4), (4, 5), (2, 3, 5), ()),
            ((3, 4), (4, 5), (2, 2, 3, 5), (3, 1, 2)),
            ((1, 1), (1, 1), (1, 1), ()),
            ((1, 6), (6, 70), (1, 70), ()),
            ((70, 37), (37, 3), (70, 3), ()),
            ((37, 430), (430, 61), (37, 61), ()),
            ((0, 3), (3, 5), (0, 5), ()),
            ((3, 0), (0, 5), (3, 5), ()),
        ],
        steps=lambda a, b, c, alpha: a[-1] + 2,
    ),
    _function(
        "matmul(aᵀ, b)",
        partial(nbops.matmul, axes=[(-1, -2), (-2, -1), (-2, -1)]),
        lambda a, b: np.matmul(np.swapaxes(a, -1, -2), b),
        [((4, 3), (4, 5)), ((2, 4, 3), (4, 5)), ((70, 37), (70, 41)), ((0, 3), (0, 5))],
        steps=lambda a, b: a[-2],
    ),
    _function(
        "matmul(a, bᵀ)ᵀ",
        partial(nbops.matmul, axes=[(-2, -1), (-1, -2), (-1, -2)]),
        lambda a, b: np.swapaxes(np.matmul(a, np.swapaxes(b, -1, -2)), -1, -2),
        [((3, 4), (5, 4)), ((3, 4), (2, 5, 4)), ((37, 70), (41, 70)), ((3, 0), (5, 0))],
        steps=_last,
    ),
    _function(
        "dot",
        nbops.dot,
        np.dot,
        [
            ((3, 4), (4, 5)),
            ((4,), (4,)),
            ((3, 4), (4,)),
            ((4,), (4, 5)),
            ((), (3,)),
            ((2, 3), ()),
            ((2, 3, 4), (4,)),
            ((2, 3, 4), (4, 5)),
            ((4,), (3, 4, 5)),
            ((2, 4), (3, 4, 5)),
            ((2, 3, 4), (5, 4, 2)),
            ((2, 0), (0, 3)),
            ((2, 4), (3, 4, 0)),
            ((2, 0), (3, 0, 4)),
        ],
        steps=lambda a, b: a[-1] if a and b else 1,
        numpy=np.dot,
        out=False,
    ),
    # shapes
    _function(
        "reshape",
        partial(nbops.reshape, shape=(-1, 2)),
        lambda x: np.reshape(x, (-1, 2)),
        [((3, 4),), ((2,),)],
        out=False,
        view=True,
    ),
    _function(
        "transpose",
        nbops.transpose,
        np.transpose,
        [((3, 4),), ((2, 3, 4),), ((5,),), ((0, 2),)],
        out=False,
        view=True,
    ),
    _function(
        "transpose(axes)",
        partial(nbops.transpose, axes=(1, 2, 0)),
        lambda x: np.transpose(x, (1, 2, 0)),
        [((2, 3, 4),)],
        out=False,
        view=True,
    ),
    _function(
        "matrix_transpose",
        nbops.matrix_transpose,
        lambda x: np.swapaxes(x, -1, -2),
        [((3, 4),), ((2, 3, 4),)],
        out=False,
        view=True,
    ),
    _function(
        "broadcast_to",
        partial(nbops.broadcast_to, shape=(2, 3, 4)),
        lambda x: np.broadcast_to(x, (2, 3, 4)),
        [((3, 4),), ((3, 1),), ((1,),), ((),)],
        out=False,
        view=True,
    ),
    _function(
        "expand_dims",
        partial(nbops.expand_dims, axis=1),
        lambda x: np.expand_dims(x, 1),
        [((3, 4),), ((3,),)],
        out=False,
        view=True,
    ),
    # reductions
    _op("sum_row", lambda x: x.sum(-1), [*ROWS, ((3, 0),), ((2, 600),)], steps=_last),
    _op(
        "sum_rows",
        lambda x: x.sum(-2),
        [((3, 5),), ((2, 3, 4),), ((1, 1),), ((0, 4),), ((300, 3),)],
        steps=lambda x: x[-2],
    ),
    _reduction("sum", np.sum, [((3, 4),), ((),), ((2, 3, 4),), ((0, 4),)], "keep"),
    _reduction("sum", np.sum, [((3, 4),), ((2, 3, 4, 5),), ((0, 4),)], "keep", axis=0),
    _reduction("sum", np.sum, [((2, 3, 4),), ((2, 3, 4, 5),), ((2, 0, 3),)], "keep", axis=1, keepdims=True),
    _reduction("sum", np.sum, [((2, 3, 4),), ((2, 3, 4, 5),), ((2, 3, 0),)], "keep", axis=(0, -1)),
    _reduction("sum", np.sum, [((2, 3, 4),)], "keep", axis=(1, 2), keepdims=True),
    _reduction("sum", np.sum, [((2, 3),)], "keep", axis=()),
    _reduction("mean", np.mean, [((3, 4),), ((),), ((2, 3, 4),), ((0,),)], "float64"),
    _reduction("mean", np.mean, [((3, 4),), ((2, 3, 4),), ((0, 2),)], "float64", axis=0, keepdims=True),
    _reduction("mean", np.mean, [((2, 3, 4),), ((2, 3, 4, 5),)], "float64", axis=(0, 2)),
    # softmax and cross-entropy
    _op("softmax", softmax, ROWS, steps=_last, integers="float"),
    _op("log_softmax", log_softmax, ROWS, steps=_last, integers="float"),
    _op("softmax_gradient", softmax_gradient, PAIRS_OF_ROWS, steps=_last, integers="float"),
    _op("log_softmax_gradient", log_softmax_gradient, PAIRS_OF_ROWS, steps=_last, integers="float"),
    _op("softmax_of_columns", partial(softmax, axis=-2), COLUMNS, **_of_columns),
    _op("log_softmax_of_columns", partial(log_softmax, axis=-2), COLUMNS, **_of_columns),
    _op(
        "peak_and_sum",
        lambda x: (x.max(-1, initial=-np.inf), np.exp(x - x.max(-1, keepdims=True, initial=-np.inf)).sum(-1)),
        [*ROWS, ((3, 0),)],
        steps=_last,
        differentiable=(),
        integers="float",
    ),
    _elementwise("rescaled", lambda t, m, n: t * np.exp(m - n), 3, differentiable=(), integers="float"),
    _op(
        "exp_below_over",
        lambda x, m, t: np.exp(x - m[..., None]) / t[..., None],
        [
            ((3, 5), (3,), (3,)),
            ((2, 3, 5), (3,), ()),
            ((4,), (), ()),
            ((0, 4), (0,), (0,)),
            ((3, 0), (3,), (3,)),
        ],
        domains=(anything, anything, positive),
        differentiable=(),
        integers="float",
    ),
    _function(
        "softmax(axis=0)",
        partial(nbops.softmax, axis=0),
        partial(softmax, axis=0),
        [((4, 3),), ((5,),), ((2, 3, 4),)],
        steps=lambda x: x[0],
        integers="float",
    ),
    _function(
        "log_softmax(axis=1)",
        partial(nbops.log_softmax, axis=1),
        partial(log_softmax, axis=1),
        [((3, 4),), ((2, 3, 4),)],
        steps=lambda x: x[1],
        integers="float",
    ),
    _op(
        "crossentropy_from_logits",
        partial(crossentropy, from_logits=True),
        LABELLED,
        domains=(labels, anything),
        differentiable=(1,),
        steps=lambda y, x: x[-1],
        integers="float",
    ),
    _op(
        "crossentropy_from_probabilities",
        partial(crossentropy, from_logits=False),
        [shapes for shapes in LABELLED if shapes != ((2, 1), (3, 4))],  # Keras broadcasts no labels
        domains=(labels, probabilities),
        differentiable=(1,),
        steps=lambda y, x: x[-1],
        integers="float",
    ),
    _op(
        "crossentropy_from_logits_gradient",
        partial(crossentropy_gradient, from_logits=True),
        [((3,), (3, 5), (3,)), ((), (4,), ()), ((2, 1), (3, 4), (2, 3)), ((0,), (0, 4), (0,))],
        domains=(labels, anything, anything),
        differentiable=(1, 2),
        steps=lambda y, x, d: x[-1],
        integers="float",
    ),
    _op(
        "crossentropy_and_gradient",
        lambda y, x, d: (
            np.broadcast_arrays(crossentropy(y, x, from_logits=True), d)[0],
            crossentropy_gradient(y, x, d, from_logits=True),
        ),
        [((3,), (3, 5), (3,)), ((), (4,), ()), ((2, 1), (3, 4), (2, 3)), ((0,), (0, 4), (0,))],
        domains=(labels, anything, anything),
        differentiable=(1, 2),
        steps=lambda y, x, d: x[-1],
        integers="float",
    ),
    _op(
        "crossentropy_from_probabilities_gradient",
        partial(crossentropy_gradient, from_logits=False),
        [((3,), (3, 5), (3,)), ((), (4,), ()), ((2, 1), (3, 4), (2, 3)), ((0,), (0, 4), (0,))],
        domains=(labels, probabilities, anything),
        differentiable=(1, 2),
        steps=lambda y, x, d: x[-1],
        integers="float",
    ),
    _op(
        "crossentropy_from_probabilities_curvature",
        crossentropy_curvature,
        [((3,), (3, 5), (3,), (3, 5)), ((), (4,), (), (4,)), ((2, 1), (3, 4), (2, 3), (4,))],
        domains=(labels, probabilities, anything, anything),
        differentiable=(),
        steps=lambda y, x, d, u: x[-1],
        integers="float",
    ),
    _op(
        "find_label",
        lambda y, p, x: (at_label(y, x), np.ones(np.broadcast_shapes(y.shape, x.shape[:-1]))),
        WITH_POSITIONS,
        domains=(partial(labels, ahead=2), positions, anything),
        differentiable=(),
        integers="float",
    ),
    _op(
        "one_hot",
        lambda y, p, x: np.broadcast_to(
            one_hot(y, x.shape[-1]), (*np.broadcast_shapes(y.shape, x.shape[:-1]), x.shape[-1])
        ),
        WITH_POSITIONS,
        domains=(partial(labels, ahead=2), positions, anything),
        differentiable=(),
        integers="float",
    ),
    _elementwise("clipped", lambda p: np.clip(p, 1e-7, 1 - 1e-7), differentiable=(), integers="float"),
    _elementwise(
        "zero_where_clipped",
        lambda p, v: v * ((p >= 1e-7) & (p <= 1 - 1e-7)),
        2,
        differentiable=(),
    ),
    _op("take_label", at_label, LABELLED, domains=(labels, anything), differentiable=(), integers="float"),
    _function(
        "sparse_categorical_crossentropy",
        nbops.sparse_categorical_crossentropy,
        partial(crossentropy, from_logits=False),
        [shapes for shapes in LABELLED if shapes != ((2, 1), (3, 4))],  # Keras broadcasts no labels
        domains=(labels, probabilities),
        differentiable=(1,),
        steps=lambda y, x: x[-1],
        integers="float",
    ),
    _function(
        "sparse_categorical_crossentropy(from_logits, axis=1)",
        partial(nbops.sparse_categorical_crossentropy, from_logits=True, axis=1),
        partial(crossentropy, from_logits=True, axis=1),
        [((2, 4), (2, 3, 4)), ((3,), (3, 5))],
        domains=(partial(labels, axis=1), anything),
        differentiable=(1,),
        steps=lambda y, x: x[1],
        integers="float",
    ),
    # dense
    *(
        _op(f"dense_{name}", partial(dense, activation=name), DENSE, steps=_last, integers="float")
        for name in ACTIVATIONS
    ),
    _op(
        "dense_weight_gradient",
        weight_gradient,
        [
            ((3, 4), (3, 5)),
            ((2, 3, 4), (2, 3, 5)),
            ((3, 4), (2, 3, 5)),
            ((1, 1), (1, 1)),
            ((70, 37), (70, 10)),
            ((0, 4), (0, 5)),
        ],
        steps=lambda x, dz: x[-2],
    ),
    _function(
        "dense(b=None)", nbops.dense, dense, MATRICES[:2] + MATRICES[7:9], steps=_last, integers="float"
    ),
    _function(
        "dense(b=None, relu)",
        partial(nbops.dense, activation="relu"),
        partial(dense, activation="relu"),
        MATRICES[:2],
        steps=_last,
        integers="float",
    ),
    _function(
        "dense(activation=nbops.tanh)",
        partial(nbops.dense, activation=nbops.tanh),
        partial(dense, activation="tanh"),
        DENSE[:2],
        steps=_last,
        integers="float",
    ),
]

BY_NAME = {case.name: case for case in CASES}

#: Every case with each of its shapes, for ``pytest.mark.parametrize("case, shapes", …)``.
CASES_AND_SHAPES = [(case, shapes) for case in CASES for shapes in case.shapes]


def describe(value: Any) -> str | None:
    """Readable test ids."""
    if isinstance(value, Case):
        return value.name
    if isinstance(value, tuple) and all(isinstance(shape, tuple) for shape in value):
        return ",".join("x".join(map(str, shape)) or "()" for shape in value)
    return getattr(value, "__name__", None)
