"""What a call costs on the GPU, copies included, so that the dispatcher can tell whether it is worth it.

::

    launch + bytes / transfer + the loop's time on a core / cores

The shipped figures stand for a desktop GPU on PCIe 4 and are estimates, not measurements: they err against
the GPU, so that a call is only sent there when it gains. The first call that runs on a GPU replaces them by
figures of its own, which are kept for later processes; `nbops.calibrate` measures anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nbops.dispatch import Work
    from nbops.targets.cuda.devices import Device

__all__ = ["SHIPPED", "Costs", "kept", "measure"]


@dataclass(frozen=True)
class Costs:
    """Figures of one GPU.

    Parameters
    ----------
    launch_microseconds : float
        A call that moves nothing and computes nothing.
    bytes_per_microsecond : float
        Between NumPy arrays and the GPU.
    cores : float
        How many CPU cores' loops the GPU's kernels are worth.
    """

    launch_microseconds: float
    bytes_per_microsecond: float
    cores: float

    def microseconds(self, work: Work) -> float:
        """What a call on NumPy arrays should take."""
        compute = work.serial_nanoseconds / 1e3 / self.cores
        return self.launch_microseconds + work.bytes / self.bytes_per_microsecond + compute


SHIPPED = Costs(launch_microseconds=100, bytes_per_microsecond=4000, cores=30)


def kept(name: str) -> Costs | None:
    """The figures that were measured of the GPU with this name; None where there are none."""
    from nbops import calibration

    found = calibration.kept(_key(name))
    try:
        costs = Costs(**{field: float(found[field]) for field in asdict(SHIPPED)})
    except (KeyError, TypeError, ValueError):
        return None
    return costs if min(asdict(costs).values()) > 0 else None


def _key(name: str) -> str:
    return f"cuda {name}"


def measure(
    device: Device, target: str, size: int = 1024, nbytes: int = 2**25
) -> tuple[Costs, dict[str, Any]]:
    """Measure a GPU's figures and keep them.

    Parameters
    ----------
    device : Device
    target : str
        The target that runs calls on it.
    size : int
        Of the square matrices that are multiplied.
    nbytes : int
        How much is copied.
    """
    from nbops import calibration
    from nbops.ops.elementwise import add
    from nbops.ops.products import matmul

    block = np.zeros(nbytes, np.uint8)
    address = device.allocate(nbytes)
    try:
        copying = _fastest(lambda: _there_and_back(device, address, block))
    finally:
        device.free(address)
    small, a = np.zeros(64, np.float32), np.ones((size, size), np.float32)
    launch = _fastest(lambda: add(small, small, target=target))
    product = _fastest(lambda: matmul(a, a, target=target))
    per_microsecond = 2 * nbytes / copying
    computing = max(product - launch - 3 * a.nbytes / per_microsecond, product / 100)
    costs = Costs(launch, per_microsecond, size**3 * matmul.nanoseconds / 1e3 / computing)
    calibration.keep(_key(device.name), asdict(costs))
    return costs, {"device": device.name, **asdict(costs)}


def _there_and_back(device: Device, address: int, block: np.ndarray) -> None:
    device.write(address, block)
    device.read(address, block)


def _fastest(call: Callable[[], Any], rounds: int = 5) -> float:
    """Microseconds; the first call, which compiles, does not count."""
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times) * 1e6, 1e-3)
