"""Texts in, batches of token ids out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from lstm_fast.errors import DataError
from lstm_fast.text import corpus, sample, tfds
from lstm_fast.text import vocabulary as subwords
from lstm_fast.text.batches import Data, Encoded
from lstm_fast.text.corpus import SPLITS, Columns, Corpus, Report, Texts

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

SAMPLE_TRAIN, SAMPLE_TEST = 2000, 500

logger = logging.getLogger("lstm_fast")


def _quiet(message: str) -> None:
    """Reports nothing."""


def load(
    source: str | Path = "auto",
    *,
    vocabulary: str | Path | None = None,
    columns: Columns | None = None,
    data_dir: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    bucket: bool = False,
    limit: int | None = None,
    report: Report = _quiet,
    warn: Report = logger.warning,
) -> Data:
    """Loads, encodes and batches texts.

    Args:
        source: "sample" for the package's own corpus; "tfds" for `imdb_reviews` of TensorFlow Datasets, downloaded if
            need be; "auto" for "tfds" if that needs no network, else "sample"; or the path of a table (CSV, TSV, JSON
            Lines, Parquet), of a folder of tables or of class folders with .txt files, or of an archive of class
            folders (`.tar.gz`) such as aclImdb.
        vocabulary: A `.subwords` file. Default: the sample's own words; for TFDS `subwords8k`; for a path, a
            vocabulary built from the training text.
        columns: The columns of a table with texts and labels, and the share for testing. Default: `Columns()`.
        data_dir: TFDS's folder. Default: TFDS's own choice.
        batch_size: Texts in a batch; the last one of an epoch may hold fewer.
        seed: The seed for the order of the texts, for the split if there is none, and for the sample corpus.
        bucket: Whether to sort by length within windows of 100 batches. Batches then have little padding.
        limit: Use at most this number of texts for training, and for testing.
        report: Called with a line about each slow step and each guess.
        warn: Called with a line about rows that were skipped.

    Raises:
        DataError: The source or the vocabulary cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, found {limit}")
    if source == "auto":
        source = "tfds" if tfds.is_local(data_dir) else "sample"
    columns = columns or Columns()
    if source in ("sample", "tfds"):
        for name, value in vars(columns).items():
            if value is not None:
                argument = name if name == "test_share" else f"{name}_column"
                raise DataError(f"{argument}: expected none with {source}, found {value!r}; it is for data of your own")
    encoder = None if vocabulary is None else subwords.load(vocabulary)
    if source == "tfds":
        encoder, splits, classes = tfds.load(encoder, data_dir, limit, report)
        found = Corpus({}, classes)
    else:
        subwords.encoder_class()  # first: without it the texts would be read in vain
        found = _sample(seed) if source == "sample" else corpus.read(Path(source), columns, seed, report, warn)
        texts = _shuffled(found.texts, seed, limit)
        if encoder is None:
            encoder = (
                subwords.encoder_class()(vocab_list=list(sample.vocabulary()))
                if source == "sample"
                else subwords.build(texts["train"][0], report)
            )
        report(f"encoding {sum(len(labels) for _, labels in texts.values()):,} texts")
        splits = {split: encode(encoder, *texts[split]) for split in SPLITS}
    return Data(
        source=str(source if source in ("sample", "tfds") else Path(source).resolve()),
        classes=found.classes,
        encoder=encoder,
        train=splits["train"],
        test=splits["test"],
        batch_size=batch_size,
        seed=seed,
        bucket=bucket,
        skipped=found.skipped,
        columns=found.columns,
    )


def encode(encoder: SubwordTextEncoder, texts: list[str], labels: np.ndarray) -> Encoded:
    """Returns the texts as token ids, beside the numbers of their classes, int64 `[N]`."""
    ids = [encoder.encode(text) for text in texts]
    flat = np.fromiter((token for row in ids for token in row), np.int64, sum(map(len, ids)))
    return Encoded(tf.RaggedTensor.from_row_lengths(flat, [len(row) for row in ids]), tf.constant(labels))


def _sample(seed: int) -> Corpus:
    # Not seed and seed + 1: the test texts of one seed would be the training texts of the next.
    train_seed, test_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    texts: Texts = {
        "train": sample.generate(SAMPLE_TRAIN, train_seed),
        "test": sample.generate(SAMPLE_TEST, test_seed),
    }
    return Corpus(texts, ("negative", "positive"))


def _shuffled(texts: Texts, seed: int, limit: int | None) -> Texts:
    """Mixes the classes. A shuffle buffer smaller than the data would leave them apart."""
    mixed: Texts = {}
    for split in SPLITS:
        rows, labels = texts[split]
        order = np.random.default_rng(seed).permutation(len(rows))[:limit]
        mixed[split] = [rows[index] for index in order], labels[order]
    return mixed
