"""The pictures of the report. The path's suffix decides the format."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks import FAST, PYTORCH_NATIVE
from benchmarks.results import Cell, Timing
from benchmarks.tables import groups, pass_name, peers
from lstm_fast.bench.plots import bars, save
from lstm_fast.bench.words import digits

NOT_DRAWN = (PYTORCH_NATIVE,)  # nobody has it by default; it is in the table
TICKS = tuple(2.0**n for n in range(-7, 8))


def speed(timings: Sequence[Timing], path: Path) -> None:
    """Bars: how many times as fast FastLSTM is as each peer, a cluster per scenario, a panel per pass."""
    drawn = [name for name in peers(timings) if name not in NOT_DRAWN]
    panels: dict[str, dict[str, dict[str, float]]] = {pass_name(training): {} for training in (False, True)}
    for (training, scenario), group in groups(timings).items():
        if FAST in group:
            own = group[FAST].seconds
            ratios = {name: group[name].seconds / own for name in drawn if name in group}
            panels[pass_name(training)][scenario] = ratios
    bars(panels, path)


def grid(cells: Sequence[Cell], path: Path) -> None:
    """Heat maps: a panel per framework and pass, a row per D, H and B, a column per T."""
    frameworks = [name for name in ("Keras", "PyTorch") if any(name in cell.ratios for cell in cells)]
    rows = list(dict.fromkeys((cell.features, cell.units, cell.batch) for cell in cells))
    times = sorted({cell.time for cell in cells})
    greatest = max(max(ratio, 1 / ratio) for cell in cells for ratio in cell.ratios.values())
    norm = LogNorm(1 / greatest, greatest)  # white is 1
    panels = [(framework, training) for framework in frameworks for training in (False, True)]
    figure = Figure(figsize=(2.4 + 2.3 * len(panels), 1.8 + 0.3 * len(rows)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (framework, training) in zip(all_axes, panels, strict=True):
        ratios = np.full((len(rows), len(times)), np.nan)
        for cell in cells:
            if cell.training == training and framework in cell.ratios:
                place = rows.index((cell.features, cell.units, cell.batch)), times.index(cell.time)
                ratios[place] = cell.ratios[framework]
        image = axes.imshow(ratios, norm=norm, cmap="RdBu", aspect="auto")
        _annotate(axes, ratios, greatest)
        axes.set_facecolor("#dddddd")  # left out
        axes.set_xticks(range(len(times)), [str(time) for time in times])
        axes.set(xlabel="T", title=f"{pass_name(training)}\nagainst {framework}")
        for row in range(1, len(rows)):
            if rows[row][:2] != rows[row - 1][:2]:
                axes.axhline(row - 0.5, color="black", linewidth=1)
    all_axes[0].set_yticks(range(len(rows)), [f"D={d} H={h}  B={b}" for d, h, b in rows])
    bar = figure.colorbar(image, ax=list(all_axes), label="times as fast (grey: left out)", shrink=0.6)
    bar.ax.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if 1 / greatest <= tick <= greatest]))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    save(figure, path)


def _annotate(axes: Axes, ratios: np.ndarray, greatest: float) -> None:
    for (row, column), ratio in np.ndenumerate(ratios):
        if np.isfinite(ratio):
            dark = abs(np.log(ratio)) > 0.6 * np.log(greatest)
            axes.text(
                column, row, digits(ratio), ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
