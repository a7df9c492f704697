"""Shuffles, votes, atomics, matrix products and memory of every space: against models of a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbops.targets.emulator import Device, Program
from tests.targets.emulator.test_opcodes import execute

LANE = np.arange(32)


def warp(instruction: str, result: str, *inputs: tuple[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The instruction's result in each lane of two warps."""
    doubled = [(kind, np.concatenate([values, values[::-1]])) for kind, values in inputs]
    out: np.ndarray[Any, Any] = execute(instruction, result, doubled)
    return out


def shuffled(mode: str, lane: int, by: int, clamp: int) -> tuple[int, bool]:
    """The PTX manual's definition, word for word."""
    segment, limit = clamp >> 8 & 31, clamp & 31
    highest = (lane & segment) | (limit & ~segment & 31)
    lowest = lane & segment
    if mode == "up":
        source = lane - by
        valid = source >= highest
    elif mode == "down":
        source = lane + by
        valid = source <= highest
    elif mode == "bfly":
        source = lane ^ by
        valid = source <= highest
    else:
        source = lowest | (by & ~segment & 31)
        valid = source <= highest
    return (source if valid else lane), valid


@pytest.mark.parametrize("width", [32, 16, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode: str, width: int) -> None:
    values = np.random.default_rng(1).integers(0, 2**32, 32).astype(np.uint32)
    for by in (0, 1, 3, 8, 17):
        clamp = (32 - width) << 8 | (0 if mode == "up" else 31)
        text = f"shfl.sync.{mode}.b32 %d|%q, %a, {by}, {clamp}, -1;"
        out = warp(text, "b32", ("b32", values))
        valid = warp(text + " selp.b32 %d, 1, 0, %q;", "b32", ("b32", values))
        expected = [shuffled(mode, lane, by, clamp) for lane in range(32)]
        assert out[:32].tolist() == [int(values[source]) for source, _ in expected]
        assert out[32:].tolist() == [int(values[::-1][source]) for source, _ in expected]
        assert valid[:32].tolist() == [int(flag) for _, flag in expected]


def test_votes() -> None:
    values = (LANE % 3).astype(np.uint32)
    setp = "setp.eq.u32 %q, %a, 1; "
    mask = sum(1 << int(lane) for lane in LANE if lane % 3 == 1)
    out = warp(setp + "vote.sync.ballot.b32 %d, %q, -1;", "b32", ("u32", values))
    assert (out[:32] == mask).all()
    for mode, threshold, expected in (
        ("any", 1, 1),
        ("any", 7, 0),
        ("all", 1, 0),
        ("uni", 7, 1),
        ("uni", 1, 0),
    ):
        text = f"setp.eq.u32 %q, %a, {threshold}; vote.sync.{mode}.pred %q, %q, -1; selp.b32 %d, 1, 0, %q;"
        assert (warp(text, "b32", ("u32", values)) == expected).all(), mode
    alike = warp("match.any.sync.b32 %d, %a, -1;", "b32", ("b32", values))
    assert alike[:32].tolist() == [sum(1 << j for j in range(32) if j % 3 == i % 3) for i in range(32)]
    assert (warp("match.all.sync.b32 %d|%q, %a, -1;", "b32", ("b32", values)) == 0).all()
    assert (warp("match.all.sync.b32 %d|%q, %a, -1;", "b32", ("b32", values * 0)) == 0xFFFFFFFF).all()
    assert (warp("activemask.b32 %d;", "b32", ("b32", values)) == 0xFFFFFFFF).all()
    branch = "mov.b32 %d, 0; setp.lt.u32 %q, %a, 1; @%q bra A; activemask.b32 %d; A:"
    out = warp(branch, "b32", ("u32", values))
    expected = sum(1 << int(lane) for lane in LANE if lane % 3)
    assert out[:32].tolist() == [expected if lane % 3 else 0 for lane in range(32)]


@pytest.mark.parametrize(("name", "reduce"), [("add", np.sum), ("min", np.min), ("max", np.max)])
@pytest.mark.parametrize("kind", ["s32", "u32"])
def test_reductions(name: str, reduce: Any, kind: str) -> None:
    values = np.random.default_rng(2).integers(0, 1000, 32).astype("i4" if kind == "s32" else "u4")
    if kind == "s32":
        values -= 500
    assert (warp(f"redux.sync.{name}.{kind} %d, %a, -1;", kind, (kind, values)) == reduce(values)).all()


def test_reducing_barrier() -> None:
    values = (np.arange(32) < 5).astype(np.uint32)
    text = "setp.ne.u32 %q, %a, 0; bar.red.{} {}, 0, %q; {}"
    out = warp(text.format("popc.u32", "%d", ""), "u32", ("u32", values))
    assert (out == 10).all()
    for mode, expected in (("and", 0), ("or", 1)):
        text2 = text.format(f"{mode}.pred", "%q2", "selp.b32 %d, 1, 0, %q2;")
        assert (warp(text2, "b32", ("u32", values)) == expected).all()


# -- memory --------------------------------------------------------------------------------------------------

HEADER = ".version 8.6\n.target sm_90\n.address_size 64\n"


def launch(body: str, data: np.ndarray[Any, Any], block: int = 64, grid: int = 1, module: str = "") -> Device:
    """Run a kernel on one array that it may read and write."""
    device = Device()
    address = device.allocate(data.nbytes)
    device.write(address, data)
    program = Program(
        f"{HEADER}{module}\n.visible .entry k(.param .u64 a)\n{{\n"
        ".reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<20>; .reg .b64 %d<20>; .reg .f32 %f<9>;\n"
        f"ld.param.u64 %d1, [a];\nmov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"
    )
    device.launch(program, "k", grid, block, 0, [address])
    device.read(address, data)
    return device


ATOMICS = {
    "add.u32": lambda old, v: (old + v) % 2**32,
    "min.u32": min,
    "max.u32": max,
    "and.b32": lambda old, v: old & v,
    "or.b32": lambda old, v: old | v,
    "xor.b32": lambda old, v: old ^ v,
    "exch.b32": lambda old, v: v,
    "inc.u32": lambda old, v: 0 if old >= v else old + 1,
    "dec.u32": lambda old, v: v if old == 0 or old > v else old - 1,
}


@pytest.mark.parametrize("space", ["global", "shared", ""])
@pytest.mark.parametrize("opcode", ATOMICS)
def test_atomics(opcode: str, space: str) -> None:
    """64 lanes meet at 5 addresses: the old values and the results are those of some order, here the
    lanes'.
    """
    rule = ATOMICS[opcode]
    values = np.random.default_rng(3).integers(1, 200, 64).astype(np.uint32)
    data = np.concatenate([values, np.full(5, 100, np.uint32), np.zeros(64, np.uint32)])
    where = "add.s64 %d4, %d1, %d3; add.s64 %d4, %d4, 256;"
    dot = f".{space}" if space else ""
    before = after = ""
    if space == "shared":
        where = "cvt.s64.s32 %d5, 0; mov.u64 %d5, cells; add.s64 %d4, %d5, %d3; add.s64 %d6, %d1, %d3;"
        before = (
            "ld.global.u32 %r9, [%d6+256]; setp.lt.u32 %p1, %r1, 5; "
            "@%p1 st.shared.u32 [%d4], %r9; bar.sync 0;"
        )
        after = "bar.sync 0; ld.shared.u32 %r9, [%d4]; @%p1 st.global.u32 [%d6+256], %r9;"
    launch(
        f"""mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1; ld.global.u32 %r2, [%d2];
        rem.u32 %r3, %r1, 5; mul.wide.u32 %d3, %r3, 4; {where} {before}
        atom{dot}.{opcode} %r4, [%d4], %r2; st.global.u32 [%d2+276], %r4; {after}""",
        data,
        module=".shared .align 4 .b8 cells[20];",
    )
    cells = [100] * 5
    old = []
    for lane, value in enumerate(values.tolist()):
        old.append(cells[lane % 5])
        cells[lane % 5] = rule(cells[lane % 5], value)
    assert data[64:69].tolist() == cells
    assert data[69:].tolist() == old


def test_compare_and_swap_and_float_sums() -> None:
    data = np.zeros(8, np.float32)
    launch("cvt.rn.f32.u32 %f1, %r1; red.global.add.f32 [%d1], %f1;", data)
    assert data[0] == sum(range(64))
    cells = np.zeros(4, np.uint32)
    launch("add.u32 %r2, %r1, 1; atom.global.cas.b32 %r3, [%d1], %r1, %r2;", cells)
    assert cells[0] == 64
    loop = """LOOP: atom.global.cas.b32 %r3, [%d1], 0, 1; setp.ne.u32 %p1, %r3, 0; @%p1 bra LOOP;
    red.global.add.u32 [%d1+4], 1; atom.global.exch.b32 %r3, [%d1], 0;"""
    cells[:] = 0
    launch(loop, cells, block=8)
    assert cells[:2].tolist() == [0, 8]


def test_vectors_and_small_types() -> None:
    data = np.arange(512, dtype=np.uint32)
    body = """mul.wide.u32 %d2, %r1, 16; add.s64 %d2, %d2, %d1;
    ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d2];
    st.global.v2.u32 [%d2], {%r5, %r4}; st.global.v2.u32 [%d2+8], {%r3, %r2};
    ld.global.v2.u64 {%d4, %d5}, [%d2]; st.global.v2.b64 [%d2+1024], {%d5, %d4};"""
    launch(body, data)
    quads = data[:256].reshape(64, 4)
    assert (quads == np.arange(256).reshape(64, 4)[:, ::-1]).all()
    assert (data[256:].reshape(64, 2, 2) == quads.reshape(64, 2, 2)[:, ::-1]).all()
    octets = np.arange(256, dtype=np.uint8).repeat(4)
    body = """mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1;
    ld.global.s8 %h1, [%d2]; cvt.s32.s16 %r2, %h1; st.global.u8 [%d2+1], %r2; shr.s32 %r2, %r2, 8;
    st.global.u8 [%d2+2], %r2; ld.global.u8 %r3, [%d2]; st.global.u16 [%d2], %r3;"""
    launch(body, octets, block=256)
    rows = octets.reshape(256, 4)
    assert (rows[:, 0] == np.arange(256)).all()
    assert (rows[:, 1] == 0).all()
    assert (rows[:, 2] == np.where(np.arange(256) > 127, 255, 0)).all()


def test_module_variables_and_generic_addresses() -> None:
    data = np.zeros(64, np.float32)
    module = (
        ".const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};\n"
        ".global .align 4 .b8 bytes[4] = {1, 2, 3, 255};"
    )
    body = """.local .align 16 .b8 depot[16]; .shared .align 4 .b8 tile[256];
    and.b32 %r2, %r1, 3; mul.wide.u32 %d2, %r2, 4; mov.u64 %d3, table; add.s64 %d3, %d3, %d2;
    ld.const.f32 %f1, [%d3];
    mov.u64 %d4, tile; cvta.shared.u64 %d4, %d4; mul.wide.u32 %d5, %r1, 4; add.s64 %d4, %d4, %d5;
    st.f32 [%d4], %f1; ld.f32 %f2, [%d4];
    mov.u64 %d6, depot; cvta.local.u64 %d6, %d6; st.f32 [%d6+4], %f2;
    setp.lt.u32 %p1, %r1, 32; selp.b64 %d7, %d4, %d6, %p1; selp.b64 %d8, 0, 4, %p1; add.s64 %d7, %d7, %d8;
    ld.f32 %f3, [%d7]; mov.u64 %d9, bytes; ld.global.u8 %r3, [%d9+3]; cvt.rn.f32.u32 %f4, %r3;
    add.f32 %f3, %f3, %f4; add.s64 %d1, %d1, %d5; st.global.f32 [%d1], %f3;"""
    launch(body, data, module=module)
    assert (data == np.arange(64) % 4 + 1 + 255).all()


def test_which_memory_an_address_is_of() -> None:
    """One bit each for shared, local and global memory, of an address in each of the three."""
    data = np.zeros(3, np.uint32)
    asked = "".join(
        f"isspacep.{space} %p1, %d4; selp.b32 %r2, {bit}, 0, %p1; or.b32 %r3, %r3, %r2;"
        for bit, space in ((1, "shared"), (2, "local"), (4, "global"))
    )
    body = f""".local .align 16 .b8 depot[16]; .shared .align 4 .b8 tile[16];
    mov.u64 %d2, tile; cvta.shared.u64 %d2, %d2; mov.u64 %d3, depot; cvta.local.u64 %d3, %d3;
    setp.eq.u32 %p2, %r1, 0; selp.b64 %d4, %d2, %d1, %p2;
    setp.eq.u32 %p2, %r1, 1; selp.b64 %d4, %d3, %d4, %p2; mov.u32 %r3, 0;
    {asked} mul.wide.u32 %d5, %r1, 4; add.s64 %d1, %d1, %d5; st.global.u32 [%d1], %r3;"""
    launch(body, data, block=3)
    assert data.tolist() == [1, 2, 4]


def test_hints_and_fences_change_nothing() -> None:
    data = np.arange(32, dtype=np.uint32)
    body = """mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1; prefetch.global.L2 [%d2]; prefetchu.L1 [%d2];
    applypriority.global.L2::evict_normal [%d2], 128; ldu.global.u32 %r2, [%d2]; membar.gl; fence.acq_rel.gpu;
    nanosleep.u32 20; griddepcontrol.wait; add.u32 %r2, %r2, 1; st.global.u32 [%d2], %r2;"""
    launch(body, data, block=32)
    assert data.tolist() == list(range(1, 33))


def test_a_barrier_by_its_other_name() -> None:
    data = np.arange(64, dtype=np.uint32)
    body = """.shared .align 4 .b8 tile[256]; mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1;
    ld.global.u32 %r2, [%d2]; mov.u32 %r3, tile; shl.b32 %r4, %r1, 2; add.u32 %r3, %r3, %r4;
    st.shared.u32 [%r3], %r2; barrier.sync 0; mov.u32 %r3, tile; sub.u32 %r4, 252, %r4; add.u32 %r3, %r3, %r4;
    ld.shared.u32 %r2, [%r3]; st.global.u32 [%d2], %r2;"""
    launch(body, data)
    assert data.tolist() == list(range(63, -1, -1))


def test_control_flow_meets_again() -> None:
    """Loops of different length in each lane, and an early exit."""
    data = np.zeros(64, np.uint32)
    body = """setp.eq.u32 %p1, %r1, 13; @%p1 ret; mov.u32 %r2, 0; mov.u32 %r3, 0;
    LOOP: setp.ge.u32 %p2, %r2, %r1; @%p2 bra DONE; and.b32 %r4, %r2, 1; setp.eq.u32 %p3, %r4, 0;
    @!%p3 bra ODD; add.u32 %r3, %r3, %r2; bra NEXT; ODD: add.u32 %r3, %r3, 1000; NEXT: add.u32 %r2, %r2, 1;
    bra.uni LOOP; DONE: mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1; st.global.u32 [%d2], %r3;"""
    launch(body, data)
    assert data.tolist() == [
        sum(i if i % 2 == 0 else 1000 for i in range(n)) if n != 13 else 0 for n in range(64)
    ]


@pytest.mark.parametrize("kind", ["tf32", "f16", "bf16"])
def test_matrix_products(kind: str) -> None:
    """One warp multiplies 16 x k by k x 8; the fragments are loaded as the PTX manual lays them out."""
    rng = np.random.default_rng(4)
    depth = 8 if kind == "tf32" else 16
    a, b, c = rng.integers(-8, 8, (16, depth)), rng.integers(-8, 8, (depth, 8)), rng.integers(-8, 8, (16, 8))

    def bits(values: Any) -> int:
        floats = np.asarray(values, np.float32)
        if kind == "tf32":
            return int(floats.view(np.uint32)[0])
        halves = (
            floats.astype(np.float16).view(np.uint16) if kind == "f16" else (floats.view(np.uint32) >> 16)
        )
        return int(halves[0]) | int(halves[1]) << 16

    pack = 1 if kind == "tf32" else 2
    words = np.zeros((10, 32), np.uint32)
    for lane in range(32):
        g, t = lane >> 2, lane & 3
        for i in range(4):
            row, col = g + 8 * (i & 1), pack * t + 4 * pack * (i >> 1)
            words[i, lane] = bits(a[row, col : col + pack])
        for i in range(2):
            row = pack * t + 4 * pack * i
            words[4 + i, lane] = bits(b[row : row + pack, g])
        for i in range(4):
            words[6 + i, lane] = np.float32(c[g + 8 * (i >> 1), 2 * t + (i & 1)]).view(np.uint32)
    loads = "".join(f"ld.global.b32 %r{i + 2}, [%d2+{128 * i}];" for i in range(10))
    stores = "".join(f"st.global.b32 [%d2+{128 * i}], %r{i + 12};" for i in range(4))
    body = f"""mul.wide.u32 %d2, %r1, 4; add.s64 %d2, %d2, %d1; {loads}
    mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 {{%r12,%r13,%r14,%r15}}, {{%r2,%r3,%r4,%r5}},
    {{%r6,%r7}}, {{%r8,%r9,%r10,%r11}}; {stores}"""
    data = words.reshape(-1).copy()
    launch(body, data, block=32)
    out = data[:128].reshape(4, 32).view(np.float32)
    for lane in range(32):
        for i in range(4):
            row, col = (lane >> 2) + 8 * (i >> 1), 2 * (lane & 3) + (i & 1)
            assert out[i, lane] == (a @ b + c)[row, col]


# -- launches ------------------------------------------------------------------------------------------------


def test_large_grids_run_in_batches() -> None:
    data = np.zeros(4, np.uint32)
    device = launch("red.global.add.u32 [%d1], 1;", data, block=96, grid=1000)
    assert data[0] == 96_000
    assert device.counters["k"].opcodes["red.global.add.u32"] == 3000
    device.reset()
    assert device.report() == "no kernel has run yet"


def test_parameters_are_packed_by_their_layout() -> None:
    program = Program(
        f"{HEADER}.visible .entry "
        "k(.param .u8 a, .param .u64 out, .param .f32 f, .param .u16 h, .param .f64 g)\n{\n"
        ".reg .b16 %h<3>; .reg .b64 %d<4>; .reg .f32 %f1;\nld.param.u8 %h1, [a]; ld.param.u64 %d1, [out];"
        "ld.param.f32 %f1, [f]; ld.param.u16 %h2, [h]; ld.param.f64 %d2, [g];\nst.global.u8 [%d1], %h1;"
        "st.global.f32 [%d1+4], %f1; st.global.u16 [%d1+2], %h2; st.global.f64 [%d1+8], %d2; ret;\n}\n"
    )
    device = Device()
    address = device.allocate(16)
    device.write(address, np.zeros(16, np.uint8))
    arguments = [np.uint8(200), np.int64(address), np.float32(1.5), np.uint16(50_000), 2.25]
    device.launch(program, "k", 1, 1, 0, arguments)
    out = np.zeros(16, np.uint8)
    device.read(address, out)
    assert (out[0], out[2:4].view("u2")[0], out[4:8].view("f4")[0], out[8:].view("f8")[0]) == (
        200,
        50_000,
        1.5,
        2.25,
    )
    with pytest.raises(ValueError, match="takes 5 parameters, not 1"):
        device.launch(program, "k", 1, 1, 0, [1])
    with pytest.raises(ValueError, match="parameter f has 4 bytes; got 8"):
        device.launch(program, "k", 1, 1, 0, [*arguments[:2], np.float64(1), *arguments[3:]])
    with pytest.raises(ValueError, match="no kernel is called 'q'"):
        device.launch(program, "q", 1, 1)
