"""Threads and processes: no abort, right results, and the same results for any number of threads."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest

import nbops
from nbops import frame
from nbops.targets import cpu

CONCURRENT = """
    import sys, threading
    import numpy as np, nbops
    from nbops.targets import cpu

    rng = np.random.default_rng(0)
    n_threads, rounds = 6, 40
    def draw(*shape):
        return rng.normal(size=shape).astype("f4")

    data = [(draw(60, 50), draw(50, 40)) for _ in range(n_threads)]
    failures, done = [], []
    barrier = threading.Barrier(n_threads)

    def work(index):
        a, b = data[index]
        barrier.wait()  # all of them start nbops's threads at once
        for _ in range(rounds):
            for target in ("parallel", None):
                product = nbops.matmul(a, b, target=target)
                if not np.allclose(product, a @ b, atol=1e-4):
                    failures.append(("matmul", index))
                if not np.array_equal(nbops.relu(a, target=target), np.maximum(a, 0)):
                    failures.append(("relu", index))
        done.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures, failures[:5]
    assert len(done) == n_threads
    print(cpu.threading_layer(), int(cpu.STATE[cpu.EXCLUSIVE]), int(cpu.STATE[cpu.BUSY]))
"""


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_concurrent_python_threads(run_python: Any, layer: str) -> None:
    """Numba's workqueue aborts the process when two threads are inside parallel kernels; nbops doesn't."""
    output = run_python(CONCURRENT, NUMBA_THREADING_LAYER=layer).stdout.split()
    assert output[2] == "0", "the lock was left taken"
    if layer == "workqueue":
        assert output[:2] == ["workqueue", "1"]


def test_concurrent_threads_in_this_process(rng: np.random.Generator) -> None:
    """Different shapes and dtypes through one op at once: nothing is shared but the compiled loop."""
    shapes = [(3, 4), (40, 5), (1, 7), (64, 64), (200, 3)]
    jobs = [
        (rng.normal(size=shape).astype(dtype)) for shape in shapes for dtype in (np.float32, np.float64)
    ] * 20

    def run(x: np.ndarray) -> bool:
        return bool(np.array_equal(nbops.add(x, x), x + x)) and nbops.add(x, x).dtype == x.dtype

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, jobs))


FORKED = """
    import os, sys, warnings
    import numpy as np, nbops
    warnings.simplefilter("ignore")  # Python warns of forks with threads, which is the point here

    def check():
        x = np.ones((300, 200), np.float32)
        with nbops.use("parallel"):
            assert (nbops.add(x, x) == 2).all()
            assert (nbops.matmul(x, x.T) == 200).all()
            assert (nbops.matvec(x, np.ones(200, np.float32)) == 200).all()
        assert (nbops.exp(np.zeros(1_000_000)) == 1).all()
        assert (nbops.relu(np.ones(3)) == 1).all()

    if sys.argv[1] == "after a call":
        check()
    child = os.fork()
    if child == 0:
        try:
            check()
            grandchild = os.fork()
            if grandchild == 0:
                check()
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
    check()
"""


@pytest.mark.parametrize("when", ["after a call", "before any call"])
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_fork(run_python: Any, layer: str, when: str) -> None:
    """GNU OpenMP ends a forked child on its first parallel region; nbops runs it serially."""
    import os

    if not hasattr(os, "fork"):
        pytest.skip("this platform has no fork")
    run_python(FORKED, when, NUMBA_THREADING_LAYER=layer)


def test_fork_while_another_thread_computes(run_python: Any) -> None:
    """The child's copy of the lock may be taken by a thread that it does not have."""
    run_python(
        """
        import os, threading, warnings
        import numpy as np, nbops
        warnings.simplefilter("ignore")
        x = np.ones(400_000, np.float32)
        stop = threading.Event()

        def work():
            while not stop.is_set():
                nbops.exp(x, target="parallel")

        nbops.exp(x, target="parallel")
        thread = threading.Thread(target=work)
        thread.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                ok = bool((nbops.add(x, x, target="parallel") == 2).all()) and nbops.relu(x[:4])[0] == 1
                os._exit(0 if ok else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        stop.set()
        thread.join()
        assert codes == [0] * 10, codes
        """,
        NUMBA_THREADING_LAYER="workqueue",
    )


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_pool(run_python: Any, method: str) -> None:
    run_python(
        """
        import multiprocessing, sys, warnings
        import numpy as np, nbops
        warnings.simplefilter("ignore")

        def work(n):
            x = np.full((200, 100), n, np.float32)
            with nbops.use("parallel"):
                return float(nbops.sum(nbops.matmul(x, x.T)))

        if __name__ == "__main__":
            expected = [work(n) for n in range(4)]
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                assert pool.map(work, range(4)) == expected
        """,
        method,
    )


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_results_do_not_depend_on_the_number_of_threads(run_python: Any, layer: str) -> None:
    """Bit by bit."""
    source = """
        import hashlib, numpy as np, nbops
        from nbops.op import registry
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=(123, 457)).astype("f4"), rng.normal(size=(457, 61)).astype("f4")
        b = rng.normal(size=61).astype("f4")
        results = []
        for threads in (1, 2, 3, 4):
            with nbops.use("parallel", threads=threads):
                results.append([
                    hashlib.sha256(np.ascontiguousarray(y).tobytes()).hexdigest()
                    for y in (
                        nbops.matmul(x, w), nbops.dense(x, w, b, "relu"), nbops.dense(x, w, b, "softmax"),
                        nbops.matvec(x, w[:, 0]), nbops.vecmat(x[:, 0], x),
                        nbops.sum(x), nbops.sum(x, axis=0), nbops.softmax(x), nbops.exp(x),
                        *registry["dense_weight_gradient"](x, x[:, :40]),
                    )
                ])
        assert all(r == results[0] for r in results)
        print(results[0])
    """
    first = run_python(source, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="4").stdout
    assert first == run_python(source, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="1").stdout


def test_more_workers_than_items(rng: np.random.Generator) -> None:
    """Some threads get nothing, and elementwise shares are multiples of 64 elements."""
    for n in (1, 2, 63, 64, 65, 127, 129, 192, 193):
        x = rng.normal(size=n)
        with nbops.use("parallel"):
            np.testing.assert_array_equal(nbops.add(x, x), x + x)
            a = rng.normal(size=(n, 2, 3))
            np.testing.assert_allclose(
                nbops.matmul(a, a.swapaxes(-1, -2)), a @ a.swapaxes(-1, -2), rtol=1e-12, atol=1e-12
            )


def test_the_threading_layer_has_a_name() -> None:
    assert cpu.threading_layer() in ("omp", "tbb", "workqueue")
    assert cpu.STATE[cpu.WORKERS] == cpu.start_threads()


# ---- limits that users set outside nbops ------------------------------------------------------------


def workers_of_a_call(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many threads might share the product of each call that is asked to be parallel."""
    seen: list[int] = []
    launch = cpu.launch

    def watch(serial: int, parallel: int, table: np.ndarray, workers: int, grain: int) -> None:
        table.ravel()[frame.WORKERS] = 0  # the launcher writes it
        launch(serial, parallel, table, cpu.STATE[cpu.WORKERS], grain)
        seen.append(int(table.ravel()[frame.WORKERS]))

    monkeypatch.setattr(cpu, "launch", watch)
    return seen


def test_numba_s_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher keeps it, so that calls which no longer ask Python do too."""
    x = np.ones((300, 300))
    nbops.matmul(x, x, target="parallel")
    seen = workers_of_a_call(monkeypatch)
    before = numba.get_num_threads()
    for limit in (2, 1, before):
        numba.set_num_threads(limit)
        try:
            assert cpu.thread_limit() <= limit
            assert nbops.matmul(x, x, target="parallel").shape == x.shape
        finally:
            numba.set_num_threads(before)
    assert seen == [2, 1, before]


def test_openmp_s_limit_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    if cpu.threading_layer() != "omp":
        pytest.skip(f"Numba runs on {cpu.threading_layer()} here")
    x = np.ones((300, 300))
    nbops.matmul(x, x, target="parallel")
    seen = workers_of_a_call(monkeypatch)
    for limit in (1, 2) if cpu.STATE[cpu.PROCESSORS] > 2 else (1,):
        with threadpoolctl.threadpool_limits(limit, user_api="openmp"):
            nbops.matmul(x, x, target="parallel")
            assert nbops.last_decision().workers == limit
    nbops.matmul(x, x, target="parallel")
    assert seen == ([1, 2, 3] if len(seen) == 3 else [1, 3])


@pytest.mark.alone
@pytest.mark.parametrize("callers", [1, 8])
def test_more_threads_than_cores_do_not_collapse(run_python: Any, callers: int) -> None:
    """Sixteen threads for a call, and eight callers at once: as long as on one core each, or shorter."""
    run_python(
        """
        import statistics, sys, threading, time
        import numpy as np, nbops

        n_callers = int(sys.argv[1])
        operands = [np.full(100_000, n, np.float32) for n in range(n_callers)]
        results = [np.empty_like(x) for x in operands]

        def seconds(target):
            def work(index):
                for _ in range(400 // n_callers):
                    nbops.exp(operands[index], out=results[index], target=target)

            threads = [threading.Thread(target=work, args=(index,)) for index in range(n_callers)]
            begun = time.perf_counter()
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            return time.perf_counter() - begun

        times = {"serial": [], "parallel": []}
        for _ in range(9):
            for target in times:
                times[target].append(seconds(target))
        assert nbops.exp(operands[0], target="parallel") is not None
        assert nbops.last_decision().workers == 16, nbops.last_decision()
        serial, parallel = (statistics.median(times[target][1:]) for target in times)
        print(parallel / serial)
        assert parallel < 2 * serial, times
        """,
        str(callers),
        NUMBA_NUM_THREADS="16",
    )


def test_a_layer_that_is_not_there_is_told(run_python: Any) -> None:
    """Everything runs, on one core, after one warning that names the layer and what to do."""
    run_python(
        """
        import sys, warnings
        sys.modules["numba.np.ufunc.tbbpool"] = None  # what a machine without TBB looks like
        import numpy as np, nbops
        x = np.ones((300, 300))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for target in ("serial", "parallel", None):
                assert (nbops.matmul(x, x, target=target) == 300).all()
                assert (nbops.add(x, x, target=target) == 2).all()
        messages = [str(w.message) for w in caught if w.category is RuntimeWarning]
        assert len(messages) == 1, messages
        assert "runs on one core" in messages[0] and "'tbb'" in messages[0] and "install tbb" in messages[0]
        """,
        NUMBA_THREADING_LAYER="tbb",
    )


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_inside_a_parallel_kernel_of_the_user(run_python: Any, layer: str) -> None:
    """Workqueue aborts the process when a parallel region starts inside another."""
    run_python(
        """
        import os
        import numba, numpy as np, nbops

        @nbops.op("(n)->(n)", nanoseconds=1e6)
        def double(x, out):
            for i in nbops.prange(x.shape[0]):  # one item: the loop's own prange, on Numba's threads
                out[i] = x[i] * 2

        @numba.njit(parallel=True)
        def outer(n):
            sums = np.zeros(n)
            for i in numba.prange(n):
                with numba.objmode(total="float64"):
                    y = np.ones(5000)
                    doubled = double(y, target="parallel")
                    total = float((doubled + nbops.add(y, y, target="parallel")).sum())
                sums[i] = total
            return sums

        assert (double(np.ones(5000), target="parallel") == 2).all()
        for _ in range(5):
            assert (outer(9) == 20_000).all()
        if os.fork() == 0:  # the parent's threads are gone
            assert (double(np.ones(5000), target="parallel") == 2).all()
            os._exit(0)
        assert os.wait()[1] == 0
        """,
        NUMBA_THREADING_LAYER=layer,
    )


def test_a_fork_after_the_user_s_own_parallel_kernel(run_python: Any) -> None:
    """GNU OpenMP ends the child, though nbops had not started yet."""
    run_python("""
        import os
        import numba, numpy as np, nbops

        @numba.njit(parallel=True)
        def kernel(x):
            for i in numba.prange(x.shape[0]):
                x[i] = 1

        @nbops.op("(n)->(n)", nanoseconds=1e6)
        def double(x, out):
            for i in nbops.prange(x.shape[0]):
                out[i] = x[i] * 2

        kernel(np.zeros(1000))
        if os.fork() == 0:
            assert (double(np.ones(5000), target="parallel") == 2).all()
            assert (nbops.matmul(np.ones((300, 300)), np.ones((300, 300)), target="parallel") == 300).all()
            os._exit(0)
        assert os.wait()[1] == 0
    """)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_in_a_joblib_worker(run_python: Any, backend: str) -> None:
    pytest.importorskip("joblib", reason="joblib is not installed")
    run_python(
        """
        import sys
        import joblib, numpy as np, nbops

        def work(n):
            x = np.full((200, 100), n, np.float32)
            return float(nbops.sum(nbops.matmul(x, x.T, target="parallel")))

        if __name__ == "__main__":
            expected = [work(n) for n in range(6)]
            parallel = joblib.Parallel(2, backend=sys.argv[1])
            assert parallel(joblib.delayed(work)(n) for n in range(6)) == expected
        """,
        backend,
    )


def test_every_thread_takes_the_callers_floating_point_mode(run_python: Any) -> None:
    """Where the caller takes subnormal numbers as 0, as TensorFlow's threads do, so do the workers."""
    source = """
        import numba, numpy as np, nbops
        from nbops.targets.rounding import float_mode, set_float_mode

        @numba.njit
        def change(bits):
            before = float_mode()
            set_float_mode(before | bits)
            return before

        @numba.njit
        def restore(mode):
            set_float_mode(mode)

        x = np.full(1 << 20, 1e-30, np.float32)
        out = np.empty_like(x)
        with nbops.use("parallel", threads=4):
            for flush, expected in ((0x8040, 0.0), (0, float(np.float32(1e-30) * np.float32(1e-10)))):
                for _ in range(50):
                    before = change(flush)
                    nbops.multiply(x, np.float32(1e-10), out=out)
                    restore(before)
                    assert (out.view(np.int32) == np.float32(expected).view(np.int32)).all(), flush
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"the bits are those of x86, not of {platform.machine()}")
    run_python(source, NUMBA_NUM_THREADS="4")
