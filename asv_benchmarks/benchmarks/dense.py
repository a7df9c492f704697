"""A dense layer in one op, forwards, against product, bias and activation in a row."""

from __future__ import annotations

import numpy as np

from .common import array, public


class Dense:
    """activation(x @ w + b) at the size of the MNIST model's hidden layer."""

    params = (["relu", "sigmoid"], ["serial", "nbops", "unfused", "numpy"])
    param_names = ("activation", "implementation")

    def setup(self, activation, implementation):
        x, w, b = array(128, 784), array(784, 512, seed=1), array(512, seed=2)
        dense, matmul, add, function = (public(name) for name in ("dense", "matmul", "add", activation))
        numpys = {"relu": lambda z: np.maximum(z, 0, out=z), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
        self.run = {
            "serial": lambda: dense(x, w, b, activation, target="serial"),
            "nbops": lambda: dense(x, w, b, activation),
            "unfused": lambda: function(add(matmul(x, w), b)),
            "numpy": lambda: numpys[activation](x @ w + b),
        }[implementation]
        self.run()

    def time_forward(self, activation, implementation):
        self.run()
