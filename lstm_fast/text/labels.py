"""Which columns hold the texts and their labels, and what the labels are called."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from lstm_fast.errors import DataError
from lstm_fast.text.tables import Table

# The first of these that a file has, in capitals or not.
TEXT_NAMES = (
    *("text", "review", "sentence", "content", "comment", "message", "tweet", "body", "document", "article"),
    *("review_text", "reviewtext", "comment_text", "utterance", "question", "phrase", "headline", "title"),
    "description",
)
LABEL_NAMES = (
    *("label", "labels", "sentiment", "class", "category", "target", "polarity", "rating", "stars", "score"),
    *("intent", "emotion", "topic", "airline_sentiment"),
)
_WHOLE = re.compile(r"(-?\d+)\.0+")  # what pandas makes of whole numbers where one of them is missing


def text_column(table: Table, given: str | None, argument: str = "data") -> str:
    """Returns the name of the column with the texts: the one given, or guessed by its name.

    Raises:
        DataError: there is none; lists what there is.
    """
    if given is not None:
        return _given(table, given, "text_column")
    if found := _named(table, TEXT_NAMES) or _the_other(table, LABEL_NAMES):
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
    if found := _named(table, LABEL_NAMES, others) or (others[0] if len(others) == 1 else None):
        return found
    raise _unknown(table, "label", "data")


def label_of(value: Any, names: Sequence[str] = ()) -> str | None:
    """Returns the name of a cell's class; None where the cell has none.

    Args:
        value: of the cell.
        names: of the classes 0, 1, ..., where the file has them.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if names and isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else None  # -1: not labelled
    label = str(value).strip()
    if whole := _WHOLE.fullmatch(label):
        label = whole[1]
    return label or None


def ordered(labels: Iterable[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the classes in their order: that of `names` if it has them all, of numbers, or of the alphabet."""
    found = set(labels)
    if names and found <= set(names):
        return tuple(name for name in names if name in found)
    if all(re.fullmatch(r"-?\d+", label) for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _given(table: Table, name: str, argument: str) -> str:
    if name not in table.columns:
        raise DataError(f"{argument}: expected one of {_list(table)} of {table.path}, found {name!r}")
    return name


def _named(table: Table, names: Sequence[str], among: Sequence[str] | None = None) -> str | None:
    lowered = {column.lower(): column for column in reversed(table.columns if among is None else among)}
    return next((lowered[name] for name in names if name in lowered), None)


def _the_other(table: Table, names: Sequence[str]) -> str | None:
    """Of two columns the one beside a known name."""
    known = _named(table, names)
    others = [name for name in table.columns if name != known]
    return others[0] if known and len(others) == 1 else None


def _unknown(table: Table, what: str, argument: str) -> DataError:
    return DataError(
        f"{argument}: expected a column with the {what}s in {table.path}, found {_list(table)} and none with a usual "
        f"name; say which with --{what}-column (the first line of the file must hold the names of the columns)"
    )


def _list(table: Table) -> str:
    return ", ".join(map(repr, table.columns))
