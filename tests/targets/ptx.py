"""PTX for tests: compiles Python functions with numba-cuda, and launches them on an emulated device.

Nothing here needs a GPU, a driver or a CUDA toolkit: the wheels that ``numba-cuda[cu13]`` brings are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nbops.targets.emulator import Device, Launch, Program

try:
    from numba import cuda, float32, void

    cuda.compile_ptx(lambda x: None, void(float32), cc=(9, 0))
    reason = ""
except Exception as error:  # numba-cuda raises its own errors where it finds no compiler
    reason = f"no PTX here: {type(error).__name__}: {error}"

requires_compiler = pytest.mark.skipif(bool(reason), reason=reason)
ARCHITECTURES = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)]


def compile_kernel(
    function: Callable[..., None], signature: Any, cc: tuple[int, int] = (9, 0), **flags: Any
) -> str:
    """The PTX of a kernel, with line information."""
    return str(cuda.compile_ptx(function, signature, cc=cc, lineinfo=True, **flags)[0])


def array_arguments(address: int, array: np.ndarray[Any, Any]) -> list[Any]:
    """An array as numba-cuda passes it: two null pointers, item count and size, data, shape, strides."""
    return [0, 0, array.size, array.itemsize, address, *array.shape, *array.strides]


def run(
    ptx: str | Program,
    grid: Sequence[int] | int,
    block: Sequence[int] | int,
    *arguments: Any,
    outputs: Sequence[int] = (),
    device: Device | None = None,
    shared_bytes: int = 0,
) -> Launch:
    """Launch the first kernel on copies of the arrays; results are copied back into them.

    The arguments at the positions `outputs` are not written before the launch, so initcheck sees who reads
    them.
    """
    program = Program(ptx) if isinstance(ptx, str) else ptx
    device = device or Device((12, 1))
    packed: list[Any] = []
    places = []
    for position, argument in enumerate(arguments):
        if isinstance(argument, np.ndarray):
            address = device.allocate(argument.nbytes, f"argument {position}")
            if position not in outputs:
                device.write(address, argument)
            places.append((address, argument))
            packed += array_arguments(address, argument)
        else:
            packed.append(argument)
    try:
        launch = device.launch(program, program.kernels[0], grid, block, shared_bytes, packed)
        for address, argument in places:
            device.read(address, argument)
    finally:
        for address, _ in places:
            device.free(address)
    return launch
