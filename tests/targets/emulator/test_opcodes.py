"""Each opcode against exact arithmetic: Python's integers, fractions, and float64 where that is exact."""

from __future__ import annotations

import ast
import math
import operator
import re
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbops.targets.emulator import Device, EmulatorError, Program, UnknownInstructionError
from nbops.targets.emulator.decode import _BUILDERS
from nbops.targets.emulator.nodes import BYTES

LANES = 512


def dtype_of(kind: str) -> np.dtype[Any]:
    return np.dtype({"b": "u", "u": "u", "s": "i", "f": "f"}[kind[0]] + str(BYTES[kind]))


def execute(
    instruction: str, result: str, inputs: list[tuple[str, np.ndarray[Any, Any]]], checks: bool = True
) -> Any:
    """Run ``instruction`` with ``%d`` and ``%a``, ``%b``, ``%c`` as operands, one lane for each element."""
    number = len(inputs[0][1])
    declarations = [f".reg .b{8 * max(2, BYTES[result])} %d;"]
    loads = []
    for name, (kind, _) in zip("abcd", inputs, strict=False):
        register = f"%{name}" if name != "d" else "%e"
        declarations.append(f".reg .b{8 * max(2, BYTES[kind])} {register};")
        loads += [
            f"ld.param.u64 %p, [p{name}]; mul.wide.u32 %o, %t, {BYTES[kind]}; add.u64 %p, %p, %o;",
            f"ld.global.{kind} {register}, [%p];",
        ]
    parameters = ", ".join(f".param .u64 p{name}" for name in ["out", *"abcd"[: len(inputs)]])
    text = (
        ".version 8.6\n.target sm_90\n.address_size 64\n"
        f".visible .entry k({parameters})\n{{\n.reg .b32 %t; .reg .b64 %p, %o; .reg .pred %q, %q2;\n"
        + "\n".join([*declarations, "mov.u32 %t, %tid.x;", *loads, instruction])
        + f"\nld.param.u64 %p, [pout]; mul.wide.u32 %o, %t, {BYTES[result]}; add.u64 %p, %p, %o;\n"
        f"st.global.{result} [%p], %d;\nret;\n}}\n"
    )
    device = Device()
    out = np.zeros(number, dtype_of(result))
    addresses = [device.allocate(out.nbytes)]
    for kind, values in inputs:
        data = np.ascontiguousarray(values)
        assert data.itemsize == BYTES[kind]
        addresses.append(device.allocate(data.nbytes))
        device.write(addresses[-1], data)
    device.launch(Program(text), "k", 1, number, 0, addresses)
    device.read(addresses[0], out)
    return out


def integers(kind: str, seed: int, n: int = LANES) -> np.ndarray[Any, Any]:
    """Random bits, small numbers, and the ends of the range."""
    rng = np.random.default_rng(seed)
    dtype = dtype_of(kind)
    values = rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype)
    values[: n // 4] = rng.integers(0, 40, n // 4)
    ends = [0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min]
    values[n // 4 : n // 4 + 8] = rng.permutation(np.array(ends * 2, dtype))
    return values


def floats(kind: str, seed: int, n: int = LANES, special: bool = True) -> np.ndarray[Any, Any]:
    """Numbers of all sizes, ties, and (if `special`) zeros, infinities, NaN and subnormals."""
    rng = np.random.default_rng(seed)
    dtype = dtype_of(kind)
    values = (rng.standard_normal(n) * np.exp2(rng.integers(-12, 12, n))).astype(dtype)
    values[: n // 4] = rng.integers(-64, 64, n // 4) / dtype.type(8)
    if special:
        info = np.finfo(dtype)
        ends = [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, info.tiny, info.tiny / 4, 1 + info.eps, -1.0]
        values[n // 2 : n // 2 + 40] = rng.permutation(ends * 4)
    return values


def wrap(value: int, kind: str) -> int:
    bits = 8 * BYTES[kind]
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def truncated_division(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


# -- integers ------------------------------------------------------------------------------------------------

Rule = Callable[..., int]


def _high(kind: str) -> Rule:
    return lambda a, b: a * b >> (8 * BYTES[kind])


def _high_sum(kind: str) -> Rule:
    return lambda a, b, c: (a * b >> (8 * BYTES[kind])) + c


def _shift_right(bits: int) -> Rule:
    return lambda a, b: a >> min(b, bits)


INTEGER: dict[str, tuple[list[str], str, Rule]] = {}
for k in ("s16", "u16", "s32", "u32", "s64", "u64"):
    n = 8 * BYTES[k]
    INTEGER |= {
        f"add.{k}": ([k, k], k, operator.add),
        f"sub.{k}": ([k, k], k, operator.sub),
        f"mul.lo.{k}": ([k, k], k, operator.mul),
        f"mul.hi.{k}": ([k, k], k, _high(k)),
        f"mad.lo.{k}": ([k, k, k], k, lambda a, b, c: a * b + c),
        f"mad.hi.{k}": ([k, k, k], k, _high_sum(k)),
        f"min.{k}": ([k, k], k, min),
        f"max.{k}": ([k, k], k, max),
        f"shr.{k}": ([k, "u32"], k, _shift_right(n)),
    }
    if k in ("s16", "u16", "s32", "u32"):
        wide = f"{k[0]}{2 * n}"
        INTEGER[f"mul.wide.{k}"] = ([k, k], wide, operator.mul)
        INTEGER[f"mad.wide.{k}"] = ([k, k, wide], wide, lambda a, b, c: a * b + c)
    if k[0] == "s":
        INTEGER |= {f"neg.{k}": ([k], k, operator.neg), f"abs.{k}": ([k], k, abs)}


def _of_24_bits(k: str, shift: int) -> Rule:
    """The product of the low 24 bits, in two's complement where it is signed, from bit `shift` on."""

    def cut(value: int) -> int:
        value &= 0xFFFFFF
        return value - (1 << 24) if k[0] == "s" and value >> 23 else value

    return lambda a, b, c=0: (cut(a) * cut(b) >> shift) + c


for k in ("s32", "u32"):
    for half, shift in (("lo", 0), ("hi", 16)):
        INTEGER[f"mul24.{half}.{k}"] = ([k, k], k, _of_24_bits(k, shift))
        INTEGER[f"mad24.{half}.{k}"] = ([k, k, k], k, _of_24_bits(k, shift))
for k in ("b16", "b32", "b64"):
    n = 8 * BYTES[k]
    INTEGER |= {
        f"and.{k}": ([k, k], k, operator.and_),
        f"or.{k}": ([k, k], k, operator.or_),
        f"xor.{k}": ([k, k], k, operator.xor),
        f"not.{k}": ([k], k, operator.invert),
        f"cnot.{k}": ([k], k, lambda a: int(a == 0)),
        f"shl.{k}": ([k, "u32"], k, lambda a, b, _n=n: a << min(b, _n)),
        f"mov.{k}": ([k], k, lambda a: a),
    }


def _dot_of_bytes(first: str, second: str) -> Rule:
    def each(word: int, kind: str) -> list[int]:
        return [wrap(word >> shift, f"{kind[0]}8") for shift in (0, 8, 16, 24)]

    return lambda a, b, c: c + sum(x * y for x, y in zip(each(a, first), each(b, second), strict=True))


for first, second in (("s32", "s32"), ("u32", "u32"), ("s32", "u32"), ("u32", "s32")):
    k = "s32" if "s32" in (first, second) else "u32"
    INTEGER[f"dp4a.{first}.{second}"] = ([first, second, k], k, _dot_of_bytes(first, second))


def _bits(n: int) -> dict[str, tuple[list[str], str, Rule]]:
    k, u, s = f"b{n}", f"u{n}", f"s{n}"

    def reverse(a: int) -> int:
        return int(f"{a:0{n}b}"[::-1], 2)

    def extract(a: int, start: int, length: int, signed: bool) -> int:
        start, length = start & 255, length & 255
        top = a >> (n - 1) & 1 if signed else 0
        if signed and length:
            top = a >> min(start + length - 1, n - 1) & 1
        value = 0
        for i in range(n):
            bit = a >> (start + i) & 1 if i < length and start + i < n else top
            value |= bit << i
        return value if length else 0

    def insert(a: int, b: int, start: int, length: int) -> int:
        start, length = start & 255, length & 255
        for i in range(length):
            if start + i < n:
                b = b & ~(1 << (start + i)) | (a >> i & 1) << (start + i)
        return b

    def find(a: int) -> int:
        return (~a if a < 0 else a).bit_length() - 1

    return {
        f"popc.{k}": ([k], "u32", lambda a: a.bit_count()),
        f"clz.{k}": ([k], "u32", lambda a: n - a.bit_length()),
        f"brev.{k}": ([k], k, reverse),
        f"bfind.{u}": ([u], "u32", find),
        f"bfind.{s}": ([s], "u32", find),
        f"bfind.shiftamt.{u}": ([u], "u32", lambda a: n - 1 - find(a) if a else -1),
        f"bfe.{u}": ([u, "u32", "u32"], u, lambda a, b, c: extract(a, b, c, False)),
        f"bfe.{s}": ([s, "u32", "u32"], s, lambda a, b, c: extract(a, b, c, True)),
        f"bfi.{k}": ([k, k, "u32", "u32"], k, insert),
    }


INTEGER |= _bits(32) | _bits(64)
INTEGER |= {
    "shf.l.wrap.b32": (["b32", "b32", "u32"], "b32", lambda a, b, c: ((b << 32 | a) << (c & 31)) >> 32),
    "shf.r.wrap.b32": (["b32", "b32", "u32"], "b32", lambda a, b, c: (b << 32 | a) >> (c & 31)),
    "shf.l.clamp.b32": (["b32", "b32", "u32"], "b32", lambda a, b, c: ((b << 32 | a) << min(c, 32)) >> 32),
    "shf.r.clamp.b32": (["b32", "b32", "u32"], "b32", lambda a, b, c: (b << 32 | a) >> min(c, 32)),
}


@pytest.mark.parametrize("opcode", INTEGER)
def test_integers(opcode: str) -> None:
    kinds, result, rule = INTEGER[opcode]
    seed = zlib.crc32(opcode.encode())
    inputs = [(kind, integers(kind, seed + i)) for i, kind in enumerate(kinds)]
    names = ", ".join(["%a", "%b", "%c", "%e"][: len(kinds)])
    out = execute(f"{opcode} %d, {names};", result, inputs)
    rows = zip(*[values.tolist() for _, values in inputs], strict=True)
    assert out.tolist() == [wrap(rule(*row), result) for row in rows]


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_division(kind: str) -> None:
    a, b = integers(kind, 1), integers(kind, 2)
    b[b == 0] = 3
    quotient = execute(f"div.{kind} %d, %a, %b;", kind, [(kind, a), (kind, b)])
    rest = execute(f"rem.{kind} %d, %a, %b;", kind, [(kind, a), (kind, b)])
    for x, y, q, r in zip(a.tolist(), b.tolist(), quotient.tolist(), rest.tolist(), strict=True):
        expected = truncated_division(x, y)
        assert (q, r) == (wrap(expected, kind), x - expected * y), (x, y)
    with pytest.raises(EmulatorError, match="divided by zero"):
        execute(f"div.{kind} %d, %a, %b;", kind, [(kind, a), (kind, b * 0)])


def test_carries() -> None:
    a, b = integers("u64", 1), integers("u64", 2)
    add = "{.reg .b32 %l, %h, %m, %n; mov.b64 {%l, %h}, %a; mov.b64 {%m, %n}, %b;\n"
    total = execute(
        add + "add.cc.u32 %l, %l, %m; addc.u32 %h, %h, %n; mov.b64 %d, {%l, %h};}",
        "u64",
        [("u64", a), ("u64", b)],
    )
    assert (total == a + b).all()
    rest = execute(
        add + "sub.cc.u32 %l, %l, %m; subc.u32 %h, %h, %n; mov.b64 %d, {%l, %h};}",
        "u64",
        [("u64", a), ("u64", b)],
    )
    assert (rest == a - b).all()
    product = execute(
        add + ".reg .b32 %x, %y; mul.lo.u32 %x, %l, %m; mul.hi.u32 %y, %l, %m; mad.lo.cc.u32 %y, %l, %n, %y;"
        "madc.hi.u32 %x, %l, %n, 0; mov.b64 %d, {%y, %x};}",
        "u64",
        [("u64", a), ("u64", b)],
    )
    for x, y, p in zip(a.tolist(), b.tolist(), product.tolist(), strict=True):
        low, m, n = x & 0xFFFFFFFF, y & 0xFFFFFFFF, y >> 32
        assert p == (low * n + (low * m >> 32)) & (1 << 64) - 1


def test_selection_and_comparison() -> None:
    compare = {
        "eq": operator.eq,
        "ne": operator.ne,
        "lt": operator.lt,
        "le": operator.le,
        "gt": operator.gt,
        "ge": operator.ge,
    }
    for kind in ("s32", "u32", "s64", "u64", "s16"):
        a, b = integers(kind, 3), integers(kind, 4)
        for name, rule in compare.items():
            out = execute(
                f"setp.{name}.{kind} %q, %a, %b; selp.b32 %d, 1, 0, %q;", "u32", [(kind, a), (kind, b)]
            )
            assert (out == rule(a, b)).all(), (name, kind)
    a, b = floats("f32", 5), floats("f32", 6)
    unordered = np.isnan(a) | np.isnan(b)
    for name, rule in compare.items():
        for suffix, nan in (("", False), ("u", True)):
            out = execute(
                f"setp.{name}{suffix}.f32 %q, %a, %b; selp.b32 %d, 1, 0, %q;", "u32", [("f32", a), ("f32", b)]
            )
            assert (out == np.where(unordered, nan, rule(a, b))).all(), name + suffix
    for name, expected in (("num", ~unordered), ("nan", unordered)):
        out = execute(f"setp.{name}.f32 %q, %a, %b; selp.b32 %d, 1, 0, %q;", "u32", [("f32", a), ("f32", b)])
        assert (out == expected).all()
    out = execute(
        "setp.lt.f32 %q2, %a, 0f00000000; setp.gt.and.f32 %q|%q2, %b, 0f00000000, !%q2; "
        "selp.b32 %d, 1, 0, %q;",
        "u32",
        [("f32", a), ("f32", b)],
    )
    assert (out == ((b > 0) & ~(a < 0))).all()


def test_comparison_into_a_number_and_selection_by_sign() -> None:
    a, b = integers("s32", 3), integers("s32", 4)
    inputs = [("s32", a), ("s32", b)]
    assert (execute("set.lt.u32.s32 %d, %a, %b;", "u32", inputs) == np.where(a < b, 0xFFFFFFFF, 0)).all()
    assert (execute("set.lt.s32.s32 %d, %a, %b;", "s32", inputs) == np.where(a < b, -1, 0)).all()
    assert (execute("set.ge.f32.s32 %d, %a, %b;", "f32", inputs) == (a >= b)).all()
    by = floats("f32", 5)
    out = execute("slct.s32.f32 %d, %a, %b, %c;", "s32", [*inputs, ("f32", by)])
    assert (out == np.where(by >= 0, a, b)).all(), "-0 counts as 0, and NaN takes the second"
    out = execute("slct.s32.s32 %d, %a, %b, %c;", "s32", [*inputs, ("s32", b)])
    assert (out == np.where(b >= 0, a, b)).all()


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_signs_and_classes_of_floats(kind: str) -> None:
    a, b = floats(kind, 5), floats(kind, 6)
    out = execute(f"copysign.{kind} %d, %a, %b;", kind, [(kind, a), (kind, b)])
    for sign, value, got in zip(a.tolist(), b.tolist(), out.tolist(), strict=True):
        assert repr(got) == repr(math.copysign(value, sign))
    tiny = float(np.finfo(a.dtype).tiny)
    classes: dict[str, Callable[[float], bool]] = {
        "finite": math.isfinite,
        "infinite": math.isinf,
        "number": lambda x: not math.isnan(x),
        "notanumber": math.isnan,
        "normal": lambda x: math.isfinite(x) and (abs(x) >= tiny or x == 0),  # as the manual has it
        "subnormal": lambda x: 0 < abs(x) < tiny,
    }
    for name, rule in classes.items():
        out = execute(f"testp.{name}.{kind} %q, %a; selp.b32 %d, 1, 0, %q;", "u32", [(kind, a)])
        assert out.tolist() == [rule(x) for x in a.tolist()], name
        assert 0 < out.sum() < len(a), "there are some of each"


def test_permutations_and_lookups() -> None:
    a, b, c = (integers("b32", seed) for seed in (1, 2, 3))
    inputs = [("b32", a), ("b32", b), ("b32", c)]
    out = execute("prmt.b32 %d, %a, %b, %c;", "b32", inputs)
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), out.tolist(), strict=True):
        octets = (y << 32 | x).to_bytes(8, "little")
        chosen = [z >> 4 * i & 15 for i in range(4)]
        expected = bytes(255 * (octets[i & 7] >> 7) if i & 8 else octets[i & 7] for i in chosen)
        assert got == int.from_bytes(expected, "little")
    out = execute("lop3.b32 %d, %a, %b, %c, 0xE8;", "b32", inputs)
    assert (out == (a & b | a & c | b & c)).all()


# -- floats --------------------------------------------------------------------------------------------------


def rounded(value: Fraction, dtype: np.dtype[Any], rounding: str = "rn") -> float:
    """A fraction, rounded once to a float of `dtype` (exactly, subnormals included)."""
    info = np.finfo(dtype)
    if value == 0:
        return 0.0
    exponent = math.frexp(float(value))[1] - 1 if abs(value) > Fraction(1, 2**1000) else -1074
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    unit = Fraction(2) ** (max(exponent, int(info.minexp)) - int(info.nmant))
    scaled = value / unit
    integer = {"rn": round, "rz": math.trunc, "rm": math.floor, "rp": math.ceil}[rounding](scaled)
    return float(integer * unit)


@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "div", "sqrt", "rcp"])
def test_rounding(name: str, kind: str, rounding: str) -> None:
    dtype = dtype_of(kind)
    seed = zlib.crc32(f"{name}{kind}".encode())
    a, b, c = (floats(kind, seed + i, special=False) for i in range(3))
    b[b == 0] = 3
    c[1::2] = -(a * b)[1::2]  # heavy cancellation: what a product in one rounding would lose
    if name == "sqrt":
        a = np.abs(a)
    if name == "rcp":
        a = b
    number = {"fma": 3, "sqrt": 1, "rcp": 1}.get(name, 2)
    inputs = [(kind, values) for values in (a, b, c)][:number]
    out = execute(f"{name}.{rounding}.{kind} %d, {', '.join(['%a', '%b', '%c'][:number])};", kind, inputs)
    for x, y, z, got in zip(a.tolist(), b.tolist(), c.tolist(), out.tolist(), strict=True):
        fx, fy, fz = Fraction(x), Fraction(y), Fraction(z)
        if name == "sqrt":
            digits = 1 << 400
            root = math.isqrt(int(fx * digits * digits))
            exact = Fraction(root, digits)
            if exact * exact != fx:
                exact += Fraction(1, 2 * digits)
        else:
            exact = {
                "add": fx + fy,
                "sub": fx - fy,
                "mul": fx * fy,
                "fma": fx * fy + fz,
                "rcp": 1 / fx if fx else fx,
                "div": fx / fy,
            }[name]
        assert got == rounded(exact, dtype, rounding), (x, y, z)


def test_fma_where_rounding_twice_goes_wrong() -> None:
    """The product plus the addend lies just beside a tie of float32."""
    a = np.full(64, 1 + 2**-12, np.float32)
    b = np.full(64, 1 - 2**-12, np.float32)
    c = np.full(64, 2**-24 + 2**-25, np.float32)
    c[::2] *= -1
    out = execute("fma.rn.f32 %d, %a, %b, %c;", "f32", [("f32", a), ("f32", b), ("f32", c)])
    exact = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), np.dtype(np.float32))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert out.tolist() == exact


def test_min_max_special_values() -> None:
    a, b = floats("f32", 1), floats("f32", 2)
    inputs = [("f32", a), ("f32", b)]
    for name, ignores, keeps in (("min", np.fmin, np.minimum), ("max", np.fmax, np.maximum)):
        np.testing.assert_array_equal(execute(f"{name}.f32 %d, %a, %b;", "f32", inputs), ignores(a, b))
        np.testing.assert_array_equal(execute(f"{name}.NaN.f32 %d, %a, %b;", "f32", inputs), keeps(a, b))
    zeros = [("f32", np.array([0.0, -0.0], np.float32)), ("f32", np.array([-0.0, 0.0], np.float32))]
    assert np.signbit(execute("min.f32 %d, %a, %b;", "f32", zeros)).all()
    assert not np.signbit(execute("max.f32 %d, %a, %b;", "f32", zeros)).any()


# opcode, function in float64, inputs between, largest error in units in the last place and (or) absolute
APPROXIMATE: list[tuple[str, Callable[[Any], Any], float, float, float, float]] = [
    ("ex2.approx.ftz.f32", np.exp2, -120, 120, 2.0, 0),
    ("lg2.approx.f32", np.log2, 0.5, 2.0, 0, 2**-22),
    ("lg2.approx.f32", np.log2, 2.0, 1e4, 2.0, 0),
    ("rcp.approx.ftz.f32", lambda x: 1 / x, 1e-3, 1e3, 1.0, 0),
    ("sqrt.approx.f32", np.sqrt, 0, 1e6, 1.0, 0),
    ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x), 1e-3, 1e6, 2.0, 0),
    ("sin.approx.f32", np.sin, -3.1, 3.1, 0, 2**-20.5),
    ("cos.approx.f32", np.cos, -3.1, 3.1, 0, 2**-20.5),
    ("tanh.approx.f32", np.tanh, -9, 9, 2**13, 0),
]


@pytest.mark.parametrize("case", APPROXIMATE, ids=lambda case: f"{case[0]}-{case[3]:g}")
def test_approximations_keep_the_stated_error(
    case: tuple[str, Callable[[Any], Any], float, float, float, float],
) -> None:
    opcode, function, low, high, units, absolute = case
    x = np.random.default_rng(0).uniform(low, high, LANES).astype(np.float32)
    out = execute(f"{opcode} %d, %a;", "f32", [("f32", x)])
    exact = function(x.astype(np.float64))
    allowed = absolute + units * np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert (np.abs(out - exact) <= allowed).all()


def test_special_values_of_functions() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0], np.float32)
    with np.errstate(all="ignore"):
        expected = {
            "ex2.approx.ftz": np.exp2(x),
            "rcp.approx.ftz": 1 / x,
            "sqrt.approx": np.sqrt(x),
            "lg2.approx": np.log2(np.abs(x) * np.where(np.signbit(x) & (x != 0), np.nan, 1)),
        }
    for name, want in expected.items():
        np.testing.assert_array_equal(
            execute(f"{name}.f32 %d, %a;", "f32", [("f32", x)]), want.astype(np.float32)
        )


# -- conversions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("source", ["s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64"])
def test_to_integers(source: str, to: str) -> None:
    if source[0] == "f":
        values = floats(source, 9)
        out = execute(f"cvt.rzi.{to}.{source} %d, %a;", to, [(source, values)])
        info = np.iinfo(dtype_of(to))
        for x, got in zip(values.tolist(), out.tolist(), strict=True):
            if math.isnan(x):
                continue
            limited = info.max if x == math.inf else info.min if x == -math.inf else int(x)
            assert got == min(max(limited, info.min), info.max), x
        return
    values = integers(source, 9)
    out = execute(f"cvt.{to}.{source} %d, %a;", to, [(source, values)])
    assert out.tolist() == [wrap(x, to) for x in values.tolist()]


@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("to", ["f16", "f32", "f64"])
@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64"])
def test_from_integers(source: str, to: str, rounding: str) -> None:
    values = integers(source, 5)
    if to == "f16":
        values %= 60000
    out = execute(f"cvt.{rounding}.{to}.{source} %d, %a;", to, [(source, values)])
    assert out.tolist() == [rounded(Fraction(x), dtype_of(to), rounding) for x in values.tolist()]


@pytest.mark.parametrize(("to", "source"), [("f16", "f32"), ("f16", "f64"), ("f32", "f64")])
@pytest.mark.parametrize("rounding", ["rn", "rz"])
def test_narrower_floats(source: str, to: str, rounding: str) -> None:
    values = floats(source, 3, special=False)
    values = values[np.abs(values) < 60000]
    out = execute(f"cvt.{rounding}.{to}.{source} %d, %a;", to, [(source, values)])
    assert out.tolist() == [rounded(Fraction(x), dtype_of(to), rounding) for x in values.tolist()]
    back = execute(f"cvt.{source}.{to} %d, %a;", source, [(to, out)])
    assert (back == out.astype(dtype_of(source))).all()


def test_integral_roundings() -> None:
    values = np.concatenate([floats("f32", 4), np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)])
    for name, rule in (("rni", np.rint), ("rzi", np.trunc), ("rmi", np.floor), ("rpi", np.ceil)):
        np.testing.assert_array_equal(
            execute(f"cvt.{name}.f32.f32 %d, %a;", "f32", [("f32", values)]), rule(values)
        )
    saturated = execute("cvt.sat.f32.f32 %d, %a;", "f32", [("f32", values)])
    np.testing.assert_array_equal(saturated, np.where(np.isnan(values), 0, np.clip(values, 0, 1)))


def test_bfloat16() -> None:
    values = floats("f32", 8, special=False)
    bits = execute("cvt.rn.bf16.f32 %d, %a;", "b16", [("f32", values)])
    exact = []
    for x in values.tolist():
        mantissa, exponent = math.frexp(x)
        exact.append(math.ldexp(round(mantissa * 256), exponent - 8))
    back = execute("cvt.f32.bf16 %d, %a;", "f32", [("b16", bits)])
    assert back.tolist() == exact
    pairs = execute("cvt.rn.bf16x2.f32 %d, %a, %b;", "b32", [("f32", values), ("f32", values[::-1].copy())])
    assert (pairs >> 16 == bits).all()
    assert (pairs & 0xFFFF == bits[::-1]).all()
    a, b, c = (
        np.frombuffer(np.random.default_rng(s).standard_normal(LANES).astype("f4").tobytes(), "u2")[
            1::2
        ].copy()
        for s in (1, 2, 3)
    )
    out = execute("fma.rn.bf16 %d, %a, %b, %c;", "b16", [("b16", a), ("b16", b), ("b16", c)])
    wide = [(v.astype(np.uint32) << 16).view(np.float32).tolist() for v in (a, b, c, out)]
    for x, y, z, got in zip(*wide, strict=True):
        value = Fraction(x) * Fraction(y) + Fraction(z)
        exponent = math.frexp(float(value))[1]
        unit = Fraction(2) ** (exponent - 8)
        assert got == float(round(value / unit) * unit)


def test_half_precision() -> None:
    rng = np.random.default_rng(3)
    a, b, c = (rng.standard_normal(LANES).astype(np.float16) for _ in range(3))
    for name, rule in (("add", operator.add), ("sub", operator.sub), ("mul", operator.mul)):
        out = execute(f"{name}.f16 %d, %a, %b;", "b16", [("b16", a), ("b16", b)]).view(np.float16)
        assert (out == rule(a, b)).all()
    out = execute("fma.rn.f16 %d, %a, %b, %c;", "b16", [("b16", a), ("b16", b), ("b16", c)]).view(np.float16)
    exact = [
        rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)), np.dtype(np.float16))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    assert out.tolist() == exact
    pair = execute("add.f16x2 %d, %a, %b;", "b32", [("b32", a.view(np.uint32)), ("b32", b.view(np.uint32))])
    assert (pair.view(np.float16) == a + b).all()


def test_every_opcode_has_a_test() -> None:
    """Each that the emulator knows begins a statement of PTX in a string of this folder's tests."""
    text = "\n".join(x for file in Path(__file__).parent.glob("test_*.py") for x in strings_of(file))
    missing = [n for n in _BUILDERS if not re.search(rf"(?:^|[;:{{}}]|@!?%\w+)\s*{n}[.;]", text, re.M)]
    assert not missing


def strings_of(file: Path) -> Iterator[str]:
    """A module's string literals, without docstrings: Python has an ``and`` and a ``max`` of its own."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            yield node.value


def test_unknown_opcodes_name_themselves() -> None:
    words = [("s32", integers("s32", 0))] * 3
    with pytest.raises(UnknownInstructionError, match="does not know mad24"):
        execute("mad24.hi.sat.s32 %d, %a, %b, %c;", "s32", words)
    with pytest.raises(UnknownInstructionError, match=r"wgmma\.fence\.sync\.aligned"):
        execute("wgmma.fence.sync.aligned;", "u32", [("u32", integers("u32", 0))])
    with pytest.raises(UnknownInstructionError, match="does not know mma"):
        execute(
            "mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32 {%d}, {%a}, {%a}, {%a};",
            "u32",
            [("u32", integers("u32", 0))],
        )
