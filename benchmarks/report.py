"""Turns results into tables and plots: of pytest-benchmark and of benchmarks.gpu, grid, memory and backends.

pytest benchmarks --benchmark-json=results/results.json
python -m benchmarks.gpu all --output results
python -m benchmarks.grid --output results/grid.json
python -m benchmarks.memory --output results/memory.json
python -m benchmarks.backends --output results/backends.json
python -m benchmarks.report results --output results
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import parser
from benchmarks.results import Results, read
from benchmarks.tables import Table, environment_lines, tables

USAGE = 2
MAX_WIDTH = 500  # of a table, in characters


def show(rendered: Sequence[Table]) -> None:
    """Prints the tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    width, unlimited = console.width, console.options.update(max_width=MAX_WIDTH)
    for table in rendered:
        printed = RichTable(title=table.title, caption=table.note or None, box=box.SIMPLE_HEAD, title_justify="left")
        for n, texts in enumerate(zip(table.columns, *table.rows, strict=True)):
            printed.add_column(texts[0], justify="right" if n else "left", min_width=max(map(len, texts)))
        for row in table.rows:
            printed.add_row(*row)
        # A table that is too wide is better wrapped by the terminal than cut off.
        console.width = max(width, console.measure(printed, options=unlimited).minimum)
        console.print(printed)


def write(results: Results, rendered: Sequence[Table], folder: Path, formats: Sequence[str]) -> None:
    """Writes report.md and the plots."""
    from benchmarks import plots

    write_tables(results.environments, rendered, folder)
    for suffix in formats:
        if layers := results.of_kind("layers"):
            plots.speed(layers, folder / f"speed.{suffix}", results.environments["speed"])
        if results.cells:
            plots.grid(results.cells, folder / f"grid.{suffix}", results.environments["grid"])


def write_tables(environments: dict[str, dict[str, Any]], rendered: Sequence[Table], folder: Path) -> None:
    """Writes report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = (*environment_lines(environments), *(table.markdown() for table in rendered))
    (folder / "report.md").write_text("# Benchmarks\n\n" + "\n\n".join(section.strip() for section in sections) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("report", __doc__)
    options.add_argument("results", type=Path, nargs="+", help="files of results, or folders of them")
    options.add_argument("--output", type=Path, required=True, help="folder for report.md and the plots")
    options.add_argument("--format", choices=("svg", "png"), nargs="+", default=["svg"], help="of the plots")
    given = options.parse_args(arguments)
    try:
        results = read(given.results)
        rendered = list(tables(results))
        write(results, rendered, given.output, given.format)
    except (OSError, ValueError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return USAGE
    show(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
