"""A call on a CUDA device: operands there, a plan, its launches, results back.

Everything before, from dtypes to the frame, is the same for every target (`nbops.execution`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from nbops import frame
from nbops.dispatch import settings
from nbops.kernel import Kernel
from nbops.targets.cuda import loops
from nbops.targets.cuda.devices import Device
from nbops.targets.cuda.kernels import Call, Dtypes, Plan, resolve_planner
from nbops.targets.cuda.words import WORKSPACE, places

__all__ = ["allocated", "launch_frame", "plan_frame", "run_on_copies"]


def run_on_copies(kernel: Kernel, operands: Sequence[np.ndarray], dtypes: Dtypes, device: Device) -> None:
    """Run a kernel on NumPy arrays: copy the inputs to the device, launch, copy the outputs back."""
    n_inputs = len(kernel.signature.inputs)
    geometry = frame.new_geometry(len(operands))
    with ExitStack() as stack:
        addresses = []
        for index, (row, x) in enumerate(zip(geometry, operands, strict=True)):
            image = _image(x)
            address = stack.enter_context(allocated(device, image.nbytes))
            if index < n_inputs and image.nbytes:
                device.write(address, _bytes(image))
            frame.describe(row, image)
            # Where an axis runs backwards, the first element is not at the lowest address.
            row[frame.POINTER] += address - np.lib.array_utils.byte_bounds(image)[0]
            addresses.append((address, image))
        table = frame.new_frame(len(operands))
        frame.build(kernel.signature.table, geometry, table)
        launch_frame(kernel, table, dtypes, device)
        for x, (address, image) in list(zip(operands, addresses, strict=True))[n_inputs:]:
            if image.nbytes:
                device.read(address, _bytes(image))
                if image is not x:
                    np.copyto(x, image)


def _image(x: np.ndarray) -> np.ndarray:
    """The array itself where its memory has no gaps, or it is a repeated part; else a contiguous copy.

    A transposed or repeated operand is a transposed or repeated one on the device too.
    """
    low, high = np.lib.array_utils.byte_bounds(x)
    return x if x.size and high - low <= x.nbytes and _is_dense(x) else np.ascontiguousarray(x)


def _is_dense(x: np.ndarray) -> bool:
    """Whether the elements fill the memory between the first and the last."""
    expected = x.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if s and n > 1):
        if stride != expected:
            return False
        expected *= n
    return True


def _bytes(x: np.ndarray) -> np.ndarray:
    """The memory of a dense array."""
    low, high = np.lib.array_utils.byte_bounds(x)
    order: Any = (*(slice(None, None, -1 if s < 0 else 1) for s in x.strides), ...)
    forward = x[order]
    return np.lib.stride_tricks.as_strided(forward, ((high - low) // x.itemsize,), (x.itemsize,))


@contextmanager
def allocated(device: Device, nbytes: int, stream: int = 0) -> Iterator[int]:
    """Memory of the device for as long as the block runs, and what the block put on the stream."""
    address = device.allocate(max(nbytes, 1))
    try:
        yield address
    finally:
        device.synchronize(stream)
        device.free(address)


def launch_frame(kernel: Kernel, table: np.ndarray, dtypes: Dtypes, device: Device, stream: int = 0) -> None:
    """Launch what computes the kernel's loop for a frame whose pointers are the device's."""
    signature = kernel.signature
    written = [math.prod(_sizes(signature.axis_names, names, table)) for names in signature.outputs]
    if not table[0, frame.ITEMS] or not any(written):
        return
    plan, where = plan_frame(kernel, table, dtypes, device, settings().tf32)
    with ExitStack() as stack:
        if plan.workspace_bytes:
            table[0, WORKSPACE] = stack.enter_context(allocated(device, plan.workspace_bytes, stream))
        words = table.ravel()
        for launch in plan.launches:
            arguments = [int(words[where[name]]) for name in launch.words]
            device.launch(launch, arguments, stream)


def plan_frame(
    kernel: Kernel, table: np.ndarray, dtypes: Dtypes, device: Device, tf32: bool = False
) -> tuple[Plan, dict[str, int]]:
    """What a frame's call is made of, and where each word that its launches name stands in the frame."""
    operands = tuple(inspect.signature(kernel.loop).parameters)
    where = places(kernel.signature, operands, int(table[0, frame.BATCH_RANK]))
    gpu = device.compute_capability, device.multiprocessors
    call = Call(dtypes, table, where, *gpu, kernel, operands, tf32)
    planner = kernel.cuda_planner
    plan = None if planner is None else resolve_planner(planner)(call)
    if plan is None:
        plan = loops.plan(kernel, call, operands)
    # of several results, one may have no elements: its grid has no blocks, and can't be launched
    launches = [launch for launch in plan.launches if all(launch.grid)]
    return Plan(launches, plan.workspace_bytes), where


def _sizes(axes: tuple[str, ...], own: tuple[str, ...], table: np.ndarray) -> list[Any]:
    return [table[0, frame.CORE + axes.index(name)] for name in own]
