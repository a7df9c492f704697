"""A case's gradient by TensorFlow's tape."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tests.cases import Case


def gradient_of(case: Case, operands: list[Any]) -> list[np.ndarray]:
    inputs = [tf.constant(x) for x in operands]
    chosen = [inputs[index] for index in case.gradients]
    with tf.GradientTape() as tape:
        tape.watch(chosen)
        results = tf.nest.flatten(case.function(*inputs))
        loss = tf.add_n([tf.reduce_sum(tf.sin(x)) for x in results])
    return [tf.convert_to_tensor(x).numpy() for x in tape.gradient(loss, chosen)]
