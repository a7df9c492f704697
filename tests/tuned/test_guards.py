"""Products at the edge of what may be read and written: operands that end where an unreadable page begins."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pages are protected by mprotect")

GUARDS = """
    import ctypes, itertools, mmap
    import numpy as np

    libc = ctypes.CDLL(None)
    rng = np.random.default_rng(0)

    def guarded(dtype, rows, columns, row):
        # An array with so many elements from row to row; the last one lies at the end of its page.
        count = (rows - 1) * row + columns
        size = count * np.dtype(dtype).itemsize
        pages = -(-size // mmap.PAGESIZE)
        area = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        end = ctypes.addressof(ctypes.c_char.from_buffer(area)) + pages * mmap.PAGESIZE
        assert libc.mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
        flat = np.frombuffer(area, np.uint8)[pages * mmap.PAGESIZE - size : pages * mmap.PAGESIZE].view(dtype)
        flat[:] = np.nan
        strides = row * flat.itemsize, flat.itemsize
        return flat, np.lib.stride_tricks.as_strided(flat, (rows, columns), strides)

    def check(out, a, b, added=0):
        wanted = a.astype("f8") @ b.astype("f8") + added
        bound = np.abs(a.astype("f8")) @ np.abs(b.astype("f8")) + 1
        assert (np.abs(out - wanted) <= 4 * a.shape[1] * np.finfo(out.dtype).eps * bound).all()
"""


def test_nothing_beyond_an_operand_is_read_or_written(run_python: Any) -> None:
    """Above all not where B has few columns: all rows but the last ones are read beyond their end."""
    run_python(
        GUARDS
        + """
    import nbops

    sizes = [*itertools.product((3, 5, 130), (3, 40, 129), (1, 3, 10, 17, 50)), (3, 699, 999), (15, 699, 999)]
    for dtype, (m, k, n), gap in itertools.product(("f4", "f8"), sizes, (0, 1, 7, 100)):
        (_, a), (_, b) = guarded(dtype, m, k, k), guarded(dtype, k, n, n + gap)
        flat, out = guarded(dtype, m, n, n + gap)
        a[:], b[:] = rng.normal(size=(m, k)), rng.normal(size=(k, n))
        for target in "serial", "parallel":
            flat[:] = np.nan
            nbops.matmul(a, b, out=out, target=target)
            check(out, a, b)
            assert np.isnan(flat).sum() == flat.size - m * n, "written between two rows"
        bias = guarded(dtype, 1, n, n)[1][0]
        bias[:] = 1
        nbops.dense(a, b, bias, out=out)
        check(out, a, b, added=1)
    """
    )


def test_a_processor_with_small_caches(run_python: Any) -> None:
    """Rows of A that are whole pages apart are packed there."""
    run_python(
        GUARDS
        + """
    import nbops.tuned.caches

    nbops.tuned.caches.cache_bytes = {1: 32 << 10, 2: 256 << 10, 3: 0}.get
    from nbops.tuned import gemm_arguments, gemm_kernel

    assert (gemm_arguments.KC, gemm_kernel.PAGED_ROWS) == (400, False)
    for dtype, m, k in itertools.product(("f4", "f8"), (5, 131, 500), (100, 900)):
        n = 300
        page = mmap.PAGESIZE // np.dtype(dtype).itemsize
        (_, a), (_, b) = guarded(dtype, m, k, page * -(-k // page)), guarded(dtype, k, n, n)
        a[:], b[:] = rng.normal(size=(m, k)), rng.normal(size=(k, n))
        for columns in (200, 230, 300):
            for target in "serial", "parallel":
                out = np.full((m, columns), np.nan, dtype)
                nbops.matmul(a, b[:, :columns], out=out, target=target)
                check(out, a, b[:, :columns])
        columns = np.ascontiguousarray(a.T).T
        check(nbops.matmul(columns, b), columns, b)
    """,
        NUMBA_CACHE_DIR="cache",  # what is compiled for these caches is for nobody else
        NBOPS_COMPILE_AHEAD="0",
    )
