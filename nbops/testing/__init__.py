"""Does an op keep its promises? One call asks, for nbops's ops and for yours.

>>> import numpy as np, nbops
>>> from nbops.testing import check
>>> @nbops.elementwise(name="testing_example")
... def bent(x):
...     return x if x > 0 else x * type(x)(0.1)
>>> @bent.gradient
... def _(x, out, dout):
...     return nbops.multiply(dout, 0.1)  # right below 0 only
>>> report = check(bent, np.array([-2.0, 0.5, 1.5]), promises=["targets", "gradient"], raises=False)
>>> report.kept, report.broken
(('targets',), ('gradient',))

A report names what broke, what was expected, and the smallest call found that shows it. `PROMISES` lists what
is asked. TensorFlow's part runs where it is installed; drawing and shrinking need hypothesis
(``pip install nbops[test]``).
"""

from nbops.testing.checking import check
from nbops.testing.layouts import LAYOUTS
from nbops.testing.promises import PROMISES
from nbops.testing.report import Finding, Report

__all__ = ["LAYOUTS", "PROMISES", "Finding", "Report", "check"]
