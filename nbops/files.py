"""Files that are never half written: `replacing` writes beside a file, then puts the whole in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_writable", "replacing"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write instead of `path`, which it replaces at once when the block ends.

    Until then `path` stays as it was; it also does when the block raises, or when the process ends inside it.
    A device, such as ``/dev/stdout``, can't be replaced and is written itself.

    Parameters
    ----------
    path : str or path
        The temporary file is in its folder and has its suffix.

    Raises
    ------
    OSError
        Where the folder, or a file that is there, can't be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from nbops.files import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "losses.json")
    ...     with replacing(path) as temporary:
    ...         _ = temporary.write_text("[0.5, 0.25]")
    ...     path.read_text()
    '[0.5, 0.25]'
    """
    path = Path(path).resolve()  # a link goes on pointing where it did
    temporary = _temporary(path)
    try:
        yield temporary
        if temporary != path:
            _flush(temporary)
            temporary.replace(path)
    except BaseException:
        if temporary != path:
            temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out before hours of work, not after them, that `replacing` would fail; changes nothing.

    Raises
    ------
    OSError
        As `replacing` would.
    """
    path = Path(path).resolve()
    temporary = _temporary(path)
    if temporary != path:
        temporary.open("wb").close()
        temporary.unlink()


def _temporary(path: Path) -> Path:
    """The file to write first: one beside `path`; `path` itself where that is a device."""
    if path.exists():
        path.open("ab").close()  # what is read-only is not replaced either
        if not path.is_file():
            return path
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a crash of the machine could leave its name with nothing behind it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
