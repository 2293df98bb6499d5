"""The user's own texts: reads files and folders, and returns texts with numbered classes."""

from __future__ import annotations

import collections
import dataclasses
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from lstm_fast.errors import DataError
from lstm_fast.text import folders, labels, tables

Report = Callable[[str], None]
SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "test")
Texts = dict[SplitName, tuple[list[str], np.ndarray]]

TEST_SHARE = 0.2
# Names of the third part in a split by three. It serves as the test set if there is none.
VALIDATION_NAMES = ("validation", "valid", "val", "dev")
ARCHIVES = (".tar.gz", ".tgz", ".tar")
MAX_CLASSES = 1000

_READABLE = (
    "a .csv, .tsv, .jsonl (or .ndjson, .json) or .parquet file, a folder of such files, or a folder or .tar.gz archive "
    "with a sub-folder of .txt files for each class, perhaps inside train/ and test/"
)


@dataclasses.dataclass(frozen=True)
class Columns:
    """The user's choice of columns and of the split. None: it is guessed, or has a default.

    Attributes:
        text: The column with the texts.
        label: The column with the labels.
        test_share: The share of the texts for testing, from 0 to 1, if no file is for testing.
    """

    text: str | None = None
    label: str | None = None
    test_share: float | None = None


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What `read` returns.

    Attributes:
        texts: By split, the texts and the numbers of their classes, int64 `[N]`.
        classes: The names of the classes.
        skipped: Number of rows that could not be used.
        columns: The names of the columns with texts and labels; None for .txt files.
    """

    texts: Texts
    classes: tuple[str, ...]
    skipped: int = 0
    columns: tuple[str, str] | None = None


class _Reading:
    """Texts with the names of their classes, while they are collected."""

    def __init__(self) -> None:
        self.splits: dict[str | None, list[tuple[str, str]]] = {}
        self.skipped = 0
        self.columns: tuple[str, str] | None = None
        self.class_names: tuple[str, ...] = ()  # in order, if a file has them


def read(path: Path, columns: Columns, seed: int, report: Report, warn: Report) -> Corpus:
    """Reads texts and labels.

    Args:
        path: A file, folder or archive.
        columns: The user's choice of columns.
        seed: The seed for the split, if there is none.
        report: Called with a line about each guess.
        warn: Called with a line about rows that were skipped.

    Raises:
        DataError: There is nothing that can be used.
    """
    reading = _Reading()
    if not path.exists():
        raise DataError(f"data: expected {_READABLE}; found nothing at {path}")
    if path.is_dir():
        if files := _by_split(path, report):
            _read_tables(files, columns, reading, warn)
        else:
            _read_folders(path, folders.in_folder(path), columns, reading, warn)
    elif tables.kind(path):
        _read_tables({None: [path]}, columns, reading, warn)
    elif path.name.lower().endswith(ARCHIVES) or tarfile.is_tarfile(path):
        _read_folders(path, folders.in_archive(path), columns, reading, warn)
    else:
        hint = "; unpack it first" if path.suffix.lower() == ".zip" else ""
        raise DataError(f"data: expected {_READABLE}; found {path}{hint}")
    return _numbered(path, reading, columns, seed, report, warn)


# Tables


def _by_split(path: Path, report: Report) -> dict[str | None, list[Path]]:
    """The tables below a folder, by split. The name of the file or of a folder says the split; else it is None."""
    found: dict[str | None, list[Path]] = {}
    for file in sorted(file for file in path.rglob("*") if tables.kind(file) and file.is_file()):
        inside = file.relative_to(path)
        if not any(part.startswith(".") for part in inside.parts):
            split = next(filter(None, map(_split_name, (file.name, *inside.parts[-2::-1]))), None)
            if split or tables.kind(file) != ".json":  # other .json files mostly describe the data
                found.setdefault(split, []).append(file)
    if "train" not in found:
        if len(found) > 1 or "test" in found or "validation" in found:
            names = ", ".join(str(file.relative_to(path)) for files in found.values() for file in files[:3])
            raise DataError(f"data: expected files with names like train.csv and test.csv in {path}, found {names}")
        return found
    used: dict[str | None, list[Path]] = {"train": found.pop("train")}
    for name in ("test", "validation"):
        if name in found and "test" not in used:
            used["test"] = found.pop(name)
    if found:
        passed = ", ".join(str(file.relative_to(path)) for files in found.values() for file in files)
        report(f"left out, because neither for training nor for testing: {passed}")
    return used


def _split_name(name: str) -> str | None:
    words = set(re.split(r"[^a-z]+", name.lower()))
    known = {"train": folders.TRAIN_NAMES, "test": folders.TEST_NAMES, "validation": VALIDATION_NAMES}
    return next((split for split, names in known.items() if words & set(names)), None)


def _read_tables(files: dict[str | None, list[Path]], columns: Columns, reading: _Reading, warn: Report) -> None:
    for split, paths in files.items():
        reading.splits[split] = []
        for path in paths:
            table = tables.read(path)
            text = labels.text_column(table, columns.text)
            label = labels.label_column(table, text, columns.label)
            names = table.class_names.get(label, ())
            reading.columns = reading.columns or (text, label)
            reading.class_names = reading.class_names or names
            problems = []
            before = len(reading.splits[split])
            for row in table.rows:
                content, problem = tables.text_of(row.values.get(text))
                name, lacking = labels.label_of(row.values.get(label), names)
                if problem := row.problem or problem or lacking:
                    problems.append(f"{table.unit} {row.number}: {problem}")
                else:
                    reading.splits[split].append((str(content), str(name)))
            _tell(path, problems, len(table.rows), len(reading.splits[split]) - before, reading, warn)


def _tell(path: Path, problems: list[str], rows: int, used: int, reading: _Reading, warn: Report) -> None:
    if not used:
        what = f"{rows:,} rows without any ({tables.summary(problems)})" if rows else "no rows"
        raise DataError(f"data: expected rows with a text and a label in {path}, found {what}")
    if problems:
        warn(f"{path.name}: skipped {len(problems):,} of {rows:,} rows: {tables.summary(problems)}")
    reading.skipped += len(problems)


# Folders of .txt


def _read_folders(
    path: Path, found: dict[str | None, folders.Files], columns: Columns, reading: _Reading, warn: Report
) -> None:
    for argument, name in (("text_column", columns.text), ("label_column", columns.label)):
        if name is not None:
            raise DataError(f"{argument}: expected none for .txt files, which have no columns, found {name!r}")
    if not found:
        raise DataError(f"data: expected {_READABLE}; found no such files in {path}")
    if "train" not in found and None not in found:
        raise DataError(f"data: expected a folder train/ beside test/ in {path}, found none")
    for split, files in found.items():
        read_files = list(folders.contents(files, path))
        reading.splits[split] = [(text, label) for label, _, text in read_files if text]
        empty = [f"{name}: no text" for _, name, text in read_files if not text]
        _tell(path, empty, len(read_files), len(reading.splits[split]), reading, warn)


# Classes and splits


def _numbered(path: Path, reading: _Reading, columns: Columns, seed: int, report: Report, warn: Report) -> Corpus:
    counts = {split: collections.Counter(label for _, label in rows) for split, rows in reading.splits.items()}
    trained = counts.get("train") or counts[None]
    classes = labels.ordered(trained, reading.class_names)
    rows = sum(trained.values())
    if len(classes) < 2:
        raise DataError(f"data: expected at least two classes in {path}, found {classes[0]!r} alone")
    if len(classes) > MAX_CLASSES or len(classes) > max(2, rows // 2):
        raise DataError(
            f"data: expected several rows for each class in {path}, found {len(classes):,} classes in {rows:,} rows, "
            f"such as {', '.join(map(labels.shown, classes[:3]))}; is this the column with the labels? --label-column "
            "names another"
        )
    shown = "text column {!r}, label column {!r}".format(*reading.columns) if reading.columns else "classes"
    report(f"{shown}: {', '.join(f'{labels.shown(name)} ({trained[name]:,})' for name in classes)}")
    if single := [name for name in classes if trained[name] == 1]:
        warn(f"{path.name}: one row only of {', '.join(map(repr, single))}: a class, or a row that went wrong?")
    if strange := sorted(set(counts.get("test", ())) - set(classes)):
        raise DataError(
            f"data: expected the classes of the training texts in the test set of {path}, found "
            f"{', '.join(map(repr, strange[:5]))}, without any training text"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    arrays = {
        split: ([text for text, _ in rows], np.array([numbers[label] for _, label in rows], np.int64))
        for split, rows in reading.splits.items()
    }
    if "test" in arrays:
        if columns.test_share is not None:
            raise DataError(f"test_share: expected none, because {path} has a test set, found {columns.test_share}")
        texts: Texts = {"train": arrays["train"], "test": arrays["test"]}
    else:
        share = TEST_SHARE if columns.test_share is None else columns.test_share
        texts = _split(*next(iter(arrays.values())), share, seed)
        test, whole = len(texts["test"][1]), sum(len(content) for content, _ in texts.values())
        if not test:
            raise DataError(f"data: expected two texts of a class, one of them for testing, in {path}, found {whole:,}")
        report(f"no test set: {test:,} of {whole:,} texts are for testing ({share:.0%} of each class, by seed {seed})")
    return Corpus(texts, classes, reading.skipped, reading.columns)


def _split(contents: list[str], numbers: np.ndarray, share: float, seed: int) -> Texts:
    """Takes a share of each class for testing: at least one text, but never the only one."""
    rng = np.random.default_rng(seed)
    aside = np.zeros(len(numbers), bool)
    for number in np.unique(numbers):
        members = rng.permutation(np.flatnonzero(numbers == number))
        aside[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    chosen: dict[SplitName, np.ndarray] = {"train": np.flatnonzero(~aside), "test": np.flatnonzero(aside)}
    return {split: ([contents[index] for index in order], numbers[order]) for split, order in chosen.items()}
