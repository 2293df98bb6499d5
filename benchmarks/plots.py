"""The pictures of the report. The path's suffix decides the format."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, to_hex
from matplotlib.figure import Figure

from benchmarks import BASELINE, FAST, ONNX_RUNTIME, PYTORCH, XLA
from benchmarks.results import Row, pass_name
from benchmarks.tables import Cell, groups, peers
from lstm_fast.bench.plots import bars, save
from lstm_fast.bench.words import digits

# The plot shows a few; the tables show all. It shows those that a user of Keras would think of, and shapes where each
# of them does well. If none of these shapes was measured, it shows the others.
DRAWN = (BASELINE, XLA, PYTORCH, ONNX_RUNTIME)
SHAPES = ("64,256,64,64", "64,100,128,256", "1,100,128,128", "17,33,50,100", "64,1354,64,64 padded")

# The classes of the grid's ratios. Every ratio below 1 is red, also if it is close to 1.
BOUNDS = (0.5, 0.8, 0.9, 1, 1.1, 1.5, 2, 4, 8, 16)
COLOURS = ("#67000d", "#b2182b", "#ef6548", "#fcae91", "#f7f7f7", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#3182bd")
COLOURS += ("#08519c",)
LIGHT_TEXT = ("#67000d", "#b2182b", "#3182bd", "#08519c")


def speed(rows: Sequence[Row], path: Path, environment: Mapping[str, Any]) -> None:
    """Bars: the time of each peer, where FastLSTM is 1, a cluster per scenario, a panel per pass."""
    found = groups(rows)
    shapes = [shape for shape in SHAPES if any(shape == scenario for _, scenario in found)]
    drawn = [name for name in peers(rows) if name in DRAWN]
    panels: dict[str, dict[str, dict[str, float]]] = {pass_name(training): {} for training in (False, True)}
    for (pass_, scenario), group in found.items():
        if FAST in group and (scenario in shapes or not shapes):
            own = group[FAST].median
            ratios = {name: group[name].median / own for name in drawn if name in group}
            panels[pass_][scenario] = ratios
    bars(panels, path, machine(environment))


def machine(environment: Mapping[str, Any]) -> str:
    """The machine and the versions in one line."""
    place = f"{environment['cpu']}, {environment['isa']}, {environment['threads']} threads"
    named = {"tensorflow": "TensorFlow", "keras": "Keras", "torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
    return "; ".join([place, *(f"{name} {environment[key]}" for key, name in named.items() if key in environment)])


def grid(cells: Sequence[Cell], path: Path, environment: Mapping[str, Any]) -> None:
    """Heat maps: a panel per framework and pass, a row per D, H and B, a column per T."""
    frameworks = [name for name in ("Keras", "PyTorch") if any(name in cell.ratios for cell in cells)]
    rows = list(dict.fromkeys((cell.features, cell.units, cell.batch) for cell in cells))
    times = sorted({cell.time for cell in cells})
    colours = ListedColormap(COLOURS)
    norm = BoundaryNorm(BOUNDS, len(COLOURS), extend="both")
    panels = [(framework, pass_name(training)) for framework in frameworks for training in (False, True)]
    figure = Figure(figsize=(2.4 + 2.3 * len(panels), 1.8 + 0.3 * len(rows)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (framework, pass_) in zip(all_axes, panels, strict=True):
        ratios = np.full((len(rows), len(times)), np.nan)
        for cell in cells:
            if cell.pass_ == pass_ and framework in cell.ratios:
                place = rows.index((cell.features, cell.units, cell.batch)), times.index(cell.time)
                ratios[place] = cell.ratios[framework]
        image = axes.imshow(ratios, norm=norm, cmap=colours, aspect="auto")
        _annotate(axes, ratios, lambda ratio: to_hex(colours(norm(ratio))))
        axes.set_facecolor("#dddddd")  # left out
        axes.set_xticks(range(len(times)), [str(time) for time in times])
        axes.set(xlabel="T", title=f"{pass_}\nagainst {framework}")
        for row in range(1, len(rows)):
            if rows[row][:2] != rows[row - 1][:2]:
                axes.axhline(row - 0.5, color="black", linewidth=1)
    all_axes[0].set_yticks(range(len(rows)), [f"D={d} H={h}  B={b}" for d, h, b in rows])
    label = "FastLSTM, times as fast (red: slower; grey: left out)"
    figure.colorbar(image, ax=list(all_axes), label=label, shrink=0.6, ticks=BOUNDS, format="%g", spacing="uniform")
    figure.supxlabel(machine(environment), fontsize=10)
    save(figure, path)


def _annotate(axes: Axes, ratios: np.ndarray, colour_of: Callable[[float], str]) -> None:
    for (row, column), ratio in np.ndenumerate(ratios):
        if np.isfinite(ratio):
            colour = "white" if colour_of(ratio) in LIGHT_TEXT else "black"
            axes.text(column, row, digits(ratio), ha="center", va="center", fontsize=8, color=colour)
