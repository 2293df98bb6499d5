"""The classes of new texts, by a trained model."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from lstm_fast.errors import DataError
from lstm_fast.text import labels, tables, vocabulary
from lstm_fast.text.batches import padded_length
from lstm_fast.text.corpus import Report
from lstm_fast.text.saved import MODEL_FILE, RUN_FILE, VOCABULARY_FILE, load_model

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

logger = logging.getLogger("lstm_fast")


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to be classified.

    Attributes:
        number: Its line, from 1; in Parquet its row.
        content: The text; None if there is none.
        problem: Why there is none.
    """

    number: int
    content: str | None
    problem: str = ""


def read_texts(
    source: str, column: str | None, usual: str | None = None, warn: Report = logger.warning
) -> tuple[str, list[Text]]:
    """Reads texts.

    Args:
        source: A file with one text per line (`.txt`, or a name without a suffix), a table, or "-" for stdin.
        column: The column of a table with the texts; None: it is guessed.
        usual: The column in the model's training data: the first guess.
        warn: Called with a line if lines of text look like those of a table.

    Returns:
        "line" or "row", what the numbers count; and the texts.

    Raises:
        DataError: Nothing can be read, or there is no text in it.
    """
    path = Path(source)
    if source != "-" and (path.is_dir() or not path.exists()):  # a pipe is good, too
        found = "the folder" if path.is_dir() else "nothing at"
        raise DataError(f"texts: expected a file or - for stdin, found {found} {source}")
    if source != "-" and tables.kind(path):
        table = tables.read(path, "texts")
        guess = usual if column is None and usual in table.columns else column
        name = labels.text_column(table, guess, "texts")
        unit = table.unit
        texts = [_text(row.number, row.values.get(name), row.problem) for row in table.rows]
    else:
        if column is not None:
            raise DataError(f"text_column: expected none for lines of text, found {column!r}")
        if source != "-" and Path(path.name.lower().removesuffix(".gz")).suffix not in ("", ".txt"):
            known = ", ".join(tables.SUFFIXES)
            raise DataError(f"texts: expected a .txt file with a text a line, or one of {known}, found {source}")
        content = sys.stdin.buffer.read() if source == "-" else tables.read_bytes(path, "texts")
        lines = io.StringIO(tables.decode(content, "stdin" if source == "-" else path, "texts"))
        unit = "line"
        texts = [_text(number, line, "") for number, line in enumerate(lines, start=1)]
        if texts and _begins_a_table(texts[0].content or "", usual):
            warn(
                "the first line looks like that of a table, but each line is taken for a text; for a table, give a "
                f"file that ends in one of {', '.join(tables.SUFFIXES)}"
            )
    if all(text.content is None for text in texts):
        raise DataError(f"texts: expected at least one text in {'stdin' if source == '-' else source}, found none")
    return unit, texts


def _begins_a_table(line: str, column: str | None) -> bool:
    """Whether a line is a JSON object, or contains the name of the column beside other names."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return isinstance(json.loads(line), dict)
    cells = [cell.strip().strip('"') for cell in re.split(r"[,;\t]", line)]
    return len(cells) > 1 and column in cells


def _text(number: int, value: Any, problem: str) -> Text:
    content, reason = tables.text_of(value)
    return Text(number, content, problem or reason)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with everything that is needed to use it.

    Attributes:
        model: A model from token ids to logits.
        encoder: The vocabulary that it was trained with.
        classes: The names of the classes.
        column: The column with the texts in its training data, if that had columns.
    """

    model: keras.Model
    encoder: SubwordTextEncoder
    classes: tuple[str, ...]
    column: str | None = None

    def probabilities(
        self, texts: list[str], batch_size: int = 64, progress: Callable[[int], None] = lambda _: None
    ) -> np.ndarray:
        """Returns the probabilities of all classes, float64 `[N, classes]`.

        A model that does not mask padding takes it for text. So the padding of a text depends only on its own length,
        and its result does not depend on the other texts.

        Args:
            texts: The texts. None of them may be empty.
            batch_size: The largest number of texts in a batch.
            progress: Called with the number of texts after each batch.
        """
        ids = [self.encoder.encode(text) for text in texts]
        padded = padded_length(np.array([len(row) for row in ids], np.int64))
        logits = np.zeros((len(ids), self.model.output_shape[-1]))
        for length in np.unique(padded):
            members = np.flatnonzero(padded == length)
            for start in range(0, len(members), batch_size):
                chosen = members[start : start + batch_size]
                batch = np.zeros((len(chosen), length), np.int64)
                for row, index in zip(batch, chosen, strict=True):
                    row[: len(ids[index])] = ids[index]
                logits[chosen] = keras.ops.convert_to_numpy(self.model.predict_on_batch(batch))
                progress(len(chosen))
        if logits.shape[1] == 1:  # the logit of the second class; that of the first class is 0
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return shares


def load(path: Path, vocabulary_file: str | Path | None = None) -> Classifier:
    """Loads a model.

    Args:
        path: The folder of a run, or a `.keras` file. Beside the file are the names of the classes (`run.json`) and the
            vocabulary (`vocabulary.subwords`).
        vocabulary_file: Another vocabulary.

    Raises:
        DataError: There is no such model, or it does not fit the files beside it.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"model: expected the folder of a run, or its {MODEL_FILE}, found nothing at {file}")
    model = load_model(file, "model")
    embeddings = [layer for layer in model.layers if isinstance(layer, keras.layers.Embedding)]
    shape = model.output_shape
    if not embeddings or not isinstance(shape, tuple) or len(shape) != 2:
        raise DataError(
            f"model: expected a model of lstm-fast train, from token ids to logits, found another in {file}"
        )
    encoder = vocabulary.load(vocabulary_file or file.with_name(VOCABULARY_FILE))
    if encoder.vocab_size != embeddings[0].input_dim:
        raise DataError(
            f"vocabulary: expected the one that {file} was trained with, of {embeddings[0].input_dim:,}, found one of "
            f"{encoder.vocab_size:,}"
        )
    count = max(2, shape[-1])
    described = _description(file.with_name(RUN_FILE))
    classes = tuple(map(str, described.get("classes") or range(count)))
    if len(classes) != count:
        raise DataError(
            f"model: expected a model of {len(classes)} classes, as {RUN_FILE} has, found {count} in {file}"
        )
    return Classifier(model, encoder, classes, (described.get("columns") or [None])[0])


def _description(file: Path) -> dict[str, Any]:
    """Returns the description of the data in `run.json`; empty if there is no such file."""
    if not file.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["data"]
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"model: expected what train has written in {file}, found {error!r}") from error
