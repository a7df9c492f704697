"""Threads and processes: no abort, right results, and the same results for any number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import nbops
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
        timeout=120,
    )


def test_multiprocessing_pool_of_forked_workers(run_python: Any) -> None:
    run_python("""
        import multiprocessing, warnings
        import numpy as np, nbops
        warnings.simplefilter("ignore")

        def work(n):
            x = np.full((200, 100), n, np.float32)
            with nbops.use("parallel"):
                return float(nbops.sum(nbops.matmul(x, x.T)))

        if __name__ == "__main__":
            expected = [work(n) for n in range(4)]
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(work, range(4)) == expected
    """)


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
