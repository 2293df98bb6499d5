"""Pictures of ratios. The path's suffix decides the format."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from lstm_fast.bench.words import digits

FAST_COLOUR = "#d9480f"
# Greys and blues: the others are the background of FastLSTM's line.
PEER_COLOURS = ("#868e96", "#ced4da", "#1c7ed6", "#74c0fc", "#0b7285", "#66d9e8", "#5f3dc4", "#b197fc")

Ratios = Mapping[str, Mapping[str, float]]  # by scenario and peer: how many times as fast FastLSTM is


def bars(panels: Mapping[str, Ratios], path: Path, where: str = "") -> None:
    """Draws the time of each peer, where FastLSTM is 1: a panel per pass, a cluster per scenario, a bar per peer.

    Args:
        panels: the ratios, by title.
        path: of the picture.
        where: the machine and the versions, for the foot of the picture.
    """
    names = list(dict.fromkeys(name for ratios in panels.values() for cluster in ratios.values() for name in cluster))
    scenarios = list(dict.fromkeys(scenario for ratios in panels.values() for scenario in ratios))
    figure = Figure(figsize=(11, 1.9 + 0.15 * (len(names) + 2) * len(scenarios)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, ratios) in zip(all_axes, panels.items(), strict=True):
        for n, name in enumerate(names):
            places, lengths = [], []
            for row, scenario in enumerate(scenarios):
                # Those that take part stand side by side, without gaps for the others.
                cluster = [peer for peer in names if peer in ratios.get(scenario, {})]
                if name in cluster:
                    places.append(row + (cluster.index(name) - (len(cluster) - 1) / 2) / (len(names) + 1))
                    lengths.append(ratios[scenario][name])
            # From 1 on: to the right a peer takes longer than FastLSTM, to the left less long.
            colour = PEER_COLOURS[n % len(PEER_COLOURS)]
            drawn = axes.barh(places, np.subtract(lengths, 1), 1 / (len(names) + 1), left=1, label=name, color=colour)
            for bar, ratio in zip(drawn, lengths, strict=True):
                right = ratio >= 1
                axes.annotate(
                    digits(ratio),
                    (ratio, bar.get_y() + bar.get_height() / 2),
                    xytext=(2 if right else -2, 0),
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center_baseline",
                    fontsize=8,
                    fontweight="normal" if right else "bold",
                )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.axvline(1, color=FAST_COLOUR, linewidth=2, label="FastLSTM, which is 1")
        axes.margins(x=0.14, y=0.01)
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_yticks(range(len(scenarios)), [scenario.replace(" ", "\n", 1) for scenario in scenarios])
    all_axes[0].set_ylabel("B,T,D,H")
    all_axes[0].invert_yaxis()
    axis = "time of each, where FastLSTM takes 1 (logarithmic); right of the line: slower, left of it: faster"
    figure.supxlabel(f"{axis}\n{where}" if where else axis, fontsize=10)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=max(4, (len(names) + 2) // 2), frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Writes the picture; without a date the same results give the same file."""
    # Text stays text: small files that can be searched.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lstm_fast"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
