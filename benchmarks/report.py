"""Turns pytest-benchmark's JSON into a table and a plot.

pytest benchmarks --benchmark-json=results.json
python -m benchmarks.report results.json --output results
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import BASELINE


class Row(NamedTuple):
    """One contender of one group."""

    group: str
    contender: str
    milliseconds: float  # the median
    speedup: float  # over the baseline of the group
    gflops: float  # billions of floating-point operations per second


COLUMNS = ("pass, B,T,D,H", "contender", "ms", "speed", "GFLOP/s")


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Returns the rows of a results file, group by group, and the environment that they come from."""
    benchmarks = json.loads(path.read_text())["benchmarks"]
    if not benchmarks:
        raise ValueError(f"{path}: expected benchmarks, found none; was --benchmark-disable given?")
    medians = {(b["group"], b["extra_info"]["contender"]): b["stats"]["median"] for b in benchmarks}
    rows = []
    for b in benchmarks:
        group, info, median = b["group"], b["extra_info"], b["stats"]["median"]
        baseline = medians.get((group, BASELINE), float("nan"))
        rows.append(Row(group, info["contender"], 1e3 * median, baseline / median, info["flop"] / median / 1e9))
    measured = {"contender", "scenario", "training", "flop", "bytes"}
    order = groups(rows)
    rows.sort(key=lambda row: order.index(row.group))  # contenders side by side, otherwise in the order of the run
    environment = {name: value for name, value in benchmarks[0]["extra_info"].items() if name not in measured}
    return rows, environment


def cells(row: Row) -> tuple[str, ...]:
    return row.group, row.contender, f"{row.milliseconds:.2f}", f"{row.speedup:.2f}", f"{row.gflops:.1f}"


def markdown(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    lines = [COLUMNS, ("---", "---", "---:", "---:", "---:"), *map(cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"ms: median; speed: times {BASELINE}."
    return f"{table}\n\n{note} {', '.join(f'{name} {value}' for name, value in environment.items())}\n"


def show(rows: Sequence[Row]) -> None:
    """Prints the table, the fastest contender of each group in bold."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS[:2])
    for column in COLUMNS[2:]:
        table.add_column(column, justify="right")
    best = {group: max(row.speedup for row in rows if row.group == group) for group in groups(rows)}
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        style = "bold" if row.speedup == best[row.group] else None
        table.add_row(*cells(row), style=style, end_section=following is None or following.group != row.group)
    Console().print(table)


def plot(rows: Sequence[Row], environment: dict[str, Any], path: Path) -> None:
    """Bars of the speed over Keras's graph mode, a cluster per group."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names, contenders = groups(rows), list(dict.fromkeys(row.contender for row in rows))
    members = {name: [row.contender for row in rows if row.group == name] for name in names}
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.55 * len(names)), layout="constrained")
    for contender in contenders:
        of_contender = [row for row in rows if row.contender == contender]
        places, heights = [], []
        for row in of_contender:
            cluster = members[row.group]
            heights.append(0.8 / len(cluster))
            places.append(names.index(row.group) + (cluster.index(contender) - (len(cluster) - 1) / 2) * heights[-1])
        bars = axes.barh(places, [row.speedup for row in of_contender], heights, label=contender)
        axes.bar_label(bars, [f"{row.milliseconds:.1f} ms" for row in of_contender], padding=2, fontsize=7)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times as fast as Keras in graph mode (B,T,D,H; higher is better)")
    axes.set_title(
        f"isa {environment['isa']}, {environment['threads']} threads, TensorFlow {environment['tensorflow']}"
    )
    figure.legend(loc="outside lower center", ncols=len(contenders))
    figure.savefig(path, dpi=150)
    plt.close(figure)


def groups(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.group for row in rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="file written by pytest --benchmark-json")
    parser.add_argument("--output", type=Path, required=True, help="folder for report.md and report.png")
    options = parser.parse_args(arguments)
    try:
        rows, environment = read(options.results)
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "report.md").write_text(markdown(rows, environment))
        plot(rows, environment, options.output / "report.png")
    except (OSError, ValueError, KeyError) as error:  # JSONDecodeError is a ValueError
        print(f"benchmarks.report: {options.results}: {error!r}", file=sys.stderr)
        return 1
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
