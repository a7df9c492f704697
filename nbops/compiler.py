"""How nbops calls Numba: its flags, its disk cache, and copies of a function with other globals.

**Flags.** Division by zero follows NumPy, the GIL is released, and ``fastmath`` is off: a sum is
reassociated only where a loop says so with explicit accumulators.

**One loop, several meanings.** `specialise` copies a function and replaces some of its globals, so that
``prange`` can be ``range`` in one copy, `numba.prange` in the next and a CUDA grid stride in a third. The
loop's source is written once; a global is looked up when the copy is compiled.

**Cache.** A cached kernel is known by a digest of all the code that it reaches, so that two copies of one
function never load each other's code, nor a changed helper's caller stale code; see `nbops.cache`.

**Parts.** What a task calls is linked into it and optimised there, once; see `nbops.parts`.

**Forks.** Whoever compiles holds Numba's lock, and a fork waits for it: of a thread that compiles, a child
would inherit the locks of Numba and LLVM as they are, taken for ever.

**Time.** What Numba does while it compiles, and need not, is left out; see `nbops.compile_time`.

**Vectors.** LLVM takes 256-bit vectors on many processors that have 512-bit ones, because the first of them
slowed their clock for the wide ones. Where the processor is none of those, tasks get the wide ones.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, sigutils
from numba.core.ccallback import CFunc
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable

from nbops import cache, forks
from nbops.compile_time import PlainCompiler, less_work
from nbops.parts import PartDispatcher, PlainPartDispatcher, parts

__all__ = [
    "add_symbol",
    "digest",
    "digest_of_lines",
    "first_line",
    "helper",
    "jit",
    "name_task",
    "native",
    "part",
    "specialise",
    "symbol_address",
    "task_address",
    "with_helpers",
]

F = TypeVar("F", bound=Callable[..., Any])

FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def jit(function: F, **flags: Any) -> F:
    """Compile `function` lazily, in nopython mode, cached on disk where a folder is writable."""
    assert isinstance(function, FunctionType)
    options = {**FLAGS, **flags}
    compiled: Any = numba.njit(**options)(function)
    if not numba.config.DISABLE_JIT:
        compiled._cache = cache.KernelCache(function, options, digest)
    return cast(F, compiled)


def helper(function: F, **flags: Any) -> F:
    """Let compiled code call `function`, which stays plain Python.

    Numba's own object for a compiled function takes 0.1 ms to make, and the first of a process 3 ms more: an
    import of nbops makes none.
    """
    return cast(F, register_jitable(**{**FLAGS, **flags})(function))


def part(function: F, plain: bool = True, **flags: Any) -> F:
    """Let compiled code call `function`, which is compiled once for all callers, and only into them.

    What an import of nbops runs through takes `helper`, which makes no object of Numba's. A function that is
    not plain, as a loop of a user's may be, has closures or array expressions; see `nbops.compile_time`.
    """
    if numba.config.DISABLE_JIT:
        return function
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    options = {"nopython": True, "boundscheck": None, **FLAGS, **wrappers, **flags}
    kind, pipeline = (PlainPartDispatcher, PlainCompiler) if plain else (PartDispatcher, Compiler)
    return cast(F, kind(py_func=function, locals={}, targetoptions=options, pipeline_class=pipeline))


def native(signature: Any, function: FunctionType) -> Any:
    """Compile `function` now to machine code with a C address, cached on disk where possible."""
    options = {"error_model": FLAGS["error_model"]}
    compiled: Any = CFunc(function, sigutils.normalize_signature(signature), locals={}, options=options)
    # Numba's own lock first: a thread that waited for it while it held the file's could wait for ever.
    with global_compiler_lock:
        kept = compiled._cache = cache.KernelCache(
            function, {**options, "wide": prefers_wide_vectors()}, digest
        )
        turn = kept.turn(compiled._sig, cpu_target.target_context.codegen())
        with turn, _wide_vectors(), less_work(), parts():
            compiled.compile()
    return compiled


@forks.around
def _nobody_compiles() -> Any:
    return global_compiler_lock


#: Processors, by LLVM's name, whose clock slows for 512-bit vectors.
SLOWED_BY_WIDE_VECTORS = ("skylake-avx512", "cascadelake", "cooperlake")


def prefers_wide_vectors() -> bool:
    """Whether LLVM is to use 512-bit vectors in nbops's loops, against its own preference."""
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return "+avx512f" in features.split(",") and name not in SLOWED_BY_WIDE_VECTORS


@contextlib.contextmanager
def _wide_vectors() -> Iterator[None]:
    """What is compiled inside, under Numba's lock, may use 512-bit vectors."""
    if not prefers_wide_vectors():
        yield
        return
    codegen = cpu_target.target_context.codegen()
    usual = codegen._tm
    codegen._tm = _wide_machine()
    try:
        yield
    finally:
        codegen._tm = usual


@functools.cache
def _wide_machine() -> Any:
    """LLVM's description of this processor without the preference for 256 bits."""
    options: dict[str, Any] = {"opt": numba.config.OPT}
    cpu_target.target_context.codegen()._customize_tm_options(options)
    options["features"] += ",-prefer-256-bit"
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)


def add_symbol(name: str, address: int) -> None:
    """Let compiled code find an address by a name; see `symbol_address`."""
    llvm.add_symbol(name, address)


@functools.cache
def symbol_address(name: str) -> Any:
    """An intrinsic that returns the address of a symbol.

    An address differs from process to process and so can't be part of code that is cached on disk; a symbol
    is looked up when the code is loaded.
    """

    @intrinsic
    def address(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            kind = ir.FunctionType(ir.VoidType(), [word, word, word])
            return builder.ptrtoint(cgutils.get_or_insert_function(builder.module, kind, name), word)

        return types.int64(), codegen

    address.cache_key = f"symbol {name}"
    return address


_places: dict[str, np.ndarray] = {}


def _place(name: str) -> np.ndarray:
    """A word of memory that compiled code knows by a symbol; it is never freed."""
    with global_compiler_lock:  # one for all threads: code that is loaded keeps the address that it found
        if name not in _places:
            _places[name] = np.zeros(1, np.int64)
            add_symbol(name, _places[name].ctypes.data)
        return _places[name]


def name_task(name: str, task: Any) -> Any:
    """Let compiled code call a task by a name, see `task_address`; returns the task."""
    _place(name)[0] = task.address
    return task


@functools.cache
def task_address(name: str) -> Any:
    """An intrinsic that returns the address of the task of that name.

    It is read when the code runs, so that the task may be compiled after its callers.
    """
    _place(name)

    @intrinsic
    def address(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, call: Any, arguments: Any) -> Any:
            word = ir.IntType(64)
            known = builder.module.globals.get(name)
            return builder.load(known or cgutils.add_global_variable(builder.module, word, name))

        return types.int64(), codegen

    address.cache_key = f"task {name}"
    return address


#: The attribute with a copy's digest, taken when the copy is made; it is compiled at once. So a helper that
#: many copies share is read once: without this, reading code took half of a process's first call.
DIGEST = "_nbops_digest"


def specialise(function: Callable[..., Any], name: str, **names: Any) -> FunctionType:
    """A copy of `function` in which the globals `names` have other values.

    Parameters
    ----------
    function : function
        Any Python function; one compiled by Numba is taken as its Python source.
    name : str
        What the copy is for; becomes part of its ``__qualname__``, together with a digest of the code
        that it reaches.
    **names
        Global names and the values they have in the copy.
    """
    source = getattr(function, "py_func", function)
    copy = FunctionType(
        source.__code__,
        {**source.__globals__, **names},
        source.__name__,
        source.__defaults__,
        source.__closure__,
    )
    copy.__module__ = source.__module__
    copy.__doc__ = source.__doc__
    copy.__dict__[DIGEST] = digest(copy)
    copy.__qualname__ = f"{source.__name__}_{name}_{copy.__dict__[DIGEST]}"
    return copy


def with_helpers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a loop in which the plain Python functions that it calls are compiled too.

    They are inlined into it, and so are the functions that they call.
    """
    assert isinstance(function, FunctionType)
    helpers = {}
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType) and value is not function:
            helpers[name] = part(with_helpers(value), plain=False, forceinline=True)
    copy = specialise(function, "helpers", **helpers) if helpers else function
    copy.__name__ = function.__name__
    return copy


def digest(function: FunctionType) -> str:
    """Twelve hexadecimal digits that change whenever code that `function` reaches changes."""
    known: str | None = function.__dict__.get(DIGEST)
    if known is not None:
        return known
    hasher = hashlib.sha256()
    _hash_function(function, hasher, set())
    return hasher.hexdigest()[:12]


def digest_of_lines(function: FunctionType) -> str:
    """Twelve hexadecimal digits that change whenever code that `function` reaches stands elsewhere.

    `digest` leaves files and lines out, because machine code doesn't depend on them.
    """
    hasher = hashlib.sha256()
    waiting: list[Any] = [function]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        source = getattr(value, "py_func", value)
        if not isinstance(source, FunctionType) or id(source) in seen or _is_foreign(source.__module__ or ""):
            continue
        seen.add(id(source))
        code = source.__code__
        hasher.update(f"{code.co_filename} {code.co_firstlineno} ".encode() + code.co_linetable)
        waiting += [source.__globals__.get(name) for name in sorted(_global_names(code))]
        waiting += _from_modules(code, source.__globals__)
        waiting += [cell.cell_contents for cell in source.__closure__ or ()]
    return hasher.hexdigest()[:12]


def first_line(function: Callable[..., Any]) -> tuple[str, int] | None:
    """The file and line where a function's body begins; None for what is not written in Python."""
    source = getattr(function, "py_func", function)
    if not isinstance(source, FunctionType):
        return None
    code = source.__code__
    # a decorated function's own first line is its decorator's
    body = [line for *_, line in code.co_lines() if line and line > code.co_firstlineno]
    return code.co_filename, min(body, default=code.co_firstlineno)


def _hash_function(function: FunctionType, hasher: Any, seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    if DIGEST in function.__dict__:
        hasher.update(function.__dict__[DIGEST].encode())
        return
    _hash_code(function.__code__, hasher)
    names = sorted(_global_names(function.__code__))
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            hasher.update(name.encode())
            _hash_value(value, hasher, seen)
    for value in _from_modules(function.__code__, function.__globals__):  # helpers.step(x)
        _hash_value(value, hasher, seen)
    for cell in function.__closure__ or ():
        _hash_value(cell.cell_contents, hasher, seen)
    for value in function.__defaults__ or ():
        _hash_value(value, hasher, seen)


def _from_modules(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """What code reads from modules, as in ``helpers.step``, but for those of `_is_foreign`."""
    values = [names.get(name) for name in code.co_names]
    if any(isinstance(value, ModuleType) and not _is_foreign(value.__name__) for value in values):
        yield from _attributes_of_modules(code, names)  # slow: most of a first call, if all code took it
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _from_modules(constant, names)


def _attributes_of_modules(code: CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """The values behind each ``module.name``, and each ``module.module.name``, in a function's own code."""
    value: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            value = names.get(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and isinstance(value, ModuleType):
            value = None if _is_foreign(value.__name__) else getattr(value, instruction.argval, None)
            if value is not None:
                yield value
        else:
            value = None


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _hash_code(code: CodeType, hasher: Any) -> None:
    hasher.update(code.co_code)
    hasher.update(repr(code.co_names + code.co_varnames).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _hash_code(constant, hasher)
        else:
            hasher.update(repr(constant).encode())


def _hash_value(value: Any, hasher: Any, seen: set[int]) -> None:
    cache_key = getattr(value, "cache_key", None)
    if isinstance(value, Dispatcher):
        hasher.update(repr(sorted(value.targetoptions.items())).encode())
        _hash_function(value.py_func, hasher, seen)
    elif isinstance(cache_key, str):  # an intrinsic made by nbops says what it was made from
        hasher.update(cache_key.encode())
    elif isinstance(value, FunctionType):
        if not _is_foreign(value.__module__ or ""):
            _hash_function(value, hasher, seen)
    elif isinstance(getattr(value, "py_func", None), FunctionType):  # a function compiled for a GPU
        _hash_function(value.py_func, hasher, seen)
    elif isinstance(value, numba.types.Type):
        hasher.update(repr(value).encode())
    elif hasattr(value, "_defn"):  # an intrinsic
        _hash_function(value._defn, hasher, seen)
    elif isinstance(value, ModuleType | type):
        hasher.update(value.__name__.encode())
    elif isinstance(value, np.ndarray):
        hasher.update(repr((value.dtype, value.shape)).encode())
        hasher.update(value.tobytes())
    elif isinstance(value, tuple):
        hasher.update(repr(len(value)).encode())
        for element in value:
            _hash_value(element, hasher, seen)
    else:
        hasher.update(repr(value).encode() if _stable(value) else type(value).__name__.encode())


def _is_foreign(module: str) -> bool:
    """Whether code is of a library whose version is in the cache's key: NumPy, Numba, or Python itself.

    Python's own would lead far, as from ``platform.machine`` to the host's name; and a digest must be the
    same on the machine that builds an image and on the one that runs it.
    """
    library = module.split(".")[0]
    return library in ("numba", "numpy", "llvmlite") or _is_pythons(library)


@functools.cache
def _is_pythons(library: str) -> bool:
    """Whether a top-level module is of Python's library; a user's file may have the name of one."""
    if library not in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(library), "__file__", None)  # a builtin module has none
    return file is None or Path(file).is_relative_to(Path(os.__file__).parent)


def _stable(value: Any) -> bool:
    """Whether `repr` of a value is the same in every process."""
    return isinstance(value, str | bytes | int | float | complex | np.generic | np.dtype)
