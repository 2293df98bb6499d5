"""`lstm-fast predict`: the classes of texts, by a model that `lstm-fast train` has trained."""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from lstm_fast.commands import texts as preparation
from lstm_fast.errors import CommandError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from lstm_fast.text.prediction import Classifier, Text

TABLE_CLASSES = 6  # a table with more columns would not fit a terminal


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    preparation.prepare("predict", ("tensorflow", "tensorflow_datasets", "rich"))
    from rich.console import Console
    from rich.progress import Progress

    from lstm_fast.files import output_folder, replace
    from lstm_fast.text import labels, prediction, tables

    output: Path | None = arguments.output
    if output is not None:
        if output.suffix.lower() != ".csv":
            raise CommandError(f"output: expected a name that ends in .csv, found {output}")
        if output.is_dir():
            raise CommandError(f"output: expected the name of a file, found the folder {output}")
        if output.resolve() == Path(arguments.texts).resolve():
            raise CommandError(f"output: expected another file than the one with the texts, found {output} for both")
    classifier = prediction.load(arguments.model, arguments.vocabulary)
    unit, texts = prediction.read_texts(arguments.texts, arguments.text_column, classifier.column, preparation.warn)
    if problems := [f"{unit} {text.number}: {text.problem}" for text in texts if text.content is None]:
        preparation.warn(f"no result for {len(problems):,} of {len(texts):,} {unit}s: {tables.summary(problems)}")
    contents = [text.content for text in texts if text.content is not None]

    def write(file: TextIO, found: np.ndarray) -> None:
        _write_csv(file, unit, texts, classifier, found)

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("predicting", total=len(contents))
        with output_folder(output.parent) if output else contextlib.nullcontext():
            found = classifier.probabilities(contents, arguments.batch_size, lambda done: bar.advance(task, done))
            if output is not None:

                def save(part: Path) -> None:
                    with part.open("w", encoding="utf-8", newline="") as file:
                        write(file, found)

                replace(output, save)
    if output is not None:
        counts = collections.Counter(classifier.classes[number] for number in found.argmax(axis=1).tolist())
        shown = ", ".join(f"{labels.shown(name)} {counts[name]:,}" for name in classifier.classes)
        print(f"{output} written: {len(texts):,} {unit}s, {shown}")
    elif sys.stdout.isatty():
        console = Console()
        console.print(_table(unit, texts, classifier, found, console.width))
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # the encoding of the files, whatever the locale is
        write(sys.stdout, found)
    return 0


def _rows(texts: list[Text], found: np.ndarray) -> list[tuple[Text, list[float] | None]]:
    """The texts in their order, each with its probabilities if it has any."""
    results = iter(found.tolist())
    return [(text, None if text.content is None else next(results)) for text in texts]


def _write_csv(file: TextIO, unit: str, texts: list[Text], classifier: Classifier, found: np.ndarray) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([unit, "text", "prediction", *(f"p_{name}" for name in classifier.classes)])
    for text, shares in _rows(texts, found):
        if shares is None:
            writer.writerow([text.number, "", "", *("" for _ in classifier.classes)])
        else:
            name = classifier.classes[shares.index(max(shares))]
            writer.writerow([text.number, text.content, name, *(f"{share:.7g}" for share in shares)])


def _table(unit: str, texts: list[Text], classifier: Classifier, found: np.ndarray, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text as Plain

    from lstm_fast.text import labels

    classes = [labels.shown(name) for name in classifier.classes]
    few = len(classes) <= TABLE_CLASSES
    names = classes if few else ["probability"]
    widest = max(map(len, ("prediction", *classes)))
    others = [len(str(texts[-1].number)), widest, *(max(len(name), 5) for name in names)]  # 0.123
    room = max(width - sum(others) - 3 * len(others) - 7, 20)  # frames and gaps
    table = Table()
    table.add_column(unit, justify="right")
    table.add_column("text", max_width=room, no_wrap=True, overflow="ellipsis")
    table.add_column("prediction", no_wrap=True)
    for name in names:
        table.add_column(Plain(name), justify="right", no_wrap=True)
    for text, shares in _rows(texts, found):
        if shares is None:
            table.add_row(str(text.number), Plain(text.problem, style="dim"))
        else:
            best = max(shares)
            content = Plain(" ".join(str(text.content)[:1000].split()))
            numbers = [f"{share:.3f}" for share in (shares if few else [best])]
            table.add_row(str(text.number), content, Plain(classes[shares.index(best)]), *numbers)
    return table
