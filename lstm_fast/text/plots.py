"""The pictures of the command line. The path's suffix decides the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from lstm_fast.text.compare import Comparison

KERAS_COLOUR, FAST_COLOUR = "#b0b7c3", "#d9480f"


def history(values: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draws loss and accuracy over the epochs, in training and in validation.

    Args:
        values: Keras's history.
        path: The picture to write.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label, colour in ((name, "training", KERAS_COLOUR), (f"val_{name}", "validation", FAST_COLOUR)):
            axes.plot(range(1, len(values[key]) + 1), values[key], marker="o", label=label, color=colour)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def comparison(result: Comparison, path: Path) -> None:
    """Draws times side by side with their ratio, and the two loss curves over each other.

    Args:
        result: The result of `lstm_fast.text.compare.compare`.
        path: The picture to write.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    times, losses = figure.subplots(1, 2, width_ratios=[3, 4])
    _times(times, [result])

    steps = range(1, len(result.losses["keras"]) + 1)
    losses.plot(steps, result.losses["keras"], color=KERAS_COLOUR, linewidth=6, label="keras.layers.LSTM")
    losses.plot(steps, result.losses["fast"], color=FAST_COLOUR, linewidth=1.5, label="FastLSTM")
    # The axis begins at 0: in a smaller range, the usual ups and downs of a loss look like a failure.
    top = 1.15 * max(*result.losses["keras"], *result.losses["fast"], 0)
    losses.set(ylim=(0, top or 1), ylabel="loss", xlabel=f"training step, learning rate {result.learning_rate:g}")
    losses.set_title(f"same weights, same batches\nlosses differ by {result.loss_difference:.0e} at most", loc="left")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.legend(frameon=False, loc="lower left")
    losses.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def times(results: Sequence[Comparison], where: str, path: Path) -> None:
    """Draws the times of several comparisons side by side.

    Args:
        results: Results of `lstm_fast.text.compare.compare`, for example with masks and without.
        where: The machine and the versions.
        path: The picture to write.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    _times(axes, results)
    axes.legend(handles=axes.containers[:2], labels=["keras.layers.LSTM", "FastLSTM"], frameon=False)
    figure.supxlabel(where, fontsize=8)
    # Text stays text. There is no date, so that the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lstm_fast"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _times(axes: Axes, results: Sequence[Comparison]) -> None:
    groups = []
    for result in results:
        padding = "padding masked" if result.mask else "padding not masked"
        about = f"\n{padding}" if len(results) > 1 else ""
        groups.append((f"training step{about}", result.train_ms, result))
        groups.append((f"prediction{about}", result.predict_ms, result))
    for place, (_, measured, result) in enumerate(groups):
        slow, fast = measured.median("keras"), measured.median("fast")
        for offset, value, colour in ((-0.2, slow, KERAS_COLOUR), (0.2, fast, FAST_COLOUR)):
            bar = axes.bar(place + offset, value, width=0.38, color=colour)
            axes.bar_label(bar, fmt="%.0f ms" if value >= 10 else "%.1f ms", padding=2)
        axes.annotate(
            f"{slow / fast:.1f}x" if result.fused else "ran as\nKeras's",
            (place + 0.2, fast),
            xytext=(0, 18),
            textcoords="offset points",
            ha="center",
            fontsize=15 if result.fused else 9,
            fontweight="bold",
            color=FAST_COLOUR,
        )
    first = results[0]
    title = f"{first.model} model, batch {first.batch_size}"
    padding = f"{first.timesteps:.0f} timesteps, {first.padding:.0%} padding"
    if len(results) == 1:
        padding = f"{padding}, {'masked' if first.mask else 'not masked'}"
    title = f"{title}\n{padding}" if len(results) == 1 else f"{title}, {padding}"
    axes.set_xticks(range(len(groups)), [name for name, _, _ in groups])
    axes.set(ylabel="ms a batch, median; shorter is faster")
    axes.set_title(title, loc="left")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
