"""The disk cache of compiled kernels: what stands for a kernel there, and how it is loaded quickly.

Numba's own cache has one index per function and finds an entry in it by types and CPU. That leaves four
gaps, which `KernelCache` closes:

- *Stale code.* Numba sees the function's own file, not its callees' nor its compile options. Here the name of
  a cached file is a digest of everything that the machine code depends on: all code that the function
  reaches, the options, the versions of Numba, LLVM, NumPy and Python, the CPU and its features, and those of
  Numba's settings that change code. A file is never read under another key than it was written under.
- *Many processes.* With one file per entry, replaced in one step, there is no index for two writers to spoil.
  One compiles, and the others wait for its file; see `nbops.turns`.
- *Time.* Numba prepares its compiler before it looks into the cache, which costs more than everything else
  that a first call does. Here that waits until something has to be compiled.
- *A folder that is read-only, full or damaged.* Nothing is cached then, and nothing raises.

The files lie where Numba's lie: in ``NUMBA_CACHE_DIR``, else next to the source, else in the user's cache
folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import pickle
import platform
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl
from numba.core.serialize import dumps

from nbops.ahead import begin
from nbops.turns import turn

__all__ = ["KernelCache"]

#: Rises when the files' content changes.
FORMAT = 1

#: Numba's settings that change machine code and are no option of a function.
SETTINGS = (
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "LOOP_VECTORIZE",
    "NRT_STATS",
    "OPT",
    "SLP_VECTORIZE",
    "USING_SVML",
)


class KernelCache:
    """Takes the place of the cache that Numba gives a dispatcher or a C callback.

    Parameters
    ----------
    function : function
    options : dict
        With which it is compiled.
    digest : function
        Tells the digest of all the code that a function reaches; asked when it is first needed.
    """

    def __init__(
        self, function: FunctionType, options: dict[str, Any], digest: Callable[[FunctionType], str]
    ) -> None:
        self._function = function
        self._options = options
        self._digest = digest

    @functools.cached_property
    def _numbas(self) -> Any:
        """Numba's own, which finds the folder; None where it finds none that can be written."""
        try:
            return CompileResultCacheImpl(self._function)
        except RuntimeError:  # "cannot cache function: no locator available"
            return None

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return (
            FORMAT,
            self._digest(self._function),
            sorted(self._options.items()),
            numba.__version__,
            llvmlite.__version__,
            np.__version__,
            platform.python_version(),
            [(name, str(getattr(config, name, None))) for name in SETTINGS],
        )

    @property
    def cache_path(self) -> str | None:
        """The folder."""
        return None if self._numbas is None else str(self._numbas.locator.get_cache_path())

    def path(self, signature: Any, codegen: Any) -> Path:
        """The file of one compiled signature."""
        key = repr((self._key, str(signature), codegen.magic_tuple()))
        name = hashlib.sha256(key.encode()).hexdigest()[:24]
        return Path(str(self.cache_path)) / f"{self._numbas.filename_base}.{name}.nbc"

    def turn(self, signature: Any, codegen: Any) -> contextlib.AbstractContextManager[None]:
        """Inside, no other process compiles the same; see `nbops.turns.turn`."""
        if self._numbas is None or (place := self.path(signature, codegen)).exists():
            return contextlib.nullcontext()
        begin(place.parent)
        return turn(place)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None."""
        if self._numbas is None:
            return None
        try:
            payload = pickle.loads(self.path(sig, target_context.codegen()).read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):  # not there, or not all there
            return None
        code = payload[0][2][0]
        if b"NRT_" in code:
            _add_runtime_symbols()
        if b"hashsecret" in code:
            importlib.import_module("numba.cpython.hashing")
        return self._numbas.rebuild(target_context, payload)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled."""
        if self._numbas is None or not self._numbas.check_cachable(data):
            return
        content = dumps(self._numbas.reduce(data))
        place = self.path(sig, data.codegen)
        unfinished = place.with_suffix(f".{uuid.uuid4().hex[:16]}")
        try:
            unfinished.write_bytes(content)
            unfinished.replace(place)
        except OSError:  # read-only since we looked, or full
            with contextlib.suppress(OSError):
                unfinished.unlink()


def _add_runtime_symbols() -> None:
    """What compiled code may call in Numba's runtime; compiling would add it too, and much more."""
    from numba.core.runtime import _nrt_python

    for name, address in _nrt_python.c_helpers.items():
        llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
