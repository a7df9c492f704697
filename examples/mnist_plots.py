"""The figure that train_mnist.py draws: how loss and accuracy went, and the digits that were misread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

INK, FAINT = "#22262b", "#c9ced6"
LOSS, TRAIN, TEST, WRONG = "#2f6db5", "#9db8d9", "#c8551b", "#b3261e"
ROWS, COLUMNS = 5, 8


def formats() -> list[str]:
    """The file name endings that a figure can be written to."""
    return sorted(FigureCanvasAgg.get_supported_filetypes())


def draw(
    path: Path,
    title: str,
    losses: list[list[float]],
    accuracies: list[list[float]],
    test_accuracies: list[float],
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
) -> None:
    """Write one figure: the learning curves on the left, misread digits on the right.

    Parameters
    ----------
    losses, accuracies : one list of batches per epoch
    test_accuracies : one per epoch
    images : ndarray, shape (n, 784)
    labels : ndarray, shape (n,)
    predictions : ndarray, shape (n, 10)
        Probabilities.
    """
    figure = Figure(figsize=(13, 6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=13, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25), wspace=0.03)
    loss_axes, accuracy_axes = left.subplots(2, 1, sharex=True)
    _draw_losses(loss_axes, losses)
    _draw_accuracies(accuracy_axes, accuracies, test_accuracies)
    _draw_misread(right, images, labels, predictions)
    figure.savefig(path, dpi=130)


def _draw_losses(axes, losses: list[list[float]]) -> None:
    times = _times(losses)
    values = np.concatenate([np.asarray(x) for x in losses])
    width = max(1, len(losses[0]) // 20)
    axes.plot(times, values, color=FAINT, linewidth=0.6, label="each batch")
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    axes.plot(times[width - 1 :], smooth, color=LOSS, linewidth=1.8, label=f"average of {width} batches")
    axes.set_yscale("log")  # the first batches can lose a hundred times as much as the last
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.5)))
    axes.set_ylabel("training loss")
    _style(axes)


def _draw_accuracies(axes, accuracies: list[list[float]], test_accuracies: list[float]) -> None:
    epochs = np.arange(1, len(accuracies) + 1)
    axes.plot(
        epochs - 0.5,
        [100 * np.mean(x) for x in accuracies],
        "o-",
        color=TRAIN,
        label="training, epoch's average",
    )
    axes.plot(epochs, [100 * x for x in test_accuracies], "o-", color=TEST, label="test")
    axes.annotate(
        f"{100 * test_accuracies[-1]:.2f} %",
        (epochs[-1], 100 * test_accuracies[-1]),
        xytext=(0, -16),
        textcoords="offset points",
        ha="right",
        color=TEST,
        fontweight="bold",
    )
    axes.margins(y=0.18)
    axes.set_xlim(0, len(accuracies) * 1.01)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy, %")
    _style(axes, "lower right")


def _times(losses: list[list[float]]) -> np.ndarray:
    """Where each batch lies on an axis of epochs."""
    return np.concatenate([epoch + (np.arange(len(x)) + 1) / len(x) for epoch, x in enumerate(losses)])


def _style(axes, place: str = "upper right") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, linewidth=0.5, alpha=0.6)
    axes.tick_params(colors=INK)
    axes.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK)


def _draw_misread(figure, images: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> None:
    read = predictions.argmax(-1)
    wrong = np.flatnonzero(read != labels)
    wrong = wrong[np.argsort(-predictions[wrong].max(-1), kind="stable")]  # the surest mistakes first
    shown = wrong[: ROWS * COLUMNS]
    figure.suptitle(
        f"{len(wrong):,} of {len(labels):,} test digits misread"
        + (f"; the {len(shown)} it was surest of" if len(wrong) > len(shown) else ""),
        color=INK,
        fontsize=11,
    )
    grid = figure.subplots(ROWS, COLUMNS)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, shown, strict=False):
        axes.imshow(images[index].reshape(28, 28), cmap="gray_r", interpolation="nearest")
        axes.set_title(f"{labels[index]} read as {read[index]}", color=WRONG, fontsize=8.5, pad=3)
