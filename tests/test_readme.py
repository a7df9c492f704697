"""The README's Python, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    """Every block, run in order in one namespace, from files: Numba wants to see the source."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    names = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NBOPS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))  # for calibrate()
        for number, block in enumerate(BLOCKS):
            path = tmp_path_factory.mktemp("readme") / f"block_{number}.py"
            path.write_text(block, encoding="utf-8")
            exec(compile(block, str(path), "exec"), names)
    return names


def test_it_has_the_blocks_that_it_promises():
    assert len(BLOCKS) >= 5


def test_the_users_op_computes_squared_distances(namespace):
    x, y = np.random.default_rng(0).standard_normal((2, 5, 3))
    expected = ((x[:, None] - y[None]) ** 2).sum(-1)
    np.testing.assert_allclose(namespace["squared_distance"](x, y), expected, rtol=1e-12)


def test_the_users_op_has_a_gradient_on_a_tape(namespace):
    tf = namespace["tf"]
    x, y = np.random.default_rng(1).standard_normal((2, 4, 3))
    a, b = tf.Variable(x), tf.Variable(y)
    weight = np.arange(16.0).reshape(4, 4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(namespace["squared_distance"](a, b) * weight)
    da, db = tape.gradient(loss, [a, b])
    difference = 2 * weight[:, :, None] * (x[:, None] - y[None])
    np.testing.assert_allclose(da, difference.sum(1), rtol=1e-12)
    np.testing.assert_allclose(db, -difference.sum(0), rtol=1e-12)


def test_the_users_op_takes_at_most_twelve_lines():
    block = next(b for b in BLOCKS if "squared_distance" in b and "@op" in b)
    code = [line for line in block.splitlines() if line.strip() and not line.startswith("from ")]
    assert len(code) <= 12, len(code)


def test_the_users_formula_is_an_op(namespace):
    np.testing.assert_allclose(namespace["leaky_relu"](np.array([-1.0, 2.0])), [-0.1, 2.0])
