"""What ops promise beyond values: NaN and infinities, errors, ``out=``, inputs that stay as they are."""

from __future__ import annotations

import pickle
import re
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.op import registry
from tests.cases import ACTIVATIONS, BY_NAME, CASES, Case, as_list, describe, sigmoid

NAN, INF = np.nan, np.inf
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 1e-310, -1e-310, 1e300, -1e300, 800.0, -800.0]
UNARY = {
    "negative": np.negative,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: np.where(x < 0, 0.0, x).astype(x.dtype),
}
BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "add_relu": lambda x, y: np.where(x + y < 0, 0.0, x + y).astype(x.dtype),
}


@pytest.fixture(params=["python", "serial", "parallel"])
def target(request: pytest.FixtureRequest) -> Any:
    with nbops.use(request.param):
        yield request.param


# ---- NaN and infinities -------------------------------------------------------------------------------


def assert_same_specials(result: Any, expected: Any) -> None:
    """Equal, NaN where NaN is, and ordinary numbers to some ulp."""
    np.testing.assert_array_equal(np.isnan(result), np.isnan(expected))
    np.testing.assert_allclose(result, expected, rtol=8 * np.finfo(expected.dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=describe)
@pytest.mark.parametrize("name", UNARY)
def test_special_values_of_one_argument(name: str, dtype: Any, target: str) -> None:
    with np.errstate(all="ignore"):
        x = np.array(SPECIAL).astype(dtype)
        x = x[(np.abs(x) >= np.finfo(dtype).tiny) | ~np.isfinite(x) | (x == 0)]
        expected = UNARY[name](x)
    assert_same_specials(getattr(nbops, name)(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=describe)
@pytest.mark.parametrize("name", BINARY)
def test_special_values_of_two_arguments(name: str, dtype: Any, target: str) -> None:
    with np.errstate(all="ignore"):
        x = np.array(SPECIAL).astype(dtype)
        expected = BINARY[name](x[:, None], x)
    assert_same_specials(getattr(nbops, name)(x[:, None], x), expected)


def test_signs_of_zero(target: str) -> None:
    zeros = np.array([0.0, -0.0])
    assert np.signbit(nbops.negative(zeros)).tolist() == [True, False]
    assert np.signbit(nbops.sqrt(zeros)).tolist() == [False, True]
    assert np.signbit(nbops.maximum(zeros, zeros[::-1])).tolist() == [False, True]
    assert np.signbit(nbops.minimum(zeros, zeros[::-1])).tolist() == [False, True]
    assert np.signbit(nbops.multiply(zeros, -1.0)).tolist() == [True, False]


def test_nan_and_infinity_in_products(target: str) -> None:
    """0 times NaN is NaN: no product may skip a zero, nor a row or column of them."""
    a = np.zeros((3, 4))
    a[1, 2] = NAN
    result = nbops.matmul(a, np.zeros((4, 2)))
    assert np.isnan(result).tolist() == [[False] * 2, [True] * 2, [False] * 2]
    assert np.isnan(nbops.matmul(np.zeros((2, 3)), a)).any(0).tolist() == [False, False, True, False]
    assert np.isnan(nbops.matvec(a, np.zeros(4))).tolist() == [False, True, False]
    assert np.isnan(nbops.vecmat(np.zeros(3), a)).tolist() == [False, False, True, False]
    assert np.isnan(nbops.vecdot(np.array([INF, 1.0]), np.array([0.0, 1.0])))
    assert nbops.vecdot(np.array([INF, 1.0]), np.array([2.0, 1.0])) == INF


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_dense_stays_in_its_row(activation: str, target: str) -> None:
    x = np.ones((3, 4))
    x[1, 0] = NAN
    result = nbops.dense(x, np.ones((4, 2)), np.ones(2), activation)
    assert np.isnan(result).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_empty_sums_and_products_are_zero(target: str) -> None:
    assert nbops.matmul(np.ones((2, 0)), np.ones((0, 3))).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert nbops.matvec(np.ones((2, 0)), np.ones(0)).tolist() == [0, 0]
    assert nbops.vecmat(np.ones(0), np.ones((0, 2))).tolist() == [0, 0]
    assert nbops.vecdot(np.ones(0), np.ones(0)) == 0
    assert nbops.sum(np.ones((0, 3)), axis=0).tolist() == [0, 0, 0]
    assert nbops.dense(np.ones((2, 0)), np.ones((0, 2)), np.array([1.0, -1.0]), "relu").tolist() == [
        [1, 0],
        [1, 0],
    ]


def test_softmax_of_special_rows(target: str) -> None:
    rows = np.array(
        [
            [1000.0, 0.0, -1000.0],
            [-1e308, -1e308, -1e308],
            [0.0, NAN, 0.0],
            [NAN, 0.0, 0.0],
            [-INF, 0.0, 0.0],
            [-INF, -INF, -INF],
            [INF, 0.0, 0.0],
            [0.0, INF, INF],
        ]
    )
    third, half = 1 / 3, 0.5
    expected = [
        [1, 0, 0],
        [third] * 3,
        [NAN] * 3,
        [NAN] * 3,
        [0, half, half],
        [NAN] * 3,
        [NAN] * 3,
        [NAN] * 3,
    ]
    np.testing.assert_allclose(nbops.softmax(rows), expected, rtol=1e-15)
    with np.errstate(divide="ignore"):
        logarithms = np.log(expected)
    logarithms[0] = [0, -1000, -2000]
    np.testing.assert_allclose(nbops.log_softmax(rows), logarithms, rtol=1e-15)
    fused = nbops.dense(rows[:2], np.eye(3), np.zeros(3), "softmax")
    np.testing.assert_allclose(fused, expected[:2], rtol=1e-15)


def test_mean_and_sum_of_special_values(target: str) -> None:
    assert np.isnan(nbops.mean(np.ones(0)))
    assert np.isnan(nbops.mean(np.ones((0, 2)), axis=0)).all()
    assert np.isnan(nbops.sum(np.array([1.0, NAN])))
    assert nbops.sum(np.array([1.0, INF])) == INF
    assert np.isnan(nbops.sum(np.array([-INF, INF])))


def test_crossentropy_of_special_rows(target: str) -> None:
    loss = nbops.sparse_categorical_crossentropy
    assert loss([0], [[1e4, 0.0]], from_logits=True)[0] == 0
    assert loss([1], [[1e4, 0.0]], from_logits=True)[0] == 1e4
    assert loss([0], [[-INF, 0.0]], from_logits=True)[0] == INF
    assert np.isnan(loss([0], [[0.0, NAN]], from_logits=True)[0])
    assert np.isnan(loss([0], [[0.5, NAN]])[0])
    # clipped to [1e-7, 1 - 1e-7], as in Keras
    np.testing.assert_allclose(loss([0, 1], [[0.0, 1.0], [0.0, 1.0]]), [-np.log(1e-7), 1e-7], rtol=1e-6)


def test_crossentropy_op_gives_nan_for_a_label_out_of_range(target: str) -> None:
    """The public function raises, and so does a kernel of TensorFlow's; a loop can't."""
    labels, x = np.array([-1, 0, 2]), np.full((3, 2), 0.5)
    for name in ("crossentropy_from_logits", "crossentropy_from_probabilities", "take_label"):
        assert np.isnan(registry[name](labels, x)).tolist() == [True, False, True]
    for name in ("crossentropy_from_logits_gradient", "crossentropy_from_probabilities_gradient"):
        assert np.isnan(registry[name](labels, x, np.ones(3))).all(1).tolist() == [True, False, True]


def test_no_op_warns(target: str) -> None:
    x = np.array(SPECIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in UNARY:
            getattr(nbops, name)(x)
        for name in BINARY:
            getattr(nbops, name)(x[:, None], x)
        nbops.mean(np.ones(0))
        nbops.divide(np.array([1, 0, -1]), 0)


def test_integer_division_by_zero(target: str) -> None:
    np.testing.assert_array_equal(nbops.divide(np.array([1, 0, -1]), 0), [INF, NAN, -INF])


# ---- errors name both shapes and the rule ----------------------------------------------------------------

ONES = np.ones
ERRORS = {
    "inner sizes": (
        lambda: nbops.matmul(ONES((3, 4)), ONES((5, 2))),
        ValueError,
        "matmul: a is (3, 4) and b is (5, 2); a.shape[-1] must equal b.shape[-2]",
    ),
    "vectors": (
        lambda: nbops.vecdot(ONES(3), ONES(4)),
        ValueError,
        "x is (3,) and y is (4,); x.shape[-1] must equal y.shape[-1]",
    ),
    "too few axes": (
        lambda: nbops.matmul(ONES(()), ONES(3)),
        ValueError,
        "a is (); it must have at least 2 axes",
    ),
    "batch axes": (
        lambda: nbops.matmul(ONES((2, 3, 4)), ONES((5, 4, 2))),
        ValueError,
        "a is (2, 3, 4) and b is (5, 4, 2); the axes before the core axes of (m,k),(k,n)->(m,n) must",
    ),
    "broadcast": (
        lambda: nbops.add(ONES((2, 3)), ONES(4)),
        ValueError,
        "add: x is (2, 3) and y is (4,); the shapes must broadcast",
    ),
    "bias": (
        lambda: nbops.dense(ONES((2, 3)), ONES((3, 4)), ONES(5)),
        ValueError,
        "w is (3, 4) and b is (5,); w.shape[-1] must equal b.shape[-1]",
    ),
    "activation": (
        lambda: nbops.dense(ONES((2, 3)), ONES((3, 4)), activation="gelu"),
        ValueError,
        "unknown activation 'gelu'",
    ),
    "dot": (lambda: nbops.dot(ONES((2, 3)), ONES((4, 2))), ValueError, "a is (2, 3) and b is (4, 2)"),
    "no rows": (lambda: nbops.softmax(1.0), ValueError, "softmax: x is (); it must have at least 1 axis"),
    "sum axis": (lambda: nbops.sum(ONES((2, 3)), axis=2), ValueError, "axis is 2, but the array has 2 axes"),
    "mean axis": (
        lambda: nbops.mean(ONES((2, 3)), axis=-3),
        ValueError,
        "mean: axis is -3, but the array has 2 axes",
    ),
    "axis twice": (lambda: nbops.sum(ONES((2, 3)), axis=(0, -2)), ValueError, "names an axis twice"),
    "softmax axis": (lambda: nbops.softmax(ONES((2, 3)), axis=2), ValueError, "softmax"),
    "label": (
        lambda: nbops.sparse_categorical_crossentropy([0, 3], ONES((2, 3))),
        ValueError,
        "y_true has the label 3, but y_pred has 3 classes",
    ),
    "label below 0": (
        lambda: nbops.sparse_categorical_crossentropy([-1], ONES((1, 3))),
        ValueError,
        "the label -1",
    ),
    "infinite label": (
        lambda: nbops.sparse_categorical_crossentropy([1.0, np.inf], ONES((2, 3))),
        ValueError,
        "y_true has the label inf, but y_pred has 3 classes",
    ),
    "large label": (
        lambda: nbops.sparse_categorical_crossentropy([4.0, 1e30], ONES((2, 3))),
        ValueError,
        "y_true has the label 4, but y_pred has 3 classes",
    ),
    "half a label": (
        lambda: nbops.sparse_categorical_crossentropy([0.5], ONES((1, 3))),
        TypeError,
        "y_true has dtype float64 and fractions; expected integers",
    ),
    "labels in long double": (
        lambda: nbops.sparse_categorical_crossentropy(ONES(1, np.longdouble), ONES((1, 3))),
        TypeError,
        f"sparse_categorical_crossentropy: y_true has dtype {np.dtype(np.longdouble)}; expected",
    ),
    "labels that are answers": (
        lambda: nbops.sparse_categorical_crossentropy([True], ONES((1, 3))),
        TypeError,
        "sparse_categorical_crossentropy: y_true is a list of dtype bool; expected real numbers",
    ),
    "labels' shape": (
        lambda: nbops.sparse_categorical_crossentropy([0, 1, 1], ONES((2, 3))),
        ValueError,
        "y_true is (3,) and y_pred is (2, 3); expected one label per prediction",
    ),
    "operands": (lambda: nbops.add(ONES(2)), TypeError, "add: 1 operands came; expected x, y"),
    "no such keyword": (
        lambda: nbops.add(ONES(2), ONES(2), where=True),
        TypeError,
        "add: there is no where=; there are out, axes, target",
    ),
    "axes that are no list": (
        lambda: nbops.vecdot(ONES(2), ONES(2), axes=0),
        TypeError,
        "vecdot: axes is 0; expected a list with a tuple of integers each",
    ),
    "axes that are no integers": (
        lambda: nbops.vecdot(ONES(2), ONES(2), axes="01"),
        TypeError,
        "vecdot: axes is '01'; expected a list",
    ),
    "half an axis": (
        lambda: nbops.vecdot(ONES(2), ONES(2), axis=0.5),
        TypeError,
        "vecdot: axes is [(0.5,), (0.5,), ()]; expected a list",
    ),
    "one axis for two": (
        lambda: nbops.matmul(ONES((2, 2)), ONES((2, 2)), axes=[(0, -2), (0, 1), (0, 1)]),
        ValueError,
        "matmul: axes (0, -2) of a name one axis twice; a is (2, 2)",
    ),
    "axis of two answers": (lambda: nbops.sum(ONES((2, 2)), axis=True), TypeError, "axis is True; expected"),
    "axes": (
        lambda: nbops.matmul(ONES((2, 2)), ONES((2, 2)), axes=[(0, 1)]),
        ValueError,
        "needs one tuple per operand",
    ),
    "reshape": (lambda: nbops.reshape(ONES(6), (4,)), ValueError, "size 6 into shape (4,)"),
    "broadcast_to": (lambda: nbops.broadcast_to(ONES(3), (2, 2)), ValueError, "(3,)"),
    "transpose": (lambda: nbops.transpose(ONES((2, 3)), (0, 0)), ValueError, "repeated axis"),
    "out's shape": (
        lambda: nbops.relu(ONES(3), out=ONES(4)),
        ValueError,
        "relu: out is (4,); the result's shape is (3,)",
    ),
    "out's dtype": (
        lambda: nbops.relu(ONES(3), out=ONES(3, np.int64)),
        TypeError,
        "float64 can't be put into out of dtype int64",
    ),
    "out's type": (lambda: nbops.relu(ONES(3), out=[0, 0, 0]), TypeError, "out is a list"),
    "out twice": (
        lambda: nbops.relu(ONES(3), out=(ONES(3), ONES(3))),
        ValueError,
        "out has 2 arrays; expected 1",
    ),
    "out read-only": (
        lambda: nbops.relu(ONES(3), out=np.broadcast_to(1.0, 3)),
        ValueError,
        "out is read-only",
    ),
    "too large": (
        lambda: nbops.add(np.broadcast_to(1.0, (2**40, 1)), np.broadcast_to(1.0, 2**40)),
        ValueError,
        "2**63 - 1 bytes",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS.values(), ids=list(ERRORS))
def test_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match="|".join(map(re.escape, message.split("|")))):
        call()


def test_a_call_that_fails_leaves_out_alone() -> None:
    out = np.full((3, 2), 7.0)
    with pytest.raises(ValueError, match="must equal"):
        nbops.matmul(ONES((3, 4)), ONES((5, 2)), out=out)
    with pytest.raises(TypeError, match="dtype"):
        nbops.add(out, np.ones(2, complex), out=out)
    assert (out == 7).all()


# ---- out= ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["asked for", "like the last one"])
def test_out_may_be_an_input(how: str) -> None:
    def run(function: Any, *operands: Any, out: Any) -> None:
        if how == "asked for":
            with nbops.use("parallel"):
                function(*operands, out=out)
        else:
            function(*(x.copy() for x in operands))
            function(*operands, out=out)

    x = np.arange(6.0)
    run(nbops.add, x, x, out=x)
    assert x.tolist() == [0, 2, 4, 6, 8, 10]
    x = np.arange(1000.0)
    run(nbops.add, x[:-1], x[:-1], out=x[1:])  # shifted by one: a loop in place would read what it wrote
    assert x[1:].tolist() == [2 * n for n in range(999)]
    x = np.arange(1000.0)
    run(nbops.negative, x, out=x[::-1])
    assert x.tolist() == [-n for n in range(999, -1, -1)]
    a = np.arange(9.0).reshape(3, 3)
    expected = a @ a
    run(nbops.matmul, a, a, out=a)
    np.testing.assert_array_equal(a, expected)
    a = np.arange(9.0).reshape(3, 3)
    run(nbops.matmul, a, np.eye(3), out=a.T)
    np.testing.assert_array_equal(a, np.arange(9.0).reshape(3, 3).T)
    rows = np.array([[0.0, 0.0], [0.0, 0.0]])
    run(nbops.softmax, rows, out=rows)
    assert (rows == 0.5).all()


def test_out_of_an_op_with_two_outputs(rng: np.random.Generator) -> None:
    weight_gradient = registry["dense_weight_gradient"]
    x, dz = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    dw, db = weight_gradient(x, dz)
    out = np.full((3, 2), NAN), np.full(2, NAN)
    returned = weight_gradient(x, dz, out=out)
    assert returned[0] is out[0]
    assert returned[1] is out[1]
    np.testing.assert_array_equal(out[0], dw)
    np.testing.assert_array_equal(out[1], db)


def test_out_of_a_scalar_result() -> None:
    out = np.array(NAN)
    assert nbops.vecdot(ONES(3), ONES(3), out=out) is out
    assert out == 3


# ---- axes= ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "float32"])
@pytest.mark.parametrize("name", ["sum", "mean"])
def test_reductions_take_no_copy_of_their_operand(name: str, dtype: str) -> None:
    """Where it is as wide as the result's arithmetic: views may be larger than memory."""
    x = np.ones((200, 5000), dtype)
    peaks = []
    for _ in range(4):
        tracemalloc.start()
        getattr(nbops, name)(x, axis=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The first call may compile, and other threads of the process allocate some 300 KB.
    # float64 is what integers are averaged in.
    assert (min(peaks) < x.nbytes / 2) == ((name, dtype) != ("mean", "int64"))


def test_axes_are_numpys(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(4, 2, 3)), rng.normal(size=(3, 5, 4))
    axes = [(1, 2), (0, 1), (0, 2)]
    np.testing.assert_allclose(
        nbops.matmul(a, b.transpose(0, 1, 2), axes=[(1, 2), (0, 1), (0, 2)]),
        np.matmul(a, b, axes=axes),
        rtol=1e-14,
    )
    for first in (0, np.int64(0), np.uint8(0)):
        np.testing.assert_allclose(nbops.vecdot(a, a, axes=[first, first]), (a * a).sum(0), rtol=1e-14)
    out = np.full((2, 4, 5), NAN)
    assert nbops.matmul(a, b, axes=axes, out=out) is out
    np.testing.assert_allclose(out, np.matmul(a, b, axes=axes), rtol=1e-14)


def test_axes_of_one_call_are_forgotten_by_the_next() -> None:
    a = np.arange(6.0).reshape(2, 3)
    for _ in range(2):
        np.testing.assert_array_equal(nbops.matmul(a, a, axes=[(-1, -2), (-2, -1), (-2, -1)]), a.T @ a)
        np.testing.assert_array_equal(nbops.matmul(a.T, a), a.T @ a)
        np.testing.assert_array_equal(nbops.softmax(np.ones((2, 4)), axis=0), np.full((2, 4), 0.5))
        np.testing.assert_array_equal(nbops.softmax(np.ones((2, 4))), np.full((2, 4), 0.25))


# ---- inputs, and ops as objects ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=describe)
def test_read_only_inputs_stay_as_they_are(case: Case, rng: np.random.Generator) -> None:
    for shapes in case.shapes[:3]:
        operands = case.draw(rng, shapes)
        before = [x.copy() for x in operands]
        for x in operands:
            x.flags.writeable = False
        for _ in range(2):
            case.function(*operands)
        if case.op is not None and case.op.rule is not None:
            out, pullback = case.op.vjp(*operands)
            upstreams = [np.ones(x.shape) for x in as_list(out)]
            for x in upstreams:
                x.flags.writeable = False
            pullback(*upstreams)
        for x, copy in zip(operands, before, strict=True):
            np.testing.assert_array_equal(x, copy)


def test_subclasses_and_array_likes_give_plain_arrays() -> None:
    class Celsius(np.ndarray):
        pass

    class Holder:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.array([1.0, -2.0], dtype)

    assert type(nbops.relu(np.ones(2).view(Celsius))) is np.ndarray
    assert nbops.relu(Holder()).tolist() == [1, 0]
    memory = memoryview(np.array([1.0, -2.0]))
    assert nbops.relu(memory).tolist() == [1, 0]


def test_ops_describe_themselves() -> None:
    assert repr(nbops.matmul) == "<nbops op matmul (m,k),(k,n)->(m,n)>"
    assert nbops.matmul.__name__ == "matmul"
    assert "matrix product" in (nbops.matmul.__doc__ or "")
    assert pickle.loads(pickle.dumps(nbops.matmul)) is nbops.matmul
    assert BY_NAME["add"].op is nbops.add


def test_a_loop_can_be_replaced_after_a_call(run_python: Any) -> None:
    """`tune` frees the compiled loop; what an op remembers of its last call must not point there any more."""
    run_python("""
        import gc, numpy as np, nbops

        @nbops.elementwise(name="semantics_test_twice")
        def twice(x):
            return x + x

        x = np.arange(5.0)
        for _ in range(3):
            twice(x)
        twice.tune(lambda dtypes, layout: None)
        gc.collect()
        assert twice(x).tolist() == [0, 2, 4, 6, 8]
        assert twice(x).tolist() == [0, 2, 4, 6, 8]
    """)


@pytest.mark.parametrize("function", [nbops.softmax, nbops.log_softmax])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_column_has_the_same_bits_in_any_company(function: Any, dtype: str) -> None:
    """Along another axis than the last, columns are computed together, where the array lies so."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 131, 150)).astype(dtype)
    with nbops.use("serial"):
        whole = function(x, axis=1)
    assert whole.flags.owndata
    with nbops.use("parallel"):
        assert (function(x, axis=-2) == whole).all()
    assert (function(np.asfortranarray(x), axis=1) == whole).all()
    assert (function(np.moveaxis(x, 1, -1).copy()) == np.moveaxis(whole, 1, -1)).all()
    strided = np.empty((3, 131, 300), dtype)[:, :, ::2]
    assert (function(x, axis=1, out=strided) == whole).all()
    for columns in (slice(0, 1), slice(0, 3), slice(0, 4), slice(60, 70), slice(100, 150)):
        assert (function(x[:, :, columns], axis=1) == whole[:, :, columns]).all()
        assert (function(x[:, :, columns].copy(), axis=1) == whole[:, :, columns]).all()
    few = x[:, :7]
    assert (function(few, axis=1) == np.moveaxis(function(np.moveaxis(few, 1, -1).copy()), -1, 1)).all()
    out = np.full_like(x, np.nan)
    assert function(x, axis=1, out=out) is out
    assert (out == whole).all()
    function(x, axis=1, out=x)
    assert (x == whole).all()


def test_an_error_of_softmax_along_another_axis_has_its_name() -> None:
    for out in (
        np.zeros((5, 8), "i4"),
        np.zeros((5, 7), "f4"),
        np.frombuffer(bytes(160), "f4").reshape(5, 8),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^softmax: "):
            nbops.softmax(np.ones((5, 8), "f4"), 0, out=out)


def test_a_mean_keeps_a_byte_order_by_any_name_of_its_axis() -> None:
    x = np.arange(12.0).reshape(3, 4).astype(">f4")
    assert nbops.mean(x, axis=0).dtype == nbops.mean(x, axis=(0,)).dtype == x.dtype
