"""What shortens compiling: the same types, the same code, and nothing left behind."""

from __future__ import annotations

import gc
import itertools
import operator
from typing import Any

import numba
import numpy as np
import pytest
from numba import types
from numba.core import errors
from numba.core.registry import cpu_target
from numba.core.typing.templates import _TemplateTargetHelperMixin

import nbops
from nbops import cache, compile_time, compiler
from nbops.compile_time import less_work, no_collection

KINDS = [
    types.int32,
    types.int64,
    types.uint64,
    types.float32,
    types.float64,
    types.boolean,
    types.literal(3),
    types.literal(-1),
    types.literal(True),
]
OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor, operator.lt, operator.le,
    operator.eq, operator.ne, operator.iadd, operator.imul, operator.ifloordiv, operator.irshift,
    min, max,
]  # fmt: skip


def type_of(function: Any, *arguments: Any) -> Any:
    """What Numba says that a call gives; None if it declines."""
    context = cpu_target.typing_context
    context.refresh()
    try:
        found = context.resolve_function_type(context.resolve_value_type(function), arguments, {})
    except errors.NumbaError:
        return None
    return types.unliteral(found.return_type)


@pytest.mark.parametrize("function", OPERATORS, ids=lambda function: function.__name__)
def test_operators_have_numbas_types(function: Any) -> None:
    for pair in itertools.product(KINDS, repeat=2):
        usual = type_of(function, *pair)
        with less_work():
            assert [type_of(function, *pair) for _ in range(2)] == [usual, usual], pair


@pytest.mark.parametrize("function", [operator.neg, operator.not_, operator.invert, operator.pos, bool])
def test_operators_of_one_number_have_numbas_types(function: Any) -> None:
    for kind in KINDS:
        usual = type_of(function, kind)
        with less_work():
            assert [type_of(function, kind) for _ in range(2)] == [usual, usual], kind


def raise_within(context: Any, holds: Any) -> None:
    with context:
        assert holds()
        raise KeyError


def test_numbas_own_context_is_back_afterwards() -> None:
    context = cpu_target.typing_context
    usual = context.resolve_function_type
    with pytest.raises(KeyError):
        raise_within(less_work(), lambda: context.resolve_function_type != usual)
    assert context.resolve_function_type == usual
    assert "resolve_function_type" not in vars(context)


@pytest.mark.parametrize("function", [operator.add, bool, min])
def test_numba_is_asked_once(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context = cpu_target.typing_context
    usual = context.resolve_function_type
    asked: list[Any] = []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return usual(*arguments)

    kinds = [types.int64] if function is bool else [types.int64, types.int64]
    with monkeypatch.context() as patch:
        patch.setattr(type(context), "resolve_function_type", lambda self, *rest: counted(*rest))
        patch.setattr(compile_time, "_known", {})
        with less_work():
            for _ in range(3):
                assert type_of(function, *kinds) is not None
    assert len([arguments for arguments in asked if arguments[0].typing_key is function]) == 1


def test_intrinsics_are_declared_where_numba_says(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = _TemplateTargetHelperMixin._get_target_registry

    class Template(_TemplateTargetHelperMixin):
        context = cpu_target.typing_context

        def __init__(self, **metadata: str) -> None:
            self.metadata = metadata

    templates = [Template(), Template(target="cpu"), Template()] * 2
    registries = [template._get_target_registry("test") for template in templates]
    looked: list[int] = []
    context = cpu_target.target_context
    monkeypatch.setattr(context, "refresh", lambda: looked.append(1))
    with pytest.raises(KeyError):
        raise_within(
            less_work(), lambda: [each._get_target_registry("test") for each in templates] == registries
        )
    assert len(looked) == 2  # once for each name of the target
    assert _TemplateTargetHelperMixin._get_target_registry is usual


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_again_if_it_was_before(collects: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(KeyError):
            raise_within(no_collection(), lambda: not gc.isenabled())
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()


def test_a_loop_may_have_what_helpers_may_not() -> None:
    """Closures, array expressions, comprehensions and finally are the user's to write."""

    @nbops.op("(n)->(n)")
    def polynomial(x: Any, out: Any) -> None:
        def twice(value: Any) -> Any:
            return 2 * value

        powers = [twice(k) for k in range(3)]
        try:
            out[:] = powers[0] + powers[1] * x + powers[2] * x * x
        finally:
            out[0] = 6

    x = np.linspace(-1, 1, 7)
    with nbops.use(target="serial"):
        np.testing.assert_allclose(polynomial(x)[1:], (2 * x + 4 * x * x)[1:])
        assert polynomial(x)[0] == 6


def third(numbers: Any) -> Any:
    return numbers[2]


def at(numbers: Any, place: int) -> Any:
    return numbers[place]


def times(number: Any, constant: int) -> Any:
    return numba.literally(constant) * number


@pytest.mark.parametrize("target", ["serial", "parallel"])
def test_a_users_helper_may_ask_for_a_constant(target: str) -> None:
    """The type of an element of a mixed tuple follows from its place; literally asks for a value."""

    @nbops.op("(n)->(n)")
    def scaled(x: Any, out: Any) -> None:
        mixed = (x[0], 1, np.float32(2.5))
        for i in nbops.prange(x.shape[0]):
            out[i] = times(x[i], 3) * at(mixed, 2) + third(mixed) * at(mixed, 1)

    x = np.linspace(1, 2, 5)
    np.testing.assert_allclose(scaled(x, target=target), 3 * x * 2.5 + 2.5)


def arithmetic(n: int) -> int:
    total = 0
    for k in range(n):
        total += (k * 3 - 1) // 2 + (k << 1) % 5 - (k ^ 3) + (1 if k > 4 else -1)
    return total


def test_a_part_computes_what_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.KernelCache, "load_overload", lambda *_: None)
    monkeypatch.setattr(cache.KernelCache, "save_overload", lambda *_: None)

    helper = compiler.part(compiler.specialise(arithmetic, "test"))

    def caller(n: int) -> int:
        return helper(n) + helper(3)

    native = compiler.native(types.int64(types.int64), compiler.specialise(caller, "test"))
    assert native.ctypes(20) == arithmetic(20) + arithmetic(3)
    if not numba.config.DISABLE_JIT:
        assert list(helper.overloads) == [(types.int64,)]  # not one for each constant
