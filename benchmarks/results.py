"""The one schema of results, its writer and its reader.

A file of results is lines of JSON. The first line is a header: which commit was measured, when, where and by which
command. Each further line is a row: what one contender took for one case. What pytest-benchmark writes is read as such
rows, too.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = "lstm_fast benchmarks, 1"
TREE = Path(__file__).resolve().parents[1]
COMMIT = "BENCHMARK_COMMIT"  # the variable for a copy of a tree, in which git knows nothing


@dataclasses.dataclass(frozen=True)
class Header:
    """Where results come from."""

    commit: str
    dirty: bool  # whether files of the commit had been changed
    date: str
    command: str
    environment: dict[str, Any]  # the machine and the versions

    def __str__(self) -> str:
        return f"commit {self.commit[:12]}{' with changes' * self.dirty}, {self.date}: `{self.command}`"


@dataclasses.dataclass(frozen=True)
class Row:
    """What one contender took for one case.

    Attributes:
        suite: what the case is one of.
        case: a shape B,T,D,H in most suites.
        pass_: training or inference; in some suites another one, or none.
        contender: who computed it.
        seconds: of a step, a figure for every round; empty if nothing was timed.
        facts: what else a reader should know, as JSON has it.
    """

    suite: str
    case: str
    pass_: str
    contender: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.pass_} {self.case}".strip()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def gflops(self) -> float:
        """Billions of floating-point operations a second."""
        return float(self.facts["flop"] / self.median / 1e9)


class File(NamedTuple):
    """A file of results."""

    path: Path
    header: Header
    rows: list[Row]

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(row.suite for row in self.rows))


def pass_name(training: bool) -> str:
    return "training" if training else "inference"


def header(command: str) -> Header:
    """The header of what is measured now, in this tree."""
    from benchmarks.environment import environment  # it needs the compiled part, and a reader does not have that

    return Header(*commit_of(TREE), now(), command, environment())


def now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"


def commit_of(tree: Path) -> tuple[str, bool]:
    """The commit of a tree, and whether its files have been changed since."""
    if tree == TREE and COMMIT in os.environ:
        commit, _, changed = os.environ[COMMIT].partition(" ")
        return commit, bool(changed)
    git = ("git", "-C", str(tree))
    try:
        commit, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False
    return commit, bool(changed)


@contextlib.contextmanager
def writing(path: Path, make_header: Callable[[], Header], *, append: bool = False) -> Iterator[Callable[[Row], Row]]:
    """Yields a function that writes a row at once, and returns it as written. It stays if the next one never ends.

    Args:
        path: the file.
        make_header: called for the header, unless rows are appended to a file that has one.
        append: whether rows that are there stay.

    Raises:
        OSError: the file cannot be written, or another run writes it.
        ValueError: rows would be appended to a file that is not one of results; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{path}: expected results that nobody else writes, found another run") from None
        there = path.read_bytes() if append else b""
        begin = json.dumps({"schema": SCHEMA}).rstrip("}").encode()
        if not there.startswith(begin[: len(there)]):  # a header may be cut off, too
            raise ValueError(f"{path}: expected results to append to, found another file")
        whole = there[: there.rfind(b"\n") + 1]  # the rest's writer was stopped
        found = None if whole else make_header()
        file.truncate(len(whole))

        def write(content: Any) -> None:
            print(json.dumps(content, default=str), file=file, flush=True)

        if found:
            write({"schema": SCHEMA, **dataclasses.asdict(found)})

        def add(row: Row) -> Row:
            seconds = [float(f"{value:.7g}") for value in row.seconds]  # no clock has more digits
            written = dataclasses.replace(row, seconds=seconds)
            write({name.rstrip("_"): value for name, value in dataclasses.asdict(written).items()})
            return written

        yield add


def read(paths: Iterable[Path]) -> list[File]:
    """Reads files of results, and all of the files of folders.

    Raises:
        OSError: A file cannot be read.
        ValueError: There are no results, or a file is not one of results; the message begins with its name.
    """
    files = []
    for path in paths:
        found = (
            sorted(each for each in path.iterdir() if each.suffix in (".json", ".jsonl")) if path.is_dir() else [path]
        )
        if not found:
            raise ValueError(f"{path}: expected files of results, .json or .jsonl, found none")
        files += [_read(each) for each in found]
    return files


def _read(path: Path) -> File:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected results as text, found {error}") from None
    try:
        first = json.loads(lines[0]) if lines else None
    except (ValueError, RecursionError):  # JSON of many lines
        first = None
    if isinstance(first, dict) and "schema" in first:
        return _of_lines(path, first, lines[1:])
    try:
        content = json.loads("".join(lines))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected results as lines of JSON, or of pytest-benchmark, found {error}") from None
    if not isinstance(content, dict) or "benchmarks" not in content:
        raise ValueError(f"{path}: expected a header with a schema, or benchmarks of pytest-benchmark, found neither")
    try:
        return _of_pytest(path, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: expected results of pytest-benchmark, found none: {error!r}") from error


def _of_lines(path: Path, first: dict[str, Any], lines: Sequence[str]) -> File:
    if (schema := first.pop("schema")) != SCHEMA:
        raise ValueError(f"{path}: expected the schema {SCHEMA!r}, found {schema!r}")
    found = _made(Header, first, f"{path}:1")
    rows = []
    for number, line in enumerate(lines, start=2):
        if number == len(lines) + 1 and not line.endswith("\n"):
            break  # its writer was stopped
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: expected a row as JSON, found {error}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{path}:{number}: expected an object, found {content!r}")
        content = {"pass_" if name == "pass" else name: value for name, value in content.items()}
        rows.append(_made(Row, content, f"{path}:{number}"))
    return File(path, found, rows)


def _made(kind: Any, content: dict[str, Any], where: str) -> Any:
    """A header or a row of what a line says."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if content.keys() != fields.keys():
        expected, found = (" ".join(sorted(name.rstrip("_") for name in names)) for names in (fields, content))
        raise ValueError(f"{where}: expected the fields {expected}, found {found or 'nothing'}")
    for name, value in content.items():
        right = isinstance(value, getattr(fields[name], "__origin__", fields[name]))
        if not right or (name == "seconds" and not all(isinstance(each, int | float) for each in value)):
            raise ValueError(f"{where}: expected {name} as {fields[name]}, found {value!r}")
    return kind(**content)


def _of_pytest(path: Path, content: dict[str, Any]) -> File:
    """What pytest-benchmark wrote, as rows."""
    commit = content.get("commit_info", {})
    found = Header(
        commit.get("id", "unknown"),
        commit.get("dirty", False),
        content.get("datetime", "unknown date")[:16].replace("T", " "),
        "pytest benchmarks",
        content["machine_info"]["lstm_fast"],
    )
    rows = []
    for benchmark in content["benchmarks"]:
        facts, stats = dict(benchmark["extra_info"]), benchmark["stats"]
        named = facts.pop("kind"), facts.pop("scenario", ""), facts.pop("training", None), facts.pop("contender")
        suite, case, training, contender = named
        pass_ = "" if training is None else pass_name(training)
        rows.append(Row(suite, case, pass_, contender, stats.get("data") or [stats["median"]], facts))
    if not rows:
        raise ValueError("expected benchmarks, found none; was --benchmark-disable given?")
    return File(path, found, rows)
