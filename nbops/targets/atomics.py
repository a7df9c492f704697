"""What threads need from the machine: atomic words, a pause, and POSIX's mutex and condition variable.

Each function is an ``@intrinsic``: one for which we write the LLVM instructions. Addresses are integers.
All atomic operations but `publish` are sequentially consistent, the order that needs no explanation.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "add_atomically",
    "advise",
    "broadcast",
    "load",
    "lock",
    "monotonic_nanoseconds",
    "pause",
    "publish",
    "set_cores",
    "store",
    "swap_if",
    "this_core",
    "this_thread",
    "unlock",
    "wait",
    "yield_core",
]

WORD = ir.IntType(64)
INT = ir.IntType(32)
ORDER = "seq_cst"


def word_at(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, WORD.as_pointer())


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """The word at an address."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.load_atomic(word_at(builder, arguments[0]), ORDER, 8)

    return types.int64(types.int64), codegen


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Set the word at an address."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], word_at(builder, arguments[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def publish(typingctx: Any, address: Any, value: Any) -> Any:
    """Set the word at an address, without waiting until others see it; they see earlier stores before it."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], word_at(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add_atomically(typingctx: Any, address: Any, value: Any) -> Any:
    """Add to the word at an address; what it was before."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", word_at(builder, arguments[0]), arguments[1], ORDER)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def swap_if(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    """If the word at an address is `expected`, set it to `value` and return 1; otherwise return 0."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        pointer = word_at(builder, arguments[0])
        result = builder.cmpxchg(pointer, arguments[1], arguments[2], ORDER, ORDER)
        return builder.zext(builder.extract_value(result, 1), WORD)

    return types.int64(types.int64, types.int64, types.int64), codegen


#: The instruction by which a core says that it waits for another.
_PAUSE: dict[str, tuple[str, list[Any]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [INT(1)]),
    "arm64": ("llvm.aarch64.hint", [INT(1)]),
}


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the core that it is waiting for another one."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        if platform.machine() in _PAUSE:
            name, operands = _PAUSE[platform.machine()]
            kind = ir.FunctionType(ir.VoidType(), [x.type for x in operands])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)
        return context.get_dummy_value()

    return types.void(), codegen


def _c_function(name: str, n_arguments: int, result: ir.Type = INT) -> Callable[..., Any]:
    """An intrinsic that calls a C function of words."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(result, [WORD] * n_arguments)
        value = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)
        return value if result == WORD else builder.sext(value, WORD)

    signature = types.int64(*[types.int64] * n_arguments)
    if n_arguments == 0:
        function = intrinsic(lambda typingctx: (signature, codegen))
    elif n_arguments == 1:
        function = intrinsic(lambda typingctx, a: (signature, codegen))
    elif n_arguments == 3:
        function = intrinsic(lambda typingctx, a, b, c: (signature, codegen))
    else:
        function = intrinsic(lambda typingctx, a, b: (signature, codegen))
    function.cache_key = f"C function {name}"
    return function  # type: ignore[no-any-return]


lock = _c_function("pthread_mutex_lock", 1)
unlock = _c_function("pthread_mutex_unlock", 1)
wait = _c_function("pthread_cond_wait", 2)
broadcast = _c_function("pthread_cond_broadcast", 1)
#: ``madvise``: how a stretch of memory is going to be used.
advise = _c_function("madvise", 3)
yield_core = _c_function("sched_yield", 0)
#: Linux only: the number of the core that runs this, and the cores that a thread may run on.
this_core = _c_function("sched_getcpu", 0)
this_thread = _c_function("pthread_self", 0, WORD)
set_cores = _c_function("pthread_setaffinity_np", 3)


@intrinsic
def monotonic_nanoseconds(typingctx: Any) -> Any:
    """The time of ``CLOCK_MONOTONIC``."""

    def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
        import time

        pair = cgutils.alloca_once(builder, ir.ArrayType(WORD, 2))
        kind = ir.FunctionType(INT, [INT, WORD])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [INT(time.CLOCK_MONOTONIC), builder.ptrtoint(pair, WORD)])
        seconds, nanoseconds = (builder.load(cgutils.gep_inbounds(builder, pair, 0, n)) for n in (0, 1))
        return builder.add(builder.mul(seconds, WORD(1_000_000_000)), nanoseconds)

    return types.int64(), codegen
