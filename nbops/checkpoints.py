"""Checkpoints: stop a training run at any moment, and go on later to the very same weights.

    checkpoint = Checkpoint("run", {"batch_size": 128, "seed": 0})
    fit(model, images, labels, epochs=5, checkpoint=checkpoint)     # Ctrl-C …
    fit(model, images, labels, epochs=5, checkpoint=checkpoint)     # … goes on

A checkpoint is one ``.npz`` file: each variable, and a record in JSON (the history, the place in the data).
It is replaced whole, so there is always one that can be read, whenever the process ends; the checksums of its
format tell a damaged one. It needs NumPy alone: variables are arrays, `tf.Variable` or Keras's, and
`nbops.nn.fit` is only its first user.

Resuming from any earlier checkpoint gives the same weights, so nothing depends on when the last was written.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbops.files import replacing

__all__ = ["Checkpoint", "CheckpointError", "DeferredSignals", "deferred_signals"]

FORMAT = 1  # of the file; a later release that changes it can tell


class CheckpointError(ValueError):
    """A checkpoint that can't be read or written, or is another run's; one line that names the file."""


class Checkpoint:
    """A training run's state, in a file in a folder of its own.

    Parameters
    ----------
    folder : str or path
        Made when first written to.
    settings : mapping, optional
        What makes the run the run that it is, such as the batch size; in terms of JSON. Only a run with the
        same settings goes on from there.
    seconds : float
        How long after the last checkpoint the next is due; see `is_due`.

    Attributes
    ----------
    path : pathlib.Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from nbops.checkpoints import Checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = Checkpoint(folder, {"seed": 0})
    ...     checkpoint.save([np.array([1.0, 2.0])], {"epoch": 3})
    ...     weights = np.zeros(2)
    ...     record = Checkpoint(folder, {"seed": 0}).restore([weights])
    >>> weights, record
    (array([1., 2.]), {'epoch': 3})
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        settings: Mapping[str, Any] | None = None,
        *,
        seconds: float = 60.0,
    ) -> None:
        self.path = Path(folder) / "checkpoint.npz"
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings or {})))  # as the file has it
        self.seconds = seconds
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Whether `seconds` have passed since the last one was written, or since the run began."""
        return time.monotonic() - self._saved >= self.seconds

    def save(self, variables: Sequence[Any], record: Mapping[str, Any]) -> None:
        """Write the run's state in place of the last.

        Parameters
        ----------
        variables : sequence of ndarray, tf.Variable or keras.Variable
        record : mapping
            All else, in terms of JSON.

        Raises
        ------
        CheckpointError
            When it can't be written.
        """
        header = {"format": FORMAT, "settings": self.settings, "record": dict(record)}
        arrays = {_name(index): _value(variable) for index, variable in enumerate(variables)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be written: {error.strerror or error}") from None
        self._saved = time.monotonic()

    def restore(self, variables: Sequence[Any]) -> dict[str, Any] | None:
        """Give the variables their saved values, and return the record; None where nothing was saved.

        Nothing is changed unless all of it fits.

        Raises
        ------
        CheckpointError
            For a damaged file, one with other settings, or one with other variables.
        """
        if not self.path.exists():
            return None
        header, arrays = self._read()
        self._compare_settings(header["settings"])
        values = [_value(variable) for variable in variables]
        arrays = [
            # np.load knows bfloat16 only as two bytes
            array.view(value.dtype) if array.dtype == f"V{value.dtype.itemsize}" else array
            for array, value in zip(arrays, values, strict=False)
        ] + arrays[len(values) :]
        there, here = _describe(arrays), _describe(values)
        if there != here:
            raise CheckpointError(f"{self.path}: the variables there are {there}; this run has {here}")
        for variable, array in zip(variables, arrays, strict=True):
            if isinstance(variable, np.ndarray):
                variable[...] = array
            else:
                variable.assign(array)
        record: dict[str, Any] = header["record"]
        return record

    @contextlib.contextmanager
    def keep(
        self, variables: Sequence[Any], state: Callable[[], Mapping[str, Any]]
    ) -> Iterator[Callable[..., None]]:
        """Keep a training loop's state: gives a function to call between its steps.

        That function, ``pause(save=False)``, saves when it is told to, when a checkpoint is due, and when
        Ctrl-C or SIGTERM has come, which then takes its course. While the block runs, both wait for that.

        Parameters
        ----------
        variables : sequence of ndarray, tf.Variable or keras.Variable
        state : function
            Gives the record to save with them.
        """
        with deferred_signals() as signals:

            def pause(save: bool = False) -> None:
                if save or signals.waiting is not None or self.is_due():
                    self.save(variables, state())
                signals.deliver()

            yield pause

    def _read(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                header = json.loads(str(file["header"]))
                arrays = [file[_name(index)] for index in range(len(file.files) - 1)]
            known = header["format"]
            header["settings"], header["record"]
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from None
        except Exception as error:  # a damaged file makes zipfile, NumPy and json raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{self.path}: not a readable checkpoint ({reason}); delete it to start anew"
            ) from None
        if known != FORMAT:
            raise CheckpointError(f"{self.path}: its format is {known}, this release reads {FORMAT}")
        return header, arrays

    def _compare_settings(self, theirs: dict[str, Any]) -> None:
        for name in sorted(theirs.keys() | self.settings.keys()):
            there, here = theirs.get(name), self.settings.get(name)
            if there != here:
                raise CheckpointError(
                    f"{self.path}: the run there has {name} {there!r}, this one {here!r}; "
                    "name another folder to start anew"
                )


def _value(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def _name(index: int) -> str:
    return f"variable_{index}"


def _describe(arrays: Sequence[np.ndarray]) -> str:
    return ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)


class DeferredSignals:
    """The signal that came and waits, if any; made by `deferred_signals`."""

    def __init__(self) -> None:
        self.waiting: int | None = None
        self._handlers: dict[int, Any] = {}

    def deliver(self) -> None:
        """Let the waiting signal do what it would have done when it came."""
        if self.waiting is None:
            return
        number, self.waiting = self.waiting, None
        ours = signal.signal(number, self._handlers[number])
        try:
            signal.raise_signal(number)
        finally:
            signal.signal(number, ours)

    def _receive(self, number: int, frame: Any) -> None:
        impatient = self.waiting is not None
        self.waiting = number
        if impatient:  # a second one means now
            self.deliver()


@contextlib.contextmanager
def deferred_signals(*numbers: int) -> Iterator[DeferredSignals]:
    """Hold signals back while the block runs, so that it can finish a step and save before it stops.

    The block looks at ``waiting`` from time to time and calls ``deliver``; what still waits when it ends is
    delivered then. A second signal is delivered at once. Signals that are ignored stay ignored. Outside the
    main thread, which alone gets signals in Python, nothing is held back.

    Parameters
    ----------
    *numbers : int
        SIGINT (Ctrl-C) and SIGTERM unless given.

    Examples
    --------
    >>> import signal
    >>> from nbops.checkpoints import deferred_signals
    >>> try:
    ...     with deferred_signals() as signals:
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("finished the step; waiting:", signals.waiting == signal.SIGINT)
    ... except KeyboardInterrupt:
    ...     print("then stopped")
    finished the step; waiting: True
    then stopped
    """
    signals = DeferredSignals()
    if threading.current_thread() is threading.main_thread():
        for number in numbers or (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):
                signals._handlers[number] = handler
                signal.signal(number, signals._receive)
    try:
        yield signals
    finally:
        for number, handler in signals._handlers.items():
            signal.signal(number, handler)
        if signals.waiting is not None:
            signal.raise_signal(signals.waiting)
