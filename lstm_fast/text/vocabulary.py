"""Vocabularies of subwords: they turn text into token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_fast.errors import DataError

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

TARGET_SIZE = 2**13
# Building a vocabulary from so much text takes about 35 s on two cores; from all of IMDB it takes minutes. The numbers
# of tokens of the reviews differ by 0.1 % between the two vocabularies.
CHARACTERS = 1_000_000
_BREAKS = frozenset("\r\n")


def load(path: str | Path) -> SubwordTextEncoder:
    """Loads a vocabulary that `SubwordTextEncoder.save_to_file` wrote.

    Args:
        path: The file, with or without its suffix `.subwords`.

    Raises:
        DataError: There is no such file, or it holds something else.
    """
    prefix = str(path).removesuffix(".subwords")
    file = Path(prefix + ".subwords")
    if not file.is_file():
        raise DataError(f"vocabulary: expected a .subwords file, found nothing at {file}")
    try:
        lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
        entries = [line for line in lines if not line.startswith("#")]
        if not entries or not all(len(line) > 2 and line[0] == line[-1] == "'" for line in entries):
            raise ValueError("no list of quoted subwords")
        return encoder_class().load_from_file(prefix)
    except (OSError, ValueError) as error:  # ValueError is also what TFDS raises for a wrong header
        raise DataError(
            f"vocabulary: expected a file written by SubwordTextEncoder.save_to_file, found {error} in {file}"
        ) from error


def save(encoder: SubwordTextEncoder, path: Path) -> None:
    """Writes the vocabulary so that `load` reads it; `path` ends in `.subwords`."""
    encoder.save_to_file(str(path).removesuffix(".subwords"))


def digest(encoder: SubwordTextEncoder) -> str:
    """Returns a digest of the vocabulary's entries in their order."""
    return hashlib.sha256("\n".join(encoder.subwords).encode()).hexdigest()[:16]


def tfds() -> Any:
    """Returns the package tensorflow_datasets; raises DataError if it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"data: expected the package tensorflow-datasets, found {error}; "
            "run pip install tensorflow tensorflow-datasets importlib_resources"
        ) from error
    return tensorflow_datasets


def encoder_class() -> Any:
    """Returns TFDS's `SubwordTextEncoder`."""
    return tfds().deprecated.text.SubwordTextEncoder


def build(texts: list[str], report: Callable[[str], None]) -> SubwordTextEncoder:
    """Builds a vocabulary from text.

    Raises:
        DataError: There is too little text.
    """
    characters = sum(map(len, texts))
    used = min(characters, CHARACTERS)
    report(f"building a vocabulary from {used:,} of {characters:,} characters of training text: up to a minute")
    try:
        encoder = encoder_class().build_from_corpus(texts, TARGET_SIZE, max_corpus_chars=CHARACTERS)
        # The file has one subword per line, so it cannot hold a line break. Without such subwords it is its own token.
        return encoder_class()([word for word in encoder.subwords if not _BREAKS.intersection(word)])
    except ValueError as error:
        raise DataError(f"data: expected training text to build a vocabulary from, found {error}") from error
