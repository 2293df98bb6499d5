"""Makes one page of results: where they come from, their tables, and plots beside it.

pytest benchmarks --benchmark-json=results/results.json
python -m benchmarks.run turns grid memory backends --output results/run.jsonl
python -m benchmarks.gpu all --output results
python -m benchmarks.report results --output results
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import parser
from benchmarks.results import File, read
from benchmarks.tables import Table, cells, head, tables

USAGE = 2
MAX_WIDTH = 500  # of a table, in characters


def show(rendered: Sequence[Table]) -> None:
    """Prints the tables."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(markup=False, emoji=False)  # texts hold brackets and colons of others
    width, unlimited = console.width, console.options.update(max_width=MAX_WIDTH)
    for table in rendered:
        printed = RichTable(title=table.title, caption=table.note or None, box=box.SIMPLE_HEAD, title_justify="left")
        for n, texts in enumerate(zip(table.columns, *table.rows, strict=True)):
            printed.add_column(texts[0], justify="right" if n else "left", min_width=max(map(len, texts)))
        for row in table.rows:
            printed.add_row(*row)
        # The terminal wraps a table that is too wide; that is better than to cut it off.
        console.width = max(width, console.measure(printed, options=unlimited).minimum)
        console.print(printed)


def write_page(files: Sequence[File], rendered: Sequence[Table], folder: Path) -> None:
    """Writes report.md."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = ("# Benchmarks", *head(files), *(table.markdown().strip() for table in rendered))
    (folder / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def draw(files: Sequence[File], folder: Path, formats: Sequence[str]) -> None:
    """Draws the plots of layers and of the grid."""
    from benchmarks import plots

    for file in files:
        layers, grid = (
            [row for row in file.rows if row.suite == suite and row.seconds] for suite in ("layers", "grid")
        )
        for suffix in formats:
            if layers:
                plots.speed(layers, folder / f"speed.{suffix}", file.header.environment)
            if grid:
                plots.grid(cells(grid), folder / f"grid.{suffix}", file.header.environment)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("report", __doc__)
    options.add_argument("results", type=Path, nargs="+", help="files of results, or folders of them")
    options.add_argument("--output", type=Path, required=True, help="folder for report.md and the plots")
    options.add_argument("--format", choices=("svg", "png"), nargs="+", default=["svg"], help="of the plots")
    given = options.parse_args(arguments)
    try:
        files = read(given.results)
        rendered = list(tables(files))
        write_page(files, rendered, given.output)
        draw(files, given.output, given.format)
    except (OSError, ValueError) as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return USAGE
    show(rendered)
    return 0


if __name__ == "__main__":
    sys.exit(main())
