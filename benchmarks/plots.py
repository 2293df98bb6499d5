"""The pictures of the report. The path's suffix decides the format."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks import FAST, PYTORCH_NATIVE
from benchmarks.results import Cell, Timing
from benchmarks.tables import groups, pass_name, peers

NOT_DRAWN = (PYTORCH_NATIVE,)  # nobody has it by default; it is in the table
TICKS = tuple(2.0**n for n in range(-7, 8))


def speed(timings: Sequence[Timing], path: Path) -> None:
    """Bars: how many times as fast FastLSTM is as each peer, a cluster per scenario, a panel per pass."""
    names = [name for name in peers(timings) if name not in NOT_DRAWN]
    found = groups(timings)
    scenarios = list(dict.fromkeys(scenario for (_, scenario), group in found.items() if FAST in group))
    figure = Figure(figsize=(11, 1.6 + 0.13 * (len(names) + 2) * len(scenarios)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, training in zip(panels, (False, True), strict=True):
        for name in names:
            places, ratios = [], []
            for row, scenario in enumerate(scenarios):
                group = found.get((training, scenario), {})
                # Those that take part stand side by side, without gaps for the others.
                cluster = [peer for peer in names if peer in group]
                if FAST in group and name in cluster:
                    places.append(row + (cluster.index(name) - (len(cluster) - 1) / 2) / (len(names) + 1))
                    ratios.append(group[name].seconds / group[FAST].seconds)
            colour = f"C{names.index(name)}"
            # From 1 on: to the right FastLSTM is the faster one, to the left the other.
            bars = axes.barh(places, np.subtract(ratios, 1), 1 / (len(names) + 1), left=1, label=name, color=colour)
            for bar, ratio in zip(bars, ratios, strict=True):
                right = ratio >= 1
                axes.annotate(
                    _digits(ratio),
                    (ratio, bar.get_y() + bar.get_height() / 2),
                    xytext=(2 if right else -2, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center_baseline",
                    fontsize=7,
                )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.axvline(1, color="black", linewidth=0.8)
        axes.margins(x=0.12, y=0.01)
        axes.set_title(pass_name(training))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(scenarios)), [scenario.replace(" ", "\n", 1) for scenario in scenarios])
    panels[0].invert_yaxis()
    figure.supxlabel("FastLSTM, times as fast as each (B,T,D,H; to the right of 1 FastLSTM is faster)", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=(len(names) + 1) // 2, frameon=False)
    _save(figure, path)


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
    _save(figure, path)


def _annotate(axes: Axes, ratios: np.ndarray, greatest: float) -> None:
    for (row, column), ratio in np.ndenumerate(ratios):
        if np.isfinite(ratio):
            dark = abs(np.log(ratio)) > 0.6 * np.log(greatest)
            axes.text(
                column, row, _digits(ratio), ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )


def _digits(ratio: float) -> str:
    """Digits as far as they tell something: whether a ratio near 1 is above or below it."""
    return f"{ratio:.2f}" if ratio < 2 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _save(figure: Figure, path: Path) -> None:
    # Text stays text: small files that can be searched. Without a date the same results give the same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lstm_fast"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
