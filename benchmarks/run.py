"""Measures suites of benchmarks on the CPU, in which contenders take turns; writes their rows and prints their tables.

python -m benchmarks.run turns grid --output results/run.jsonl
python -m benchmarks.report results --output results

A suite is a module in benchmarks/suites. `pytest benchmarks` measures the groups in which contenders follow each other.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rich.progress import track

from benchmarks import report, results, suites
from benchmarks.command import not_negative, parsed, parser
from benchmarks.results import File, Row
from benchmarks.suites import Case, Settings
from benchmarks.tables import tables


def chosen(names: Sequence[str], settings: Settings, only: Sequence[str]) -> list[Case]:
    """The cases of suites, or those whose names have one of these texts in them.

    Raises:
        OSError, ValueError: as `results.read`, of the results whose cases are measured again.
    """
    found = [case for name in names for case in _suite(name).cases(settings)]
    return [case for case in found if not only or any(text in f"{case}" for text in only)]


def _suite(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.suites.{name}")


def measured(case: Case, settings: Settings) -> list[Row]:
    """The rows of a case; one row that says why, if it fails: the others go on."""
    try:
        return list(_suite(case.suite).measure(case, settings))
    except Exception as error:  # of a framework, or of a contender that is wrong
        return [case.row("", error=" ".join(f"{type(error).__name__}: {error}".split())[:2000])]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("run", __doc__)
    options.add_argument("suites", nargs="+", choices=suites.NAMES, metavar="SUITE", help=", ".join(suites.NAMES))
    options.add_argument("--output", type=Path, required=True, help="file of results to write, .jsonl")
    options.add_argument("--append", action="store_true", help="keep the rows that the file has")
    options.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose names have one of these in them")
    options.add_argument(
        "--seconds", type=not_negative, help="for the contenders of a case; default: as the suite has it"
    )
    options.add_argument("--quick", action="store_true", help="small cases only, to see that it works")
    options.add_argument("--again", type=Path, metavar="FILE", help="grid: cells that were slower in FILE, for longer")
    options.add_argument("--data", default="sample", help="reviews: as of `lstm-fast train`")
    options.add_argument("--vocabulary", type=Path, help="reviews: a .subwords file")
    options.add_argument("--steps", type=int, default=400, help="reviews: that a model is trained for before")
    given = parsed(options, arguments)
    if given.again and given.suites != ["grid"]:
        options.error(f"--again: expected the suite grid alone, found {' '.join(given.suites)}")
    # TensorFlow warns because every case has a graph of its own.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    settings = Settings(given.quick, given.seconds, given.again, given.data, given.vocabulary, given.steps)
    try:
        work = chosen(given.suites, settings, given.only or ())
    except (OSError, ValueError) as error:
        options.error(f"--again: {error}")
    if not work:
        options.error("expected cases to measure, found none")
    header = results.header(given.command)
    try:
        there = results.read([given.output])[0].header if given.append and given.output.exists() else header
    except (OSError, ValueError) as error:
        options.error(f"--append: {error}")
    if (there.commit, there.dirty) != (header.commit, header.dirty):  # a file has one header for all of its rows
        options.error(f"--append: expected rows of {header.commit[:12]}, as this tree is, found {there}")
    rows: list[Row] = []
    try:
        with results.writing(given.output, lambda: header, append=given.append) as add:
            for case in track(work, description=" ".join(given.suites)):
                for row in measured(case, settings):
                    rows.append(add(row))
    except OSError as error:  # not 1: no case has failed
        options.error(f"--output: {error}")
    report.show(list(tables([File(given.output, header, rows)])))
    return int(any("error" in row.facts for row in rows))


if __name__ == "__main__":
    sys.exit(main())
