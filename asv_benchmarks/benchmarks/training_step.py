"""One training step of 784-512-10 on a batch of 128, along every path that there is."""

from __future__ import annotations

from .common import PEERS, Compared, module

#: nbops's own paths by name, then the peers, whose path is the usual one.
PATHS = ["tf.function", "numpy"]


class TrainingStep(Compared):
    """Forwards, backwards and the update."""

    kind = "training_step"
    params = (["sgd", "rmsprop"], [*(f"nbops, {path}" for path in PATHS), *PEERS])
    param_names = ("optimizer", "implementation")
    timeout = 300

    def setup(self, optimizer, implementation):
        library, _, path = implementation.partition(", ")
        if path and path not in module("nbops.compare.peers.on_nbops").TRAINING_PATHS:
            raise NotImplementedError(f"this commit has no path {path}")
        sizes = [784, 512, 10]
        self.prepare(library, optimizer=optimizer, batch=128, sizes=sizes, path=path or "tf.function")

    def time_step(self, optimizer, implementation):
        self.case.run()
