"""Finds the columns with the texts and the labels, and the names of the classes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lstm_fast.errors import DataError
from lstm_fast.text.tables import Table

# The first of these names that a file has is taken, in capitals or not.
TEXT_NAMES = (
    *("text", "review", "sentence", "content", "comment", "message", "tweet", "body", "document", "article"),
    *("review_text", "reviewtext", "comment_text", "utterance", "question", "phrase", "headline", "title"),
    "description",
)
LABEL_NAMES = (
    *("label", "labels", "sentiment", "class", "category", "target", "polarity", "rating", "stars", "score"),
    *("intent", "emotion", "topic", "airline_sentiment"),
)
# At most 18 digits: every reader of numbers takes these. pandas writes whole numbers as 1.0 if one of them is missing.
_WHOLE = re.compile(r"-?\d{1,18}")
_DECIMAL = re.compile(r"(-?\d{1,18})(?:\.(\d{1,18}))?")
_LONGEST = 40  # how many characters of a name are shown


def text_column(table: Table, given: str | None, argument: str = "data") -> str:
    """Returns the name of the column with the texts: the user's, or one that is guessed by its name.

    Raises:
        DataError: There is none. The message lists the columns.
    """
    if given is not None:
        return _given(table, given, "text_column")
    if found := _named(table, TEXT_NAMES):
        return found
    if not _named(table, TEXT_NAMES, tuple(table.passed)):
        if found := _the_other(table, LABEL_NAMES):
            return found
        if len(table.columns) == 1:
            return table.columns[0]
    raise _unknown(table, "text", argument)


def label_column(table: Table, text: str, given: str | None) -> str:
    """Returns the name of the column with the labels, as `text_column` does."""
    if given is not None:
        column = _given(table, given, "label_column")
        if column == text:
            raise DataError(f"label_column: expected another column than that of the texts, found {column!r} for both")
        return column
    others = [name for name in table.columns if name != text]
    if found := _named(table, LABEL_NAMES, others):
        return found
    if len(others) == 1 and not _named(table, LABEL_NAMES, tuple(table.passed)):
        return others[0]
    raise _unknown(table, "label", "data")


def label_of(value: Any, names: Sequence[str] = ()) -> tuple[str | None, str]:
    """Returns the name of a cell's class, or None and why there is none.

    Args:
        value: The value of the cell.
        names: The names of the classes 0, 1, ..., if the file has them.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, "no label"
    if isinstance(value, list | dict | bytes):
        return None, f"no label but {type(value).__name__} {str(value)[:30]!r}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if names and isinstance(value, int) and not isinstance(value, bool):
        return (names[value], "") if 0 <= value < len(names) else (None, "no label")  # -1: not labelled
    try:
        label = str(value).strip()
        label.encode()
    except UnicodeEncodeError:
        return None, "half a character (a lone surrogate) in the label"
    except ValueError:  # a whole number of thousands of digits
        return None, "no label but a number of thousands of digits"
    return (_one_spelling(label), "") if label else (None, "no label")


def _one_spelling(label: str) -> str:
    """Returns a label unchanged, but a decimal number in its shortest spelling: 1.0 and 1 are one class."""
    number = _DECIMAL.fullmatch(label)
    if number is None:
        return label
    whole, part = number[1], (number[2] or "").rstrip("0")
    if not part:
        return "0" if whole == "-0" else whole
    return f"{whole}.{part}"


def shown(name: str) -> str:
    """Returns the name of a class in a form that fits into a line of output."""
    if len(name) > _LONGEST:
        return f"{name[:_LONGEST]!r}..."
    return name if name.isprintable() else repr(name)


def ordered(labels: Iterable[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the classes in their order: that of `names` if it has them all, of numbers, or of the alphabet."""
    found = set(labels)
    if names and found <= set(names):
        return tuple(name for name in names if name in found)
    if all(map(_WHOLE.fullmatch, found)):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _given(table: Table, name: str, argument: str) -> str:
    if name not in table.columns:
        raise DataError(f"{argument}: expected one of {_list(table)} of {table.path}, found {name!r}{_passed(table)}")
    return name


def _named(table: Table, names: Sequence[str], among: Sequence[str] | None = None) -> str | None:
    lowered = {column.lower(): column for column in reversed(table.columns if among is None else among)}
    return next((lowered[name] for name in names if name in lowered), None)


def _the_other(table: Table, names: Sequence[str]) -> str | None:
    """Returns the second of two columns if the first has a known name; else None."""
    known = _named(table, names)
    others = [name for name in table.columns if name != known]
    return others[0] if known and len(others) == 1 else None


def _unknown(table: Table, what: str, argument: str) -> DataError:
    first = " (the first line of the file must hold the names of the columns)" if table.names_in_first_line else ""
    return DataError(
        f"{argument}: expected a column with the {what}s in {table.path}, found {_list(table)} and none with a usual "
        f"name; say which with --{what}-column{first}{_passed(table)}"
    )


def _list(table: Table) -> str:
    return ", ".join(map(repr, table.columns))


def _passed(table: Table) -> str:
    """Returns a note about the columns that cannot hold texts or labels."""
    if not table.passed:
        return ""
    found = ", ".join(f"{name!r} ({kind})" for name, kind in table.passed.items())
    return f"; left out, because neither texts nor numbers: {found}"
