"""The largest shapes: as many axes as NumPy has, and results that no memory can hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nbops


@pytest.mark.parametrize("ndim", [0, 1, 9, 32, 33, 64])
def test_as_many_axes_as_numpy_has(ndim: int) -> None:
    x = np.arange(2.0 ** min(ndim, 2)).reshape((2,) * min(ndim, 2) + (1,) * (ndim - 2))
    np.testing.assert_array_equal(nbops.add(x, x.T), x + x.T)
    assert nbops.sum(x) == x.sum()
    if ndim > 1:
        np.testing.assert_array_equal(nbops.matmul(x.T, x.T.swapaxes(-1, -2)), x.T @ x.T.swapaxes(-1, -2))


HUGE = np.broadcast_to(np.float32(1), (2**40, 2**20))


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        (nbops.relu, (HUGE,)),
        (nbops.softmax, (HUGE,)),
        (nbops.add, (np.broadcast_to(1.0, (2**40, 1)), np.broadcast_to(1.0, (1, 2**40)))),
        (nbops.matmul, (np.broadcast_to(1.0, (2**40, 1)), np.broadcast_to(1.0, (1, 2**40)))),
    ],
)
def test_a_result_that_no_address_space_holds(op, operands) -> None:
    with pytest.raises(ValueError, match=r"the result would have more than 2\*\*63 - 1 bytes"):
        op(*operands)


# ---- more than 2³¹ elements, in views that repeat one --------------------------------------------------

MANY = 2**31 + 11


def test_reductions_over_more_elements_than_32_bits_count() -> None:
    """Whole numbers: no index, stride product or count may be of 32 bits."""
    assert nbops.sum(np.broadcast_to(np.int64(1), (MANY,))) == MANY


def test_axes_longer_than_32_bits_count() -> None:
    """Nothing to compute: empty operands, and views."""
    empty = np.broadcast_to(np.float32(1), (MANY, 0))
    assert nbops.add(empty, empty).shape == (MANY, 0)
    assert nbops.matmul(empty.T, empty).shape == (0, 0)
    long = np.broadcast_to(np.float32(0.5), (1, MANY))
    assert nbops.transpose(long).shape == nbops.reshape(long, (MANY, 1)).shape == (MANY, 1)


@pytest.mark.slow
def test_results_with_more_elements_than_32_bits_count() -> None:
    """2 GiB of int8 go in and out, and the last elements are right."""
    x = np.zeros(MANY, np.int8)
    x[[0, 2**31 - 1, 2**31, -1]] = [1, 2, 3, 4]
    for target in ("serial", "parallel"):
        with nbops.use(target):
            nbops.add(x, np.int8(1), out=x)
        assert x[[0, 1, 2**31 - 1, 2**31, -1]].tolist() == [2, 1, 3, 4, 5]
        nbops.subtract(x, np.int8(1), out=x)
    ones = np.broadcast_to(np.int8(1), (MANY,))
    assert nbops.vecdot(ones, ones) == np.array(MANY).astype(np.int8)


# ---- no memory, and Ctrl-C ----------------------------------------------------------------------------


def test_no_room_for_a_result_damages_nothing(run_python: Any) -> None:
    """MemoryError before anything is written; the process goes on."""
    run_python(
        """
        import resource
        import numpy as np, nbops

        x = np.arange(1000.0)
        small = nbops.add(x, x)  # compiled, and the threads started
        wide = np.broadcast_to(1.0, (2**33,))
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))
        for call in (
            lambda: nbops.add(wide, 1.0),
            lambda: nbops.exp(wide),
            lambda: nbops.matmul(np.ones((2**17, 1)), np.ones((1, 2**17))),
            lambda: nbops.add(x[:, None], np.broadcast_to(1.0, (1, 2**24))),
        ):
            for _ in range(2):
                try:
                    call()
                except MemoryError:
                    pass
                else:
                    raise SystemExit("no MemoryError")
        assert (x == np.arange(1000.0)).all()
        assert (nbops.add(x, x) == small).all()
        """
    )


def test_ctrl_c_in_a_long_kernel_leaves_a_usable_process(run_python: Any) -> None:
    """The kernel ends first, since machine code can't be left half-way; then KeyboardInterrupt is raised."""
    run_python(
        """
        import os, signal, threading, time
        import numpy as np, nbops

        @nbops.op("(n)->()", name="limits_test_long", nanoseconds=1)
        def long(x, out):
            total = x.dtype.type(0)
            for _ in range(300):
                for i in range(x.shape[0]):
                    total = total * x.dtype.type(0.999) + x[i]
            out[()] = total

        x = np.ones((4, 20_000))
        for target in ("serial", "parallel"):
            long(x[:, :10], target=target)
            for _ in range(2):
                before = long(x[:, :1000], target=target)
                interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
                interrupt.start()
                try:
                    long(x, target=target)
                    time.sleep(30)
                except KeyboardInterrupt:
                    pass
                else:
                    raise SystemExit("no KeyboardInterrupt")
                interrupt.join()
                assert (long(x[:, :1000], target=target) == before).all()
                assert (nbops.add(x, x, target="parallel") == 2).all()
        """
    )
