"""The pictures that the command line makes. The path's suffix decides the format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from lstm_fast.text.compare import Comparison

KERAS_COLOUR, FAST_COLOUR = "#b0b7c3", "#d9480f"


def history(values: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draws loss and accuracy over the epochs, in training and in validation.

    Args:
        values: Keras's history.
        path: of the picture.
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
        result: of `lstm_fast.text.compare.compare`.
        path: of the picture.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    speed, losses = figure.subplots(1, 2, width_ratios=[3, 4])
    groups = {"training step": result.train_ms, "prediction": result.predict_ms}
    for place, times in enumerate(groups.values()):
        slow, fast = times.median("keras"), times.median("fast")
        for offset, value, colour in ((-0.2, slow, KERAS_COLOUR), (0.2, fast, FAST_COLOUR)):
            bar = speed.bar(place + offset, value, width=0.38, color=colour)
            speed.bar_label(bar, fmt="%.0f ms" if value >= 10 else "%.1f ms", padding=2)
        speed.annotate(
            f"{slow / fast:.1f}x",
            (place + 0.2, fast),
            xytext=(0, 18),
            textcoords="offset points",
            ha="center",
            fontsize=15,
            fontweight="bold",
            color=FAST_COLOUR,
        )
    speed.set_xticks(range(len(groups)), groups)
    speed.set(ylabel="ms per batch, median", title=f"{result.model} model, batch {result.batch_size}")
    speed.margins(y=0.15)

    steps = range(1, len(result.losses["keras"]) + 1)
    losses.plot(steps, result.losses["keras"], color=KERAS_COLOUR, linewidth=6, label="keras.layers.LSTM")
    losses.plot(steps, result.losses["fast"], color=FAST_COLOUR, linewidth=1.5, label="FastLSTM")
    losses.set(xlabel="training step", ylabel="loss", title="the same weights, the same batches")
    losses.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.legend(frameon=False)
    for axes in (speed, losses):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
