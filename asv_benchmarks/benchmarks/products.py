"""Products: matrices at the sizes of the MNIST model and square ones, and the dot product of long vectors."""

from __future__ import annotations

from .common import IMPLEMENTATIONS, Compared, ratio_to_best_peer


class Matmul(Compared):
    """a @ b into an array that exists."""

    kind = "matmul"
    params = (["128x784x512", "512x512x512"], ["float32", "float64"], IMPLEMENTATIONS)
    param_names = ("m x k x n", "dtype", "implementation")

    def setup(self, sizes, dtype, implementation):
        m, k, n = map(int, sizes.split("x"))
        self.prepare(implementation, m=m, k=k, n=n, layout="NN", dtype=dtype)

    def time_matmul(self, sizes, dtype, implementation):
        self.case.run()


class Transposed(Compared):
    """The two products of a dense layer's gradient, whose operands are stored transposed."""

    kind = "matmul"
    params = (["784x128x512 TN", "128x512x784 NT"], ["nbops", "numpy"])
    param_names = ("m x k x n, layout", "implementation")

    def setup(self, product, implementation):
        sizes, layout = product.split()
        m, k, n = map(int, sizes.split("x"))
        self.prepare(implementation, m=m, k=k, n=n, layout=layout, dtype="float32")

    def time_matmul(self, product, implementation):
        self.case.run()


class MatmulError(Compared):
    """Its error against float64."""

    kind = "matmul"
    params = (["float32", "float64"], ["nbops", "numpy"])
    param_names = ("dtype", "implementation")

    def setup(self, dtype, implementation):
        self.prepare(implementation, m=512, k=512, n=512, layout="NN", dtype=dtype)

    def track_error(self, dtype, implementation):
        return self.error()


class Vecdot(Compared):
    """x · y, limited by memory."""

    kind = "vecdot"
    params = ([10_000, 10_000_000], IMPLEMENTATIONS)
    param_names = ("length", "implementation")

    def setup(self, length, implementation):
        self.prepare(implementation, length=length, dtype="float32")

    def time_vecdot(self, length, implementation):
        self.case.run()


class BestPeer:
    """The best peer's time over nbops's: above 1, nbops is faster."""

    timeout = 300

    def track_ratio_128x784x512(self):
        return ratio_to_best_peer("matmul 128x784x512 NN float32")

    track_ratio_128x784x512.unit = "times"
