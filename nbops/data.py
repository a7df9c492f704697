"""Batches of images and labels, as `nbops.nn` trains on them. Needs only NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["BatchGenerator"]


class BatchGenerator:
    """Images and labels in batches; the last one holds what is left.

    Parameters
    ----------
    images : ndarray, shape (n, ...)
    labels : ndarray, shape (n,)
    batch_size : int
    shuffle_seed : int, optional
        Shuffle, differently each time it is iterated over; in the given order unless set.

    Attributes
    ----------
    num_batches : int
    state : dict
        The place in the data, in terms of JSON. Set it to go on there: the same batches follow.

    Raises
    ------
    ValueError
        When there are not as many labels as images, or `batch_size` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from nbops.data import BatchGenerator
    >>> batches = BatchGenerator(np.zeros((300, 784)), np.zeros(300), batch_size=128)
    >>> [len(labels) for images, labels in batches]
    [128, 128, 44]
    """

    def __init__(
        self, images: Any, labels: Any, batch_size: int = 128, *, shuffle_seed: int | None = None
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"BatchGenerator: {len(images)} images came with {len(labels)} labels")
        if batch_size < 1:
            raise ValueError(f"BatchGenerator: batch_size is {batch_size}; expected at least 1")
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.num_batches = math.ceil(len(images) / batch_size)
        self._rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
        self._restart()

    def _restart(self) -> None:
        self.index = 0
        self._goes_on = False
        self._draw_order()

    def _draw_order(self) -> None:
        self._drawn_from = self._order = None
        if self._rng is not None:
            self._drawn_from = self._rng.bit_generator.state
            self._order = self._rng.permutation(len(self.images))

    @property
    def state(self) -> dict[str, Any]:
        return {"index": self.index, "random": self._drawn_from}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        if (state["random"] is None) != (self._rng is None):
            raise ValueError("BatchGenerator: the state is of one that shuffles, or this one does; not both")
        if self._rng is not None:
            self._rng.bit_generator.state = state["random"]
        self._draw_order()
        self.index = state["index"]
        self._goes_on = self.index < len(self.images)  # else the next iteration starts over

    def next(self) -> tuple[Any, Any]:
        """The next images and labels.

        Raises
        ------
        StopIteration
            After the last batch.
        """
        if self.index >= len(self.images):
            raise StopIteration
        chosen: Any = slice(self.index, self.index + self.batch_size)
        if self._order is not None:
            chosen = self._order[chosen]
        self.index += self.batch_size
        return self.images[chosen], self.labels[chosen]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self.index and not self._goes_on:
            self._restart()
        self._goes_on = False
        return self

    __next__ = next

    def __len__(self) -> int:
        return self.num_batches
