"""Every op on Dask arrays gives what it gives on NumPy arrays, for chunks of every kind, and lazily."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

import nbops
from nbops import arrays, dispatch
from nbops.dask import workers
from nbops.op import Op, registry
from tests.cases import BY_NAME, CASES, CASES_AND_SHAPES, Case, as_list, assert_close, describe

# ---- chunks -------------------------------------------------------------------------------------------


def cut(x: np.ndarray, chunks: Any) -> Any:
    """Chunks that are copies: each layout of views is another kernel; they are tested in test_layouts.py."""
    return da.from_array(x, chunks=chunks).map_blocks(np.array, dtype=x.dtype)


def aligned(x: np.ndarray) -> Any:
    """Halves."""
    return cut(x, tuple(max((n + 1) // 2, 1) for n in x.shape))


def ragged(x: np.ndarray) -> Any:
    """Lengths 1, 2, 1, 2, …, another cut for each operand and axis."""
    return cut(x, tuple(_ragged(n, axis + x.ndim) for axis, n in enumerate(x.shape)))


def _ragged(n: int, start: int) -> tuple[int, ...]:
    sizes = [min(1 + (start + i) % 2 + n // 8, n) for i in range(n)]
    ends = np.minimum(np.cumsum([0, *sizes]), n)
    return tuple(int(size) for size in np.diff(ends) if size) or (0,)


def single(x: np.ndarray) -> Any:
    """One element each."""
    return cut(x, 1 if x.size <= 60 else tuple(max(n // 3, 1) for n in x.shape))


def unknown(x: np.ndarray) -> Any:
    """Halves of lengths that Dask does not know; axes of length 1 stay known, for they may be repeated."""
    halves = aligned(x)
    chunks = tuple(
        (np.nan,) * len(lengths) if n > 1 else lengths
        for n, lengths in zip(x.shape, halves.chunks, strict=True)
    )
    return da.Array(halves.dask, halves.name, chunks, meta=halves._meta)


def on_one(x: np.ndarray) -> Any:
    """One chunk."""
    return da.from_array(x, chunks=-1)


def with_empty(x: np.ndarray) -> Any:
    """Halves, and chunks of length 0 before and between them."""
    return cut(x, tuple((0, (n + 1) // 2, 0, n // 2) if n else (0,) for n in x.shape))


KINDS = (aligned, ragged, single, unknown, on_one, with_empty)
NEEDS_LENGTHS = ("reshape", "broadcast_to")
POINTS = [
    (case, shapes, kind)
    for case, shapes in CASES_AND_SHAPES
    for kind in KINDS
    if shapes in case.shapes[:2] or kind is aligned
]


def results_of(case: Case, operands: Sequence[Any]) -> list[Any]:
    results = case.function(*operands)
    results = list(results) if isinstance(results, tuple) else [results]
    assert all(arrays.is_dask(x) for x in results)
    return results


# ---- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "shapes", "kind"), POINTS, ids=describe)
def test_values(case: Case, shapes: Any, kind: Any, rng: np.random.Generator) -> None:
    operands = case.draw(rng, shapes)
    lazy = [kind(x) for x in operands]
    if kind is unknown and case.name in NEEDS_LENGTHS and any(np.isnan(x).any() for x in map(np.shape, lazy)):
        with pytest.raises(ValueError):  # noqa: PT011 - Dask's own words
            case.function(*lazy)
        return
    results = results_of(case, lazy)
    expected = as_list(case.function(*operands))
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype
        assert result.ndim == wanted.ndim
        assert result._meta.dtype == wanted.dtype
        assert kind is unknown or result.shape == wanted.shape
    with dask.config.set(scheduler="threads"):
        computed = dask.compute(*results)
    assert_close(computed, case.expected(operands), case, shapes)
    assert [np.asarray(x).dtype for x in computed] == [x.dtype for x in expected]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, dtype) for case in CASES for dtype in ("float16", "float32", "int32")]
    + [
        (BY_NAME[name], "uint8")
        for name in ("add", "exp", "matmul", "sum(axis=0)", "mean()", "softmax", "one_hot")
    ],
    ids=describe,
)
def test_dtypes_are_known_beforehand(case: Case, dtype: str, rng: np.random.Generator) -> None:
    operands = case.draw(rng, case.shapes[0], dtype)
    with np.errstate(all="ignore"):
        wanted = as_list(case.function(*operands))
        results = results_of(case, [ragged(x) for x in operands])
        computed = dask.compute(*results, scheduler="sync")
    for result, value, array in zip(results, computed, wanted, strict=True):
        assert result.dtype == result._meta.dtype == np.asarray(value).dtype == array.dtype
        if dtype in ("int32", "uint8") and array.dtype.kind in "iu":
            np.testing.assert_array_equal(value, array)


#: One op of each kind, since each process has to load what it runs: elementwise with one operand and with
#: two, a product, a fused one, a sum, a tree that does not add but makes pairs, and two piecewise rules.
ON_A_CLUSTER = (
    "relu",
    "add",
    "matmul",
    "dense_relu",
    "sum(axis=0)",
    "peak_and_sum",
    "softmax",
    "crossentropy_from_logits",
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two worker processes of one thread each; other tests' graphs do not go to them by default."""
    distributed = pytest.importorskip("distributed")
    with (
        dask.config.set({"distributed.admin.tick.limit": "1h"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as running,
        distributed.Client(running, set_as_default=False) as client,
    ):
        yield client


@pytest.mark.parametrize("kind", [aligned, ragged, single, unknown], ids=describe)
def test_values_on_a_cluster_of_processes(kind: Any, cluster: Any, rng: np.random.Generator) -> None:
    """Some cases at once: one graph, many tasks, two processes that share nothing with this one."""
    cases = [BY_NAME[name] for name in ON_A_CLUSTER]
    operands = [case.draw(rng, case.shapes[0]) for case in cases]
    results = [results_of(case, [kind(x) for x in own]) for case, own in zip(cases, operands, strict=True)]
    computed = dask.compute(results, scheduler=cluster)[0]
    for case, own, values in zip(cases, operands, computed, strict=True):
        assert_close(tuple(values), case.expected(own), case, case.shapes[0])


@pytest.mark.distributed
@pytest.mark.parametrize("kind", [aligned, ragged, single, unknown], ids=describe)
def test_every_op_on_a_cluster_of_processes(kind: Any, cluster: Any, rng: np.random.Generator) -> None:
    """Each op in a graph of its own, all at once; unknown lengths as far as the op takes them."""
    cases = [case for case in CASES if not (kind is unknown and case.name in NEEDS_LENGTHS)]
    operands = [case.draw(rng, case.shapes[0]) for case in cases]
    results = [results_of(case, [kind(x) for x in own]) for case, own in zip(cases, operands, strict=True)]
    computed = cluster.gather(cluster.compute(results))
    for case, own, values in zip(cases, operands, computed, strict=True):
        assert_close(tuple(values), case.expected(own), case, case.shapes[0])


def test_values_on_a_cluster_of_threads(rng: np.random.Generator) -> None:
    """Workers in this process, of two threads each, that share the cores between all four."""
    distributed = pytest.importorskip("distributed")
    cases = [BY_NAME[name] for name in ON_A_CLUSTER]
    operands = [case.draw(rng, case.shapes[0]) for case in cases]
    results = [results_of(case, [ragged(x) for x in own]) for case, own in zip(cases, operands, strict=True)]
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None
        ) as running,
        distributed.Client(running, set_as_default=False) as client,
    ):
        computed = dask.compute(results, scheduler=client)[0]
        shares = client.gather(client.map(_share, range(8), pure=False))
    for case, own, values in zip(cases, operands, computed, strict=True):
        assert_close(tuple(values), case.expected(own), case, case.shapes[0])
    assert set(shares) == {max(1, dispatch.available_threads() // 4)}


def test_workers_leave_the_cores_to_one_another(cluster: Any) -> None:
    """A worker of one thread beside others runs the serial kernel, however large the chunk."""
    x = da.ones((2, 4_000_000), chunks=(1, -1))
    seen = x.map_blocks(_decision_of_relu, dtype=object, meta=np.empty((0, 0), object))
    decisions = dask.compute(nbops.relu(x).sum(), seen, scheduler=cluster)[1].ravel()
    assert {decision.target for decision in decisions} == {"serial"}


def _decision_of_relu(chunk: np.ndarray) -> np.ndarray:
    with workers.within_share(None):
        nbops.relu(chunk)
    return np.array([[nbops.last_decision()]], object)


def test_an_op_of_a_script_reaches_the_workers(cluster: Any) -> None:
    """An op that the workers can't import travels as its loop."""
    source = """
from nbops import elementwise
@elementwise(name="thrice_of_a_script")
def thrice(x):
    return x + x + x
"""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(source, names)
    x = np.arange(6.0)
    result = names["thrice"](da.from_array(x, chunks=2))
    np.testing.assert_array_equal(result.compute(scheduler=cluster), 3 * x)


# ---- laziness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=describe)
def test_building_the_graph_computes_nothing(
    kind: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr("nbops.execution._run", lambda op, *rest: calls.append(op.name))
    with nbops.use(strict=True):  # no short way for a call like an earlier one: all go through _run
        nbops.relu(np.ones(3))
        assert calls == ["relu"]
        calls.clear()
        for case in CASES:
            if not (kind is unknown and case.name in NEEDS_LENGTHS):
                results_of(case, [kind(x) for x in case.draw(rng, case.shapes[0])])
    assert not calls


def test_chunks_are_kept() -> None:
    a, b = da.ones((6, 8), chunks=(2, 3)), da.ones((8, 10), chunks=(3, 5))
    assert nbops.relu(a).chunks == a.chunks
    assert nbops.matmul(a, b).chunks == (a.chunks[0], b.chunks[1])
    assert nbops.softmax(a).chunks == a.chunks
    assert nbops.sum(a, axis=1).chunks == (a.chunks[0],)
    assert nbops.dense(a, b, np.ones(10), "relu").chunks == (a.chunks[0], b.chunks[1])


def test_a_chunked_contraction_is_not_joined() -> None:
    """No task of a product or a softmax gets more than a chunk of each operand."""
    a = da.ones((4, 40), chunks=(2, 4), dtype=np.float32)
    largest: list[int] = []

    original = Op._call_any

    def watched(op: Op, operands: Any, *rest: Any) -> Any:
        largest.extend(np.size(x) for x in operands if not arrays.is_dask(x))
        return original(op, operands, *rest)

    with pytest.MonkeyPatch.context() as patch, nbops.use(strict=True):  # strict: no call takes the short way
        patch.setattr(Op, "_call_any", watched)
        lazy = [nbops.matmul(a, a.T), nbops.softmax(a), nbops.log_softmax(a), nbops.mean(a)]
        largest.clear()
        dask.compute(*lazy, scheduler="sync")
    assert len(largest) > 40
    assert max(largest) <= 8


# ---- numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [nbops.softmax, nbops.log_softmax], ids=["softmax", "log_softmax"])
def test_rows_in_pieces_are_as_safe_as_whole_ones(function: Any) -> None:
    rows = np.array(
        [
            [1000.0, 0, 0, 999, -1000, 1000],
            [-np.inf, -np.inf, 1, 2, -np.inf, -np.inf],
            [-np.inf] * 6,
            [0, np.nan, 0, 0, 0, 0],
            [0, 0, 0, np.inf, 0, 0],
            [-1e300, -1e300, -1e300, -1e300, 0, 0],
            [-np.inf, -np.inf, -np.inf, -np.inf, -np.inf, np.nan],
        ]
    )
    with np.errstate(all="ignore"):
        whole = function(rows)
        pieces = function(da.from_array(rows, chunks=(2, 2))).compute(scheduler="sync")
    np.testing.assert_allclose(pieces, whole, rtol=1e-14)


def test_many_pieces_lose_little() -> None:
    """Sums in a tree: 1024 partial results of float32, each of which a running sum would round."""
    x = np.full(1 << 12, 0.1, np.float32)
    total = nbops.sum(da.from_array(x, chunks=4)).compute(scheduler="sync")
    assert total.dtype == np.float32
    assert abs(float(total) - x.astype(np.float64).sum()) <= 16 * np.finfo(np.float32).eps * float(total)


def test_half_precision_is_rounded_once() -> None:
    x = np.full(1 << 13, 0.5, np.float16)
    total = nbops.vecdot(
        da.from_array(x, chunks=512), da.ones(1 << 13, dtype=np.float16, chunks=512)
    ).compute()
    assert total.dtype == np.float16
    assert total == 4096
    assert nbops.mean(da.full(70_000, 60_000, dtype=np.float16, chunks=7000)).compute() == 60_000


def test_results_do_not_depend_on_the_scheduler(rng: np.random.Generator) -> None:
    a = da.from_array(rng.normal(size=(50, 300)).astype(np.float32), chunks=(20, 70))
    results = [
        nbops.softmax(nbops.matmul(a, a.T)).compute(scheduler=scheduler, num_workers=n)
        for scheduler, n in (("sync", None), ("threads", 1), ("threads", 4))
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("name", ["matmul", "dense_relu", "softmax", "crossentropy_from_logits", "multiply"])
def test_gradients(name: str, rng: np.random.Generator) -> None:
    case = next(case for case in CASES if case.name == name)
    assert case.op is not None
    operands = case.draw(rng, case.shapes[0])
    out, pullback = case.op.vjp(*operands)
    _, lazy_pullback = case.op.vjp(*(ragged(x) for x in operands))
    dout = rng.normal(size=out.shape)
    for wanted, lazy in zip(pullback(dout), lazy_pullback(ragged(dout)), strict=True):
        assert (wanted is None) == (lazy is None)
        if wanted is not None:
            np.testing.assert_allclose(lazy.compute(), wanted, atol=1e-13)


# ---- other arrays beside them -------------------------------------------------------------------------


def test_arrays_and_numbers_go_with_dask_arrays(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(5, 6)), rng.normal(size=6)
    lazy = da.from_array(x, chunks=(2, 4))
    np.testing.assert_allclose(nbops.add(lazy, y).compute(), x + y)
    np.testing.assert_allclose(nbops.add(y, lazy).compute(), x + y)
    halved = nbops.multiply(lazy.astype(np.float32), 0.5)
    assert halved.dtype == halved.compute().dtype == np.float32


def test_xarray() -> None:
    xarray = pytest.importorskip("xarray")
    x = xarray.DataArray(
        da.from_array(np.arange(-6.0, 6).reshape(3, 4), chunks=(2, 3)), dims=("row", "column")
    )
    result = xarray.apply_ufunc(nbops.relu, x, dask="allowed")
    assert arrays.is_dask(result.data)
    assert result.data.chunks == x.data.chunks
    np.testing.assert_array_equal(result.values, np.maximum(x.values, 0))


class Device:
    """Stands in for an array on a GPU: something that NumPy must not touch."""

    __array_priority__ = 1000

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise TypeError("a device array was copied to the host")

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, keywords: Any) -> Any:
        if function is np.empty_like:
            return Device(keywords["shape"], keywords.get("dtype") or self.dtype)
        return NotImplemented


def test_a_chunk_on_a_device_reaches_the_op_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbops.dask.tasks import Piece

    seen = []
    monkeypatch.setattr(Op, "_call_any", lambda op, operands, *rest: seen.append(operands))
    chunk = Device((2, 2))
    Piece(nbops.relu)([[chunk]])
    assert seen[0][0] is chunk


# ---- what does not go --------------------------------------------------------------------------------


def test_mistakes_are_told_when_the_graph_is_built() -> None:
    x = da.ones((4, 6), chunks=2)
    with pytest.raises(ValueError, match=r"a.shape\[-1\] must equal b.shape\[-2\]"):
        nbops.matmul(x, x)
    with pytest.raises(TypeError, match="real number dtype"):
        nbops.relu(x.astype(complex))
    with pytest.raises(TypeError, match="out= does not go with Dask arrays"):
        nbops.relu(x, out=np.empty((4, 6)))
    with pytest.raises(TypeError, match="out= does not go with Dask arrays"):
        nbops.sum(x, out=np.empty(()))
    with pytest.raises(ValueError, match="unknown target"):
        nbops.relu(x, target="nonsense")
    with pytest.raises(ValueError, match="axis 2 is out of range: x is"):
        nbops.softmax(x, axis=2)
    with pytest.raises(ValueError, match=r"call x.compute_chunk_sizes\(\) first"):
        nbops.reshape(x[x[:, 0] > 0], (-1, 3))


def test_a_wrong_label_is_told_when_it_is_computed() -> None:
    labels = da.from_array(np.array([0, 7]), chunks=1)
    losses = nbops.sparse_categorical_crossentropy(labels, da.full((2, 5), 0.2, chunks=(1, 2)))
    with pytest.raises(ValueError, match="the label 7, but y_pred has 5 classes"):
        losses.compute()


@pytest.mark.parametrize(("first", "lengths"), [(0, "3 and 2"), (1, "2 and 1")])
def test_unknown_lengths_that_differ_are_told_when_they_meet(first: int, lengths: str) -> None:
    """A chunk of length 1 too, which is not to be repeated."""
    x, y = da.arange(6, chunks=3), da.arange(6, chunks=3)
    with pytest.raises(ValueError, match=f"chunks of x and y that meet have {lengths} elements"):
        nbops.add(x[x >= first], y[y > first]).compute()


def test_an_unknown_length_meets_a_known_one() -> None:
    x, y = da.arange(6, chunks=3), da.arange(4, chunks=((1, 3),))
    np.testing.assert_array_equal(nbops.add(x[x > 1], y).compute(), np.arange(2, 6) + np.arange(4))
    np.testing.assert_array_equal(nbops.add(x[x > 1], da.ones(1, chunks=1)).compute(), np.arange(3, 7))


# ---- settings ----------------------------------------------------------------------------------------


def test_the_target_around_the_call_is_the_tasks_target() -> None:
    targets = []
    x = da.ones(8, chunks=4)
    with nbops.use("python"):
        lazy = nbops.relu(x)
    original = dispatch.decide
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "decide", lambda *a: (targets.append(original(*a)), targets[-1])[1])
        lazy.compute()
        nbops.exp(x, target="serial").compute()
    assert [decision.rule for decision in targets] == ["asked for"] * 4
    assert {decision.target for decision in targets[:2]} == {"python"}


def test_a_short_task_sets_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays on one core anyway, and a block of `use` would take longer than it does."""
    nbops.relu(np.ones(3))  # starts the threads, and with them the break-even is known
    limits: list[Any] = []
    original = workers.within_share
    monkeypatch.setattr(workers, "within_share", lambda asked: (limits.append(asked), original(asked))[1])
    nbops.relu(da.ones(8, chunks=4)).compute(scheduler="sync")
    assert not limits
    with nbops.use("serial"):
        asked = nbops.relu(da.ones(8, chunks=4))
    asked.compute(scheduler="sync")
    nbops.relu(da.ones(1 << 23, chunks=1 << 22)).compute(scheduler="sync")
    assert len(limits) == 4


@pytest.mark.parametrize(("pool", "wanted"), [(1, 3), (2, 1), (4, 1)])
def test_the_share_of_a_thread(pool: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads over a pool's."""
    monkeypatch.setattr(dispatch, "available_threads", lambda: 3)
    shares = dask.compute(*[dask.delayed(_share)(i) for i in range(8)], scheduler="threads", num_workers=pool)
    assert set(shares) == {wanted}


def _share(_number: int) -> int:
    return workers.share()


def test_the_share_without_a_pool_is_everything() -> None:
    assert dask.delayed(_share)(0).compute(scheduler="sync") == dispatch.available_threads()


# ---- explain ------------------------------------------------------------------------------------------


def test_explain_tells_what_happens_to_the_chunks() -> None:
    x = da.ones((5000, 1000), chunks=(2000, 1000), dtype=np.float32)
    explanation = nbops.explain(nbops.relu, x)
    assert explanation.chunks == 3
    assert sum(explanation.by_target.values()) == 3
    assert [count for count, _ in explanation.kinds] == [2, 1]
    text = str(explanation)
    assert "relu: 5000x1000 in float32, 3 chunks" in text
    assert "2 chunks of 2000x1000" in text
    small = nbops.explain(nbops.matmul, da.ones((4, 6), chunks=(2, 3)), da.ones((6, 4), chunks=(3, 4)))
    assert small.by_target == {"serial": 4}
    assert small.combined == ("k",)
    assert "combined    along k, in a tree" in str(small)
    cut = nbops.explain(registry["softmax"], x.rechunk((-1, 250)))
    assert (cut.whole, cut.by_rule) == (("n",), True)
    assert "piecewise rule" in str(cut)
    assert [(step.op, step.chunks) for step in cut.steps] == [("peak_and_sum", 4), ("exp_below_over", 4)]
    assert cut.chunks == 8
    along = nbops.explain(registry["vecdot"], x, x)
    assert (along.chunks, along.combined) == (3, ())
    hidden = nbops.explain(nbops.relu, da.arange(6, chunks=3)[da.arange(6, chunks=3) > 0])
    assert "relu: ? in int64, 2 chunks" in str(hidden)


def test_explain_follows_a_function_of_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    """`nbops.softmax` along any axis, mean and dense; no kernel runs and no chunk is made."""
    monkeypatch.setattr("nbops.execution._run", lambda *rest: pytest.fail("a kernel ran"))
    x = da.map_blocks(lambda: pytest.fail("a chunk was made"), chunks=((6, 6), (4, 4)), meta=np.empty((0, 0)))
    for axis, name in ((1, "2 chunks of 6x8"), (0, "2 chunks of 4x12")):
        (call,) = nbops.explain(nbops.softmax, x.rechunk({axis: -1}), axis=axis).calls
        assert (call.op, call.chunks, call.steps) == ("softmax", 2, ())
        assert name in str(call)
    assert [call.op for call in nbops.explain(nbops.mean, x).calls] == ["sum_row", "sum_row", "divide"]
    (dense,) = nbops.explain(nbops.dense, x, np.ones((8, 3)), np.ones(3), "relu").calls
    assert [(step.op, step.chunks) for step in dense.steps] == [("matmul", 4), ("add_relu", 2)]


def test_a_call_becomes_the_quickest_ops() -> None:
    """Others would give the same numbers."""

    def ops(function: Any, *operands: Any, **keywords: Any) -> list[str]:
        return [call.op for call in nbops.explain(function, *operands, **keywords).calls]

    x, w = da.ones((4, 8), chunks=(2, 8)), da.ones((8, 3))
    assert ops(nbops.sum, da.ones((4, 6, 3)), axis=(0, 1)) == ["sum_rows", "sum_rows"]
    some, rows, columns = w[:, :1], w[w.sum(1) > 0], w[:, w.sum(0) > 0]
    for weights in (w, some, rows, da.stack([rows, rows]), np.ones((8, 3))):
        assert ops(nbops.dense, x, weights, None, "relu") == ["dense_relu"]
    assert ops(nbops.dense, np.ones((4, 8)), np.ones((8, 3)), None, "relu") == ["dense_relu"]
    assert ops(nbops.dense, x, columns, None, "relu") == ["matmul", "relu"]  # how long is a bias of zeros?
    np.testing.assert_array_equal(nbops.dense(x, columns, None, "relu"), np.full((4, 3), 8.0))


def test_products_of_vectors() -> None:
    """`nbops.matmul` with arrays of one axis, and `axis=`."""
    a, x = np.arange(6.0).reshape(2, 3), np.arange(3.0)
    lazy = da.from_array(a, chunks=(1, 2))
    for operands, wanted in (((lazy, x), a @ x), ((x, lazy.T), a @ x), ((lazy[0], x), a[0] @ x)):
        result = nbops.matmul(*operands)
        assert arrays.is_dask(result)
        np.testing.assert_allclose(result, wanted, rtol=1e-14)
    np.testing.assert_allclose(nbops.vecdot(lazy, lazy, axis=0), (a * a).sum(0), rtol=1e-14)
    np.testing.assert_array_equal(nbops.sum(lazy, axis=0, dtype="int32"), np.array([3, 5, 7], "int32"))
    assert nbops.explain(nbops.matmul, lazy, x).op == "matvec"
    with pytest.raises(TypeError, match="reshape: copy= does not go with Dask arrays"):
        nbops.reshape(lazy, 6, copy=True)


# ---- odds and ends ------------------------------------------------------------------------------------


def test_ops_are_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(nbops.matmul)) is nbops.matmul


def test_dask_is_imported_only_with_a_dask_array(run_python: Any) -> None:
    run_python("""
        import sys, numpy as np, nbops
        nbops.softmax(nbops.matmul(np.ones((2, 2)), np.ones((2, 2))))
        nbops.sum(np.ones(3))
        assert not any(name.split(".")[0] in ("dask", "distributed") for name in sys.modules)
    """)
    assert "nbops.dask" in sys.modules


def test_keys_tell_code_and_settings_apart() -> None:
    x = da.ones(4, chunks=2)
    assert nbops.relu(x).name == nbops.relu(x).name
    with nbops.use("serial"):
        assert nbops.relu(x).name != nbops.exp(x).name
        name = nbops.relu(x).name
    assert nbops.relu(x).name != name


def test_splitting_rules_are_checked() -> None:
    op = nbops.op("(m,n),(n)->(m)", name="to_be_split")(lambda a, x, out: None)
    for independent, reduced, match in (
        ("q", "", "no axis 'q'"),
        ("n", "", "lacks it"),
        ("", "m", "has it"),
    ):
        with pytest.raises(ValueError, match=match):
            op.split(independent, reduced)
