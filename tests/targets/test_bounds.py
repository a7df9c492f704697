"""Static bounds: machine code is read right, and no kernel gets worse than the reviewed baseline.

The baseline is bounds.json beside this file. After a change that is meant, write it anew and review it::

    python -m nbops.targets.bounds --json tests/targets/bounds.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nbops.dtypes import COMPUTED
from nbops.op import registry
from nbops.targets.bounds import Bound, bound_of, compiler, inner_loop, main, naive_launches, tuned_launches
from nbops.targets.cuda import toolchain
from nbops.targets.cuda.architectures import ARCHITECTURES, occupancy
from nbops.targets.cuda.cubin import Instruction, read
from tests.targets.cuda import needs_compiler

pytestmark = needs_compiler

_FILE = json.loads(Path(__file__).with_name("bounds.json").read_text())
BASELINE = {(b["call"], b["kernel"], b["compute_capability"]): Bound(**b) for b in _FILE["bounds"]}
#: Two float64 units a multiprocessor: arithmetic, not memory, sets the pace of float64.
SLOW_IN_FLOAT64 = ("7.5", "12.0")
#: Kernels whose figures are checked on every run; the others' are on slow ones.
SOME = [
    "add_vectors_float32",
    "softmax_float32_256x16_4",
    "sum_row_float32_parts",
    "product_float32_128x128_r4r4_linear",
]


def worse(now: Bound, before: Bound) -> list[str]:
    """What has become worse. Another compiler may need a few registers more."""
    same = _FILE["compiler"] == compiler()
    found = []
    if now.registers > before.registers + (0 if same else 16):
        found.append(f"{now.registers} registers, not {before.registers}")
    if now.stack_bytes > before.stack_bytes:
        found.append(f"{now.stack_bytes} bytes of stack, not {before.stack_bytes}")
    if now.spill_bytes > before.spill_bytes:
        found.append(f"{now.spill_bytes} bytes spilled, not {before.spill_bytes}")
    for name in "wide", "bound", "occupancy", "multiply_adds":
        value, wanted = getattr(now, name), getattr(before, name)
        if value < wanted - (0.001 if same else 0.1):
            found.append(f"{name} {value}, not {wanted}")
    return found


def check(only: str = "") -> list[Bound]:
    bounds = [bound_of(*named) for named in tuned_launches(list(ARCHITECTURES), only)]
    assert bounds
    complaints = []
    for now in bounds:
        before = BASELINE.get((now.call, now.kernel, now.compute_capability))
        found = ["it is not in the baseline"] if before is None else worse(now, before)
        complaints += [f"{now.kernel} ({now.call}, {now.compute_capability}): {text}" for text in found]
    assert not complaints, "\n".join(complaints)
    return bounds


@pytest.mark.parametrize("only", SOME)
def test_some_kernels_are_no_worse_than_the_baseline(only: str) -> None:
    check(only)


@pytest.mark.slow
def test_no_kernel_is_worse_than_the_baseline() -> None:
    found = {(b.call, b.kernel, b.compute_capability) for b in check()}
    assert found == BASELINE.keys(), "the baseline has kernels that are no more"


def test_the_baseline_has_every_architecture() -> None:
    kept = {b.compute_capability for b in BASELINE.values()}
    assert kept == {"{}.{}".format(*cc) for cc in ARCHITECTURES}


def test_no_tuned_kernel_has_a_stack_or_spills() -> None:
    assert not [b for b in BASELINE.values() if b.stack_bytes or b.spill_bytes]


def test_elementwise_kernels_move_16_bytes_at_once() -> None:
    found = [b for b in BASELINE.values() if re.search("_vectors_(float|int)", b.kernel)]
    assert found
    for b in found:
        assert b.wide == 1, b
        assert b.bound >= 0.5 or b.compute_capability in SLOW_IN_FLOAT64, b


def test_the_large_products_reach_80_percent_of_the_float32_peak() -> None:
    found = [
        b
        for b in BASELINE.values()
        if b.kernel.startswith("product_float32_128x128") and b.kernel.endswith(("4_linear", "4_relu"))
    ]
    assert len(found) == 6 * len(ARCHITECTURES)  # four layouts, and two of dense layers
    for b in found:
        assert (b.peak, b.wide_loads) == ("float32", 1), b
        assert b.multiply_adds >= 0.8, b
        assert b.bound >= 0.8, b


KINDS = {
    "as written": {},
    "tuned": {"tuned": True},
    "strided": {"strided": True},
}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        pytest.param(kind, dtype, marks=pytest.mark.slow)
        for kind in KINDS
        for dtype in COMPUTED
        if kind != "strided" or dtype in ("float32", "float64")
    ],
)
def test_every_op_in_every_dtype_compiles_without_a_stack(kind: str, dtype: str) -> None:
    """To machine code, on each architecture; registers that spill lie in the stack."""
    check_stacks(naive_launches(list(ARCHITECTURES), "", [dtype], **KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_some_ops_in_some_dtypes_compile_without_a_stack(kind: str) -> None:
    for only, dtype in (("maximum", "uint8"), ("matmul", "int64")):
        check_stacks(naive_launches(list(ARCHITECTURES), f"{only}_", [dtype], **KINDS[kind]))


def check_stacks(named: Any) -> None:
    """And an elementwise op's vectors are vectors; parts of products end with single elements."""
    bounds = [bound_of(*one) for one in named]
    assert {b.compute_capability for b in bounds} == {"{}.{}".format(*cc) for cc in ARCHITECTURES}
    assert not [b for b in bounds if b.stack_bytes or b.spill_bytes]
    elementwise = [b for b in bounds if registry[b.call.split(",")[0]].signature.is_elementwise]
    assert not [b for b in elementwise if "_vectors_" in b.kernel and b.wide < 1]


def test_a_regression_is_noticed() -> None:
    before = next(iter(BASELINE.values()))
    fields = vars(before)
    assert not worse(before, before)
    assert worse(Bound(**{**fields, "registers": before.registers + 20}), before)
    assert worse(Bound(**{**fields, "stack_bytes": 8}), before)
    assert worse(Bound(**{**fields, "spill_bytes": 8}), before)
    assert worse(Bound(**{**fields, "bound": before.bound - 0.2}), before)


# ---- machine code -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cc", ARCHITECTURES, ids=str)
def test_an_elementwise_kernels_machine_code(cc: Any) -> None:
    _, launch, _ = next(tuned_launches([cc], "add_vectors_float32"))
    ptx, _ = toolchain.compile_ptx(launch.kernel, cc)
    code = read(toolchain.compile_cubin(ptx, cc), cc)
    body = inner_loop(code.instructions)
    moved = [(i.name, i.nbytes) for i in body if i.nbytes]
    assert sorted(moved) == [("LDG", 16), ("LDG", 16), ("STG", 16)]
    assert sum(i.name == "FADD" for i in body) == 4
    assert body[-1].name == "BRA"
    assert code.instructions[-1].name in ("BRA", "NOP")
    assert all(0 <= i.target < len(code.instructions) for i in code.instructions if i.target is not None)
    assert 8 <= code.registers <= 64
    assert code.stack_bytes == code.shared_bytes == 0


def test_shared_memory_and_shuffles_are_read() -> None:
    _, launch, _ = next(tuned_launches([(9, 0)], "softmax_float32_256x16_4"))
    ptx, _ = toolchain.compile_ptx(launch.kernel, (9, 0))
    code = read(toolchain.compile_cubin(ptx, (9, 0)), (9, 0))
    names = [i.name for i in code.instructions]
    assert code.shared_bytes == 2 * 8 * 4  # a peak and a total of each of 8 warps
    assert names.count("BAR") == 2
    assert names.count("SHFL") == 2 * (5 + 3)
    assert sum(i.name == "LDG" and i.nbytes == 16 for i in code.instructions) == 4


#: Holds 64 numbers at once, in a kernel that has 24 registers.
SPILLING = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry spilling(.param .u64 at) .maxntid 1024 .minnctapersm 2
{
.reg .u64 %a;
.reg .f32 %x<64>;
ld.param.u64 %a, [at];
LOADS
bar.sync 0;
STORES
ret;
}
"""


def test_spills_are_the_assemblers_count() -> None:
    loads = "\n".join(f"ld.global.volatile.f32 %x{i}, [%a + {4 * i}];" for i in range(64))
    stores = "\n".join(f"st.global.volatile.f32 [%a + {4 * i}], %x{63 - i};" for i in range(64))
    ptx = SPILLING.replace("LOADS", loads).replace("STORES", stores)
    cubin, spilled = toolchain.compile_cubin_with_spills(ptx, (9, 0))
    code = read(cubin, (9, 0))
    assert spilled == sum(i.nbytes for i in code.instructions if i.name in ("STL", "LDL")) > 0
    assert code.stack_bytes > 0


def test_what_is_no_cubin_says_so() -> None:
    with pytest.raises(ValueError, match="ELF"):
        read(b"PTX", (9, 0))


def test_the_inner_loop() -> None:
    load, step, nothing = Instruction("LDG", 16), Instruction("FFMA"), Instruction("NOP")
    code = [step, load, Instruction("BRA", target=1), step, Instruction("BRA", target=0), nothing]
    assert inner_loop(code) == code[1:3]
    assert inner_loop([step, load, nothing]) == [step, load]
    assert inner_loop([load, step, Instruction("BRA", target=1)]) == [
        load,
        step,
        Instruction("BRA", target=1),
    ]


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "expected"),
    [
        (32, 0, 256, 1),
        (128, 0, 256, 0.25),
        (255, 0, 256, 0.125),
        (32, 100 << 10, 256, 0.25),
        (32, 0, 32, 0.5),
    ],
)
def test_occupancy(registers: int, shared: int, threads: int, expected: float) -> None:
    assert occupancy((9, 0), registers, shared, threads) == expected


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["--only", "add_vectors_float32", "--cc", "9.0", "--json", str(tmp_path / "b.json")])
    text = capsys.readouterr().out
    assert "| add, float32 | add_vectors_float32_float32_float32 | 9.0 |" in text
    assert "not measured on hardware" in text
    assert json.loads((tmp_path / "b.json").read_text())["bounds"][0]["wide"] == 1
