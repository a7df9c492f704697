"""Planted bugs: each checker finds its kind, names the Python line, and stays quiet about correct kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbops
from nbops.targets.emulator import (
    Device,
    InitcheckError,
    MemcheckError,
    Program,
    RacecheckError,
    SynccheckError,
)
from tests.targets.ptx import array_arguments, compile_kernel, requires_compiler, run

pytestmark = requires_compiler
if not pytestmark.args[0]:
    from numba import cuda, float32, void

    VECTORS = void(float32[::1], float32[::1])

Kernel = Callable[[Any, Any], None]


def launch(
    kernel: Kernel, grid: int, block: int, initialised: bool = False, cc: tuple[int, int] = (9, 0)
) -> Any:
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    out = np.zeros(256, np.float32)
    run(compile_kernel(kernel, VECTORS, cc), grid, block, x, out, outputs=[] if initialised else [1])
    return x, out


def line_of(kernel: Kernel, text: str) -> str:
    """``file:line`` of the line of a kernel that contains `text`."""
    lines, first = inspect.getsourcelines(kernel)
    return (
        f"{inspect.getsourcefile(kernel)}:{first + next(i for i, line in enumerate(lines) if text in line)}"
    )


# -- correct kernels -----------------------------------------------------------------------------------------


def reverse(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = a[t]
    cuda.syncthreads()
    o[t] = s[255 - t]


def warp_exchange(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = a[t]
    cuda.syncwarp()
    o[t] = s[t ^ 1]


def atomic_sum(a, o):
    cuda.atomic.add(o, 0, a[cuda.grid(1)])


@pytest.mark.parametrize("cc", [(7, 5), (12, 0)])
def test_correct_kernels_are_left_alone(cc: tuple[int, int]) -> None:
    x, out = launch(reverse, 1, 256, cc=cc)
    np.testing.assert_array_equal(out, x[::-1])
    x, out = launch(warp_exchange, 1, 256, cc=cc)
    np.testing.assert_array_equal(out, x.reshape(-1, 2)[:, ::-1].ravel())
    x, out = launch(atomic_sum, 2, 128, initialised=True, cc=cc)
    assert out[0] == pytest.approx(x.sum(dtype=np.float64), abs=1e-4)


# -- planted bugs: kernel, grid, block, error, the line it must name -----------------------------------------


def missing_barrier(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = a[t]
    o[t] = s[255 - t]


def missing_second_barrier(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for k in range(3):
        s[t] = a[t] * k
        cuda.syncthreads()
        total += s[255 - t]
    o[t] = total


def barrier_of_a_warp_only(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t] = a[t]
    cuda.syncwarp()
    o[t] = s[255 - t]


def two_write_one_shared(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    s[t // 2] = a[t]
    cuda.syncthreads()
    o[t] = s[t // 2]


def two_write_one_global(a, o):
    i = cuda.grid(1)
    o[i // 2] = a[i]


def sum_without_atomics(a, o):
    o[0] += a[cuda.grid(1)]


def blocks_overlap(a, o):
    o[cuda.threadIdx.x] = a[cuda.grid(1)]


def shift_in_place(a, o):
    i = cuda.grid(1)
    if i < 255:
        a[i] = a[i + 1]


def atomic_and_plain(a, o):
    i = cuda.grid(1)
    cuda.atomic.add(o, 0, a[i])
    if i == 77:
        o[0] = float32(1)


def read_past_the_end(a, o):
    i = cuda.grid(1)
    o[i] = a[i + 1]


def guard_one_too_far(a, o):
    i = cuda.grid(1)
    if i <= a.size:
        o[i] = a[i]


def shared_too_small(a, o):
    s = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    s[t] = a[t]
    cuda.syncthreads()
    o[t] = s[t]


def shared_half_written(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    if t < 100:
        s[t] = a[t]
    cuda.syncthreads()
    o[t] = s[t]


def reads_its_output(a, o):
    i = cuda.grid(1)
    o[i] = o[i] + a[i]


def accumulator_never_set(a, o):
    i = cuda.grid(1)
    cuda.atomic.add(o, i, a[i])


def barrier_in_a_branch(a, o):
    t = cuda.threadIdx.x
    if t < 100:
        o[t] = a[t]
        cuda.syncthreads()
    else:
        o[t] = 0


def return_before_a_barrier(a, o):
    s = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    if t >= 200:
        return
    s[t] = a[t]
    cuda.syncthreads()
    o[t] = s[199 - t]


def shuffle_in_a_branch(a, o):
    t = cuda.threadIdx.x
    if t % 2 == 0:
        o[t] = cuda.shfl_xor_sync(0xFFFFFFFF, a[t], 1)


def shuffle_mask_leaves_itself_out(a, o):
    t = cuda.threadIdx.x
    o[t] = cuda.shfl_down_sync(0x0000FFFF, a[t], 1)


def vote_in_a_loop(a, o):
    t = cuda.threadIdx.x
    for _ in range(t % 3):
        o[t] = cuda.ballot_sync(0xFFFFFFFF, a[t] > 0)


FAULTS: list[tuple[Kernel, int, int, type[Exception], str]] = [
    (missing_barrier, 1, 256, RacecheckError, "o[t] = "),
    (missing_second_barrier, 1, 256, RacecheckError, "s[t] = "),
    (barrier_of_a_warp_only, 1, 256, RacecheckError, "o[t] = "),
    (two_write_one_shared, 1, 256, RacecheckError, "s[t // 2] = "),
    (two_write_one_global, 2, 128, RacecheckError, "o[i // 2]"),
    (sum_without_atomics, 2, 128, RacecheckError, "o[0] +="),
    (blocks_overlap, 2, 128, RacecheckError, "o[cuda"),
    (shift_in_place, 2, 128, RacecheckError, "a[i] = "),
    (atomic_and_plain, 2, 128, RacecheckError, "o[0] = "),
    (read_past_the_end, 1, 256, MemcheckError, "a[i + 1]"),
    (guard_one_too_far, 2, 256, MemcheckError, "o[i] = a[i]"),
    (shared_too_small, 1, 256, MemcheckError, "s[t] = a[t]"),
    (shared_half_written, 1, 256, InitcheckError, "o[t] = s[t]"),
    (reads_its_output, 1, 256, InitcheckError, "o[i] = o[i]"),
    (accumulator_never_set, 1, 256, InitcheckError, "cuda.atomic.add"),
    (barrier_in_a_branch, 1, 256, SynccheckError, "cuda.syncthreads()"),
    (return_before_a_barrier, 1, 256, SynccheckError, "cuda.syncthreads()"),
    (shuffle_in_a_branch, 1, 256, SynccheckError, "cuda.shfl_xor_sync"),
    (shuffle_mask_leaves_itself_out, 1, 256, SynccheckError, "cuda.shfl_down_sync"),
    (vote_in_a_loop, 1, 256, SynccheckError, "cuda.ballot_sync"),
]


@pytest.mark.parametrize("cc", [(9, 0), (12, 0)])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0].__name__)
def test_planted_bug_is_found(
    fault: tuple[Kernel, int, int, type[Exception], str], cc: tuple[int, int]
) -> None:
    kernel, grid, block, error, text = fault
    initialised = error in (RacecheckError, MemcheckError)
    with pytest.raises(error) as caught:
        launch(kernel, grid, block, initialised, cc)
    message = str(caught.value)
    assert message.startswith(error.__name__.removesuffix("Error").lower())
    assert f"at {line_of(kernel, text)}," in message
    assert "block (" in message
    assert "thread (" in message


def test_checks_can_be_chosen() -> None:
    x = np.ones(256, np.float32)
    ptx = compile_kernel(two_write_one_global, VECTORS)
    run(ptx, 2, 128, x, np.zeros_like(x), device=Device((9, 0), checks=("memcheck", "synccheck")))
    with pytest.raises(ValueError, match="no checker is called"):
        Device(checks=("everything",))


# -- through an op: errors and reports name the line that its author wrote ----------------------------------


def one_too_far(x, out):
    for i in range(x.size):
        out[i] = x[i + 1]


def weighted(x, y):
    scaled = x * y
    return scaled + y


def short_of(number: int, gpu: Any) -> None:
    """Give the `number`-th allocation 4 bytes less than were asked for."""
    allocate, sizes = gpu.allocate, []

    def allocate_less(nbytes: int) -> Any:
        sizes.append(nbytes)
        return allocate(nbytes - 4 * (len(sizes) == number))

    gpu.allocate = allocate_less


def test_an_ops_own_loop() -> None:
    loop = nbops.op("(n)->(n)")(one_too_far)
    x = np.ones((2, 40), np.float32)
    with nbops.use("cuda-emulator"), pytest.raises(MemcheckError) as caught:
        loop(x[0])
    assert f"at {line_of(one_too_far, 'x[i + 1]')}, kernel one_too_far_float32_float32, " in str(caught.value)
    with nbops.use("cuda-emulator") as gpu:
        nbops.op("(n),(n)->(n)")(two_step)(x, x)
    report = gpu.report()
    assert report.startswith("kernel two_step_float32_float32_float32, 1 launch\n")
    assert f"{Path(line_of(two_step, 'out[i] = x')).name} reads global memory" in report
    assert f"{Path(line_of(two_step, '+= y')).name} reads global memory" in report
    assert "loops.py" not in report


def two_step(x, y, out):
    for i in range(x.size):
        out[i] = x[i]
    for i in range(x.size):
        out[x.size - 1 - i] += y[i]


@pytest.mark.parametrize("layout", ["vectors", "elements"])
def test_an_elementwise_ops_formula(layout: str) -> None:
    """Numbers are read and written around the formula: that counts for the formula's first line."""
    formula = nbops.elementwise(weighted)
    x, y = (np.ones((8, 12), np.float32) for _ in range(2))
    y = y if layout == "vectors" else np.asfortranarray(y)
    line = line_of(weighted, "scaled = ")
    with nbops.use("cuda-emulator") as gpu:
        formula(x, y)
    report = gpu.report()
    assert f"{Path(line).name} reads global memory" in report
    assert f"{Path(line).name} writes global memory" in report
    assert report.count(".py:") == 2
    with nbops.use("cuda-emulator") as gpu:
        short_of(3, gpu)
        with pytest.raises(MemcheckError) as caught:
            formula(x, y)
    assert f"at {line}, kernel weighted_" in str(caught.value)


TABLE = np.arange(5, dtype=np.float32)


def looked_up(x):
    number = int(x)
    return TABLE[number]


def test_a_line_inside_a_formula() -> None:
    with nbops.use("cuda-emulator"), pytest.raises(MemcheckError) as caught:
        nbops.elementwise(looked_up)(np.full(64, 5, np.float32))
    assert f"at {line_of(looked_up, 'return')}, kernel looked_up_" in str(caught.value)


def test_the_products_own_loop() -> None:
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    loop = nbops.matmul.as_written()
    with nbops.use("cuda-emulator") as gpu:
        loop(a, b)
    lines = {line.split()[0] for line in gpu.report().splitlines() if ".py:" in line}
    wanted = {Path(line_of(loop.kernel.written, text)).name for text in ("= 0", "+= a")}
    assert lines == wanted
    with nbops.use("cuda-emulator") as gpu:
        short_of(3, gpu)
        with pytest.raises(MemcheckError) as caught:
            loop(a, b)
    assert f"at {line_of(loop.kernel.written, '= 0')}, kernel matmul_" in str(caught.value)


def test_a_loop_that_moved_has_new_lines() -> None:
    """Compiled code is kept by what it computes; its lines are those of the file as it is now."""
    source = "def moved(x, out):\n    for i in range(x.size):\n        out[i] = x[i]\n"
    for blank in 0, 7:
        names: dict[str, Any] = {}
        exec(compile("\n" * blank + source, "moved.py", "exec"), names)
        with nbops.use("cuda-emulator") as gpu:
            nbops.op("(n)->(n)")(names["moved"])(np.ones(5, np.float32))
        assert f"moved.py:{3 + blank} reads global memory" in gpu.report()


# -- what needs PTX by hand ----------------------------------------------------------------------------------

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"


def hand_written(body: str) -> Program:
    return Program(
        f"{HEADER}.visible .entry k(.param .u64 a)\n{{\n.reg .pred %p<9>; .reg .b32 %r<9>; .reg .b64 %a<9>;\n"
        f".shared .align 16 .b8 tile[512];\nld.param.u64 %a1, [a];\nmov.u32 %r1, %tid.x;\n"
        f"mul.wide.u32 %a2, %r1, 16;\nadd.s64 %a3, %a1, %a2;\nmov.u32 %r2, tile;\nshl.b32 %r3, %r1, 4;\n"
        f"add.s32 %r3, %r2, %r3;\n{body}\nret;\n}}\n"
    )


def test_misaligned() -> None:
    device = Device()
    address = device.allocate(1024)
    device.write(address, np.zeros(1024, np.uint8))
    with pytest.raises(MemcheckError, match="misaligned read of 16 bytes"):
        device.launch(hand_written("ld.global.v4.b32 {%r4,%r5,%r6,%r7}, [%a3+4];"), "k", 1, 32, 0, [address])


def test_use_after_free() -> None:
    device = Device()
    address = device.allocate(1024)
    device.write(address, np.zeros(1024, np.uint8))
    device.free(address)
    again = device.allocate(1024)
    assert again != address
    with pytest.raises(MemcheckError, match="was freed"):
        device.launch(hand_written("ld.global.b32 %r4, [%a3];"), "k", 1, 32, 0, [address])
    with pytest.raises(MemcheckError, match="was freed"):
        device.free(address)


def test_local_memory_that_nobody_wrote() -> None:
    """Numba fills its local arrays with zeros, so only PTX by hand can get this wrong."""
    body = ".local .align 4 .b8 depot[32];\nmov.u64 %a4, depot;\n{}\nld.local.b32 %r4, [%a4+8];"
    with pytest.raises(InitcheckError, match="local memory"):
        Device().launch(hand_written(body.format("st.local.b32 [%a4+4], 1;")), "k", 1, 32, 0, [0])
    Device().launch(hand_written(body.format("st.local.b32 [%a4+8], 1;")), "k", 1, 32, 0, [0])
    with pytest.raises(MemcheckError, match="of 32 bytes of local memory"):
        Device().launch(hand_written(body.format("st.local.b32 [%a4+32], 1;")), "k", 1, 32, 0, [0])


COPY = "cp.async.cg.shared.global [%r3], [%a3], 16;\ncp.async.commit_group;\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (COPY + "cp.async.wait_group 0;\nld.shared.b32 %r4, [%r3];", None),
        (COPY + "ld.shared.b32 %r4, [%r3];", InitcheckError),
        (COPY + "cp.async.wait_group 1;\nld.shared.b32 %r4, [%r3];", InitcheckError),
        (COPY + "cp.async.wait_group 0;\nxor.b32 %r4, %r3, 16;\nld.shared.b32 %r4, [%r4];", RacecheckError),
        ("ld.shared.b32 %r4, [%r2];\n" + COPY, InitcheckError),
        (
            "st.shared.b32 [%r3], 1;\nbar.sync 0;\nxor.b32 %r4, %r3, 16;\nld.shared.b32 %r4, [%r4];\n" + COPY,
            RacecheckError,
        ),
    ],
)
def test_asynchronous_copies(body: str, error: type[Exception] | None) -> None:
    device = Device()
    address = device.allocate(512)
    device.write(address, np.arange(128, dtype=np.uint32))
    if error is None:
        device.launch(hand_written(body), "k", 1, 32, 0, [address])
        return
    with pytest.raises(error):
        device.launch(hand_written(body), "k", 1, 32, 0, [address])


def test_barriers_in_different_places() -> None:
    body = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 0;\nbra B;\nA: bar.sync 0;\nB:"
    with pytest.raises(SynccheckError, match="32 of the 64 threads"):
        Device().launch(hand_written(body), "k", 1, 64, 0, [0])


def test_barrier_that_counts() -> None:
    body = "setp.ge.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1, {};\nA:"
    Device().launch(hand_written(body.format(32)), "k", 1, 64, 0, [0])
    with pytest.raises(SynccheckError):
        Device().launch(hand_written(body.format(64)), "k", 1, 64, 0, [0])


def test_message_names_everything() -> None:
    device = Device()
    x = np.zeros(100, np.float32)
    address = device.allocate(x.nbytes, "x")
    device.write(address, x)
    program = Program(compile_kernel(read_past_the_end, VECTORS))
    arguments = [*array_arguments(address, x), *array_arguments(address, x)]
    with pytest.raises(MemcheckError) as caught:
        device.launch(program, program.kernels[0], 1, 100, 0, arguments)
    message = str(caught.value)
    assert (
        f"at address {address + 400:#x}: 0 bytes after the end of an allocation of 400 bytes (x)" in message
    )
    assert "block (0, 0, 0), thread (99, 0, 0)" in message
    assert "ld.global" in message
