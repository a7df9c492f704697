"""nbops beside NumPy, PyTorch, JAX, TensorFlow, Keras and numexpr: ``nbops compare``.

Every library runs in a process of its own, because their threads, which spin for a while after each call,
spoil each other's times inside one. The processes take turns, window by window, so that a machine that slows
down slows all of them. The machine takes its turn as well, with the least that a workload asks of it, so that
each ratio stands beside the highest one that is possible. A result is compared with float64 before anything
is timed, and a wrong one gets no ratio. Importing this package imports none of the libraries.

- `workloads`: the list
- `oracles`: inputs, float64 results, tolerances
- `peers`: one adapter per library, and one for the machine
- `worker`, `process`: the two ends of a library's process
- `measure`: the rounds and the report
- `table`: the report as text
"""

from nbops.compare.measure import Settings, compare
from nbops.compare.peers import PEERS
from nbops.compare.workloads import Workload, select, workloads

__all__ = ["PEERS", "Settings", "Workload", "compare", "select", "workloads"]
