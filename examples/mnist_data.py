"""Where train_mnist.py gets its digits: IDX files, mnist.npz, Keras's download, or the subset in data/.

Every problem with a file is a `DataError`, whose message is one line that names the file.
"""

from __future__ import annotations

import gzip
import math
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SUBSET = Path(__file__).parent / "data" / "mnist_subset.npz"
DOWNLOAD_SECONDS = 10.0  # without an answer for so long, there is no network

# An IDX header: two zero bytes, the element type (8 is uint8), the number of axes; then the axes' lengths.
IMAGES_MAGIC = 0x00000803
LABELS_MAGIC = 0x00000801


class DataError(ValueError):
    """A file of digits that is missing or broken."""


@dataclass(frozen=True)
class Digits:
    """Images (n, 784) in float32 from 0 to 1, and labels (n,), to train on and to test with."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: str


def load(path: Path | None) -> Digits:
    """The digits of a folder or file; without one, Keras's download, or the subset if that fails.

    Raises
    ------
    DataError
        For a file that is missing or broken.
    """
    if path is None:
        return _download_or_subset()
    if path.is_file():
        return _prepare(*_read_npz(path), source=str(path))
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder")
    if (path / "mnist.npz").is_file():
        return _prepare(*_read_npz(path / "mnist.npz"), source=str(path / "mnist.npz"))
    train = _read_pair(path, "train")
    test = _read_pair(path, "t10k")
    return _prepare(*train, *test, source=f"{path} (IDX files)")


# ---- without a folder -------------------------------------------------------------------------------


def _download_or_subset() -> Digits:
    import keras

    try:
        with _network_timeout(DOWNLOAD_SECONDS):
            (train_images, train_labels), (test_images, test_labels) = keras.datasets.mnist.load_data()
    except Exception as error:  # Keras raises a bare Exception when it cannot download
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        source = (
            f"the {SUBSET.name} that ships with the example, for Keras could not download MNIST ({reason})"
        )
        return _prepare(*_read_npz(SUBSET), source=source)
    source = "Keras's download (keras.datasets.mnist)"
    return _prepare(train_images, train_labels, test_images, test_labels, source=source)


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Keras downloads without a time limit of its own; a network that swallows packets would hang it."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ---- files ------------------------------------------------------------------------------------------


def read_idx(path: Path, magic: int) -> np.ndarray:
    """An IDX file of uint8, gzipped or not.

    Raises
    ------
    DataError
        When it can't be read, is no such file, or is shorter or longer than its header says.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: broken gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    ndim = magic & 0xFF
    header = 4 + 4 * ndim
    if len(data) < header:
        raise DataError(f"{path}: truncated: {len(data)} bytes, but the header alone has {header}")
    found, *shape = struct.unpack_from(f">{1 + ndim}I", data)
    if found != magic:
        raise DataError(
            f"{path}: the magic number is 0x{found:08x}, expected 0x{magic:08x}; not such an IDX file"
        )
    expected = header + math.prod(shape)
    if len(data) != expected:
        problem = "truncated" if len(data) < expected else "too long"
        raise DataError(f"{path}: {problem}: {len(data)} bytes, but its header says {expected}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images_path = _find(folder, f"{part}-images", 3)
    labels_path = _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(images_path, IMAGES_MAGIC), read_idx(labels_path, LABELS_MAGIC)
    _check(images, labels, str(images_path), str(labels_path))
    return images, labels


def _find(folder: Path, stem: str, ndim: int) -> Path:
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{stem}{separator}idx{ndim}-ubyte{suffix}"
            if path.exists():
                return path
    raise DataError(f"{folder}: has neither mnist.npz nor {stem}-idx{ndim}-ubyte[.gz]")


def _read_npz(path: Path) -> tuple[np.ndarray, ...]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = tuple(file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; expected x_train, y_train, x_test and y_test") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file makes zipfile and NumPy raise anything
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
    for part, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        _check(images, labels, f"{path} (x_{part})", f"{path} (y_{part})")
    return arrays


def _check(images: np.ndarray, labels: np.ndarray, images_name: str, labels_name: str) -> None:
    for array, name in ((images, images_name), (labels, labels_name)):
        if array.dtype.kind not in "iu":
            raise DataError(f"{name}: the dtype is {array.dtype}; expected integers")
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_name}: the shape is {images.shape}; expected (n, 28, 28)")
    if labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{labels_name}: the shape is {labels.shape}; expected {(len(images),)}, a label an image"
        )
    if not len(labels):
        raise DataError(f"{images_name}: there are no images")
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if len(wrong):
        raise DataError(f"{labels_name}: label {wrong[0]} is {labels[wrong[0]]}; expected 0 to 9")


def _prepare(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    source: str,
) -> Digits:
    """Flat images from 0 to 1, as in the book."""
    train, test = (
        images.reshape(len(images), 28 * 28).astype(np.float32) / 255
        for images in (train_images, test_images)
    )
    return Digits(train, train_labels, test, test_labels, source)
