"""Files with a text and a label in each row: CSV, TSV, JSON Lines, Parquet. A bad row is skipped, the others are read.

Python's own modules read CSV and JSON, line by line. Faster readers drop a whole file for one bad line, or cannot say
which line it was.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import gzip
import io
import itertools
import json
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lstm_fast.errors import DataError

PLAIN = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")  # also with .gz behind it
SUFFIXES = (*PLAIN, ".parquet")
NAMED = 5  # bad rows that a warning names one by one


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        number: Its first line, from 1; in Parquet its row, from 1.
        values: Values by column, None if a cell is empty. No values at all if the row cannot be read.
        problem: Why the row cannot be read; empty if it can.
    """

    number: int
    values: dict[str, Any]
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """The content of a file.

    Attributes:
        path: The file.
        unit: What the numbers of its rows count, "line" or "row".
        columns: The names of the columns; of Parquet only those with texts or numbers.
        rows: All rows in order, also the bad ones.
        class_names: By column, the names of the labels 0, 1, ... if the file has them (the Hub's Parquet files do).
        passed: The columns that were left out, with their types.
    """

    path: Path
    unit: str
    columns: tuple[str, ...]
    rows: list[Row]
    class_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    passed: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def names_in_first_line(self) -> bool:
        """Whether the file's first line has the names of the columns."""
        return kind(self.path) in (".csv", ".tsv")


def kind(path: Path) -> str | None:
    """Returns the suffix that says how the file is read, without `.gz`; None for a file that is no table."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in (PLAIN if name.endswith(".gz") else SUFFIXES) else None


def read(path: Path, argument: str = "data") -> Table:
    """Reads a table.

    Args:
        path: The file; `kind` must know it.
        argument: The name of the file in error messages.

    Raises:
        DataError: The file cannot be read, is not UTF-8, has no columns, or two of the same name.
    """
    suffix = kind(path)
    if suffix == ".parquet":
        return _parquet(path, argument)
    text = decode(read_bytes(path, argument), path, argument)
    if suffix in (".csv", ".tsv"):
        return _csv(path, text, argument, tabs=suffix == ".tsv")
    return _json(path, text, argument)


def read_bytes(path: Path, argument: str = "data") -> bytes:
    """Returns the file's content, unpacked if its name ends in `.gz`."""
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{argument}: expected a whole file that can be read, found {path}: {error}") from error


def decode(content: bytes, path: Path | str, argument: str = "data") -> str:
    """Returns the content as text, without a byte order mark.

    Raises:
        DataError: It is not UTF-8. The message says where.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "LATIN1"
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{argument}: expected UTF-8 text in {path}, found byte 0x{content[error.start]:02x} in line {line} (byte "
            f"{error.start + 1:,} of the file), which UTF-8 does not have there; save it as UTF-8, for instance with "
            f"iconv -f {encoding} -t UTF-8"
        ) from error


def text_of(value: Any) -> tuple[str | None, str]:
    """Returns a cell's text, or None and why there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, "no text"
    if not isinstance(value, str):
        return None, f"no text but {type(value).__name__} {str(value)[:30]!r}"
    text = value.strip()
    if not text:
        return None, "no text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, "half a character (a lone surrogate)"
    return text, ""


def summary(problems: list[str]) -> str:
    """Returns some bad rows by name, and how many more there are."""
    more = len(problems) - NAMED
    return "; ".join(problems[:NAMED]) + (f"; and {more:,} more" if more > 0 else "")


# CSV and TSV


def _csv(path: Path, text: str, argument: str, *, tabs: bool) -> Table:
    lines = list(io.StringIO(text, newline=""))
    first = next((line for line in lines if line.strip()), "")
    # Some programs write semicolons in countries with a decimal comma.
    delimiter = "\t" if tabs else max(",;\t", key=first.count)
    rows = _csv_rows(lines, delimiter, "\\" if '\\"' in text and '""' not in text else None)
    number, cells, problem = next((row for row in rows if row[1] != []), (1, None, "nothing"))
    if cells is None:
        raise DataError(f"{argument}: expected the names of columns in the first line of {path}, found {problem}")
    columns = tuple(name.strip() for name in cells)
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise DataError(
            f"{argument}: expected columns of different names in {path}, found {twice[0]!r} twice in line {number}"
        )
    found: list[Row] = []
    full = 0  # rows, without the empty lines at the end
    for number, cells, problem in rows:
        found.append(Row(number, {}, problem) if cells is None else _csv_row(number, cells, columns))
        full = full if cells == [] else len(found)
    return Table(path, "line", tuple(filter(None, columns)), found[:full])


def _csv_row(number: int, cells: list[str], columns: tuple[str, ...]) -> Row:
    if len(cells) != len(columns):
        return Row(number, {}, f"expected {len(columns)} cells, found {len(cells)}" if cells else "an empty line")
    # For a missing value, pandas writes nothing, and other programs write nan.
    values = {
        name: None if cell.strip().lower() in ("", "nan") else cell for name, cell in zip(columns, cells, strict=True)
    }
    return Row(number, values)


def _csv_rows(lines: list[str], delimiter: str, escape: str | None) -> Iterator[tuple[int, list[str] | None, str]]:
    """Yields each row's first line, from 1, its cells (none for an empty line), and what is wrong with it.

    After a row with wrong quotation marks it goes on with the next line. Otherwise the rest of the file would belong to
    an open quotation.
    """
    start, columns = 0, 0
    while start < len(lines):
        reader = csv.reader(itertools.islice(lines, start, None), delimiter=delimiter, escapechar=escape, strict=True)
        before = csv.field_size_limit(sys.maxsize)  # one for the whole process
        try:
            begin = start
            while True:
                begin = start + reader.line_num
                cells = next(reader)
                columns = columns or len(cells)
                yield begin + 1, cells if len(cells) > 1 or any(map(str.strip, cells)) else [], ""
        except StopIteration:
            return
        except csv.Error as error:
            start = begin + 1
            literal = lines[begin].rstrip("\r\n").split("\t")
            if delimiter == "\t" and len(literal) == columns:  # many programs write TSV without any quoting
                yield start, literal, ""
            elif "end of data" in str(error):
                yield start, None, "a quotation mark that nothing closes"
            else:
                yield start, None, "quotation marks that do not fit together"
        finally:
            csv.field_size_limit(before)


# JSON Lines


def _json(path: Path, text: str, argument: str) -> Table:
    if text.lstrip().startswith("["):
        raise DataError(
            f"{argument}: expected JSON Lines in {path}, an object a line, found a list; pandas writes them with "
            "to_json(path, orient='records', lines=True)"
        )
    rows: list[Row] = []
    columns: dict[str, None] = {}
    full = 0
    for number, line in enumerate(io.StringIO(text), start=1):  # not splitlines, which also breaks at U+2028
        rows.append(_json_row(number, line))
        columns.update(dict.fromkeys(rows[-1].values))
        full = len(rows) if line.strip() else full
    if not columns:
        first = next((f", line {row.number}: {row.problem}" for row in rows[:full]), "")
        raise DataError(f"{argument}: expected JSON Lines in {path}, an object a line, found none{first}")
    return Table(path, "line", tuple(columns), rows[:full])


def _json_row(number: int, line: str) -> Row:
    if not line.strip():
        return Row(number, {}, "an empty line")
    try:
        values = json.loads(line.strip())
    except json.JSONDecodeError as error:
        return Row(number, {}, f"no JSON ({error.msg}: character {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return Row(number, {}, f"no JSON ({error})")
    if not isinstance(values, dict):
        return Row(number, {}, f"no object but {type(values).__name__}")
    return Row(number, values)


# Parquet


def _parquet(path: Path, argument: str) -> Table:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{argument}: expected the package pyarrow for {path}, found none ({error}); run pip install pyarrow"
        ) from error
    try:
        table = parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{argument}: expected a whole Parquet file, found {path}: {reason}") from error
    types = pa.types
    simple = [types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating]
    simple += [types.is_dictionary, types.is_null, types.is_decimal]
    simple += [types.is_string_view] if hasattr(types, "is_string_view") else []  # pyarrow 16 and newer
    columns = tuple(field.name for field in table.schema if any(is_it(field.type) for is_it in simple))
    passed = {field.name: str(field.type) for field in table.schema if field.name not in columns}
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{argument}: expected columns of different names in {path}, found {twice[0]!r} twice")
    if not columns:
        found = ", ".join(f"{name!r} ({kind})" for name, kind in passed.items()) or "none"
        raise DataError(f"{argument}: expected columns with texts and labels in {path}, found {found}")
    cells = {name: _values(table[name]) for name in columns}
    rows = [Row(number + 1, {name: cells[name][number] for name in columns}) for number in range(table.num_rows)]
    return Table(path, "row", columns, rows, _class_names(table.schema.metadata or {}), passed)


def _values(column: Any) -> list[Any]:
    """Returns a column's values. A value that cannot be read, such as a text that is not UTF-8, is bytes."""
    try:
        values: list[Any] = column.to_pylist()
        if str(column.type) == "float":  # of 32 bits: 1.1 would be 1.100000023841858
            values = [None if value is None else float(str(np.float32(value))) for value in values]
    except UnicodeDecodeError:
        values = []
        for value in column:
            try:
                values.append(value.as_py())
            except UnicodeDecodeError:
                values.append(value.as_buffer().to_pybytes())
    return values


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Returns the names of classes, as the library `datasets` writes them into its files."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}
