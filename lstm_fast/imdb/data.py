"""Reviews in, padded batches of token ids out."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tarfile
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tensorflow as tf

from lstm_fast.errors import CommandError
from lstm_fast.imdb import sample

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

Report = Callable[[str], None]
SplitName = Literal["train", "test"]
Texts = dict[SplitName, tuple[list[str], np.ndarray]]

SAMPLE_TRAIN, SAMPLE_TEST = 2000, 500
BUCKET_WINDOW = 100  # batches that are sorted by length together
TARGET_VOCABULARY = 2**13
# Building a vocabulary takes about 35 s from so much text on two cores, minutes from all of IMDB; token counts of the
# reviews then differ by 0.1 % from those with the vocabulary built from all text.
VOCABULARY_CHARACTERS = 1_000_000
PROBE_SECONDS = 5

_SPLITS: tuple[SplitName, ...] = ("train", "test")
_MEMBER = re.compile(r"(?:^|/)(?P<split>train|test)/(?P<label>neg|pos)/[^/]+\.txt$")
_LAYOUT = "reviews as train/pos/*.txt, train/neg/*.txt, test/pos/*.txt and test/neg/*.txt, perhaps inside aclImdb/"


class DataError(CommandError):
    """Reviews or a vocabulary that cannot be used: the message names the argument, what was expected and found."""


@dataclasses.dataclass(frozen=True)
class Reviews:
    """Encoded reviews: `ids` ragged int64 `[N, (length)]`, `labels` int64 `[N]`, 1 for positive."""

    ids: tf.RaggedTensor
    labels: tf.Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclasses.dataclass(frozen=True)
class Data:
    """What `load` returns.

    Attributes:
        source: "sample", "tfds", or the path that was read.
        encoder: has `vocab_size`, `encode(text) -> ids` and `decode(ids) -> text`.
        train: reviews for training.
        test: reviews for testing.
        batch_size: reviews in a batch; the last one of an epoch may hold fewer.
        seed: of the order.
        bucket: whether batches hold reviews of like length.
    """

    source: str
    encoder: SubwordTextEncoder
    train: Reviews
    test: Reviews
    batch_size: int
    seed: int
    bucket: bool

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return -(-len(self.train) // self.batch_size)

    @property
    def fingerprint(self) -> str:
        """A digest of all ids and labels."""
        digest = hashlib.sha256()
        for reviews in (self.train, self.test):
            for array in (reviews.ids.flat_values, reviews.ids.row_lengths(), reviews.labels):
                digest.update(np.asarray(array).tobytes())
        return digest.hexdigest()[:16]

    def train_batches(self, first_epoch: int = 0) -> tf.data.Dataset:
        """Endless batches for training, `steps_per_epoch` an epoch, each epoch in an order of its own.

        The order depends on the seed and the epoch's number alone, so that training can be resumed at any epoch. All
        reviews are mixed: it is their indices that are shuffled, which needs no buffer (of 10,000 reviews in
        TensorFlow's tutorial).

        Args:
            first_epoch: number of the epoch to begin with.

        Returns:
            Pairs of ids int64 `[B, T]`, padded with 0 to the longest of the batch, and labels int64 `[B]`.
        """
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        return self._padded(self.train, epochs.flat_map(lambda epoch: self._indices(self.train, [self.seed, epoch])))

    def test_batches(self) -> tf.data.Dataset:
        """The batches for testing, always in the same order; elements as in `train_batches`."""
        return self._padded(self.test, self._indices(self.test, None))

    def _indices(self, reviews: Reviews, seed: Any) -> tf.data.Dataset:
        """Indices of the reviews of each batch of one epoch; with a seed of two numbers, shuffled."""
        order = tf.range(len(reviews), dtype=tf.int64)
        starts = tf.range(0, len(reviews), self.batch_size)
        if seed is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed)
        if self.bucket:
            lengths = tf.gather(reviews.ids.row_lengths(), order)
            window = tf.range(len(reviews), dtype=tf.int64) // (BUCKET_WINDOW * self.batch_size)
            order = tf.gather(order, tf.argsort(window * (tf.reduce_max(lengths) + 1) + lengths, stable=True))
            if seed is not None:
                starts = tf.random.experimental.stateless_shuffle(starts, seed)
        return tf.data.Dataset.from_tensor_slices(starts).map(lambda start: order[start : start + self.batch_size])

    def _padded(self, reviews: Reviews, indices: tf.data.Dataset) -> tf.data.Dataset:
        def pad(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.gather(reviews.ids, index).to_tensor(), tf.gather(reviews.labels, index)

        return indices.map(pad, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _quiet(message: str) -> None:
    """Reports nothing."""


def load(
    source: str | Path = "auto",
    *,
    vocabulary: str | Path | None = None,
    data_dir: str | Path | None = None,
    batch_size: int = 64,
    seed: int = 0,
    bucket: bool = False,
    limit: int | None = None,
    report: Report = _quiet,
) -> Data:
    """Loads, encodes and batches reviews.

    Args:
        source: "sample" for the package's own corpus; "tfds" for `imdb_reviews` of TensorFlow Datasets, downloaded if
            need be; "auto" for "tfds" where that needs no network, else "sample"; or the path of a folder or archive
            (`.tar.gz`) in the layout of aclImdb.
        vocabulary: a `.subwords` file. Default: the sample's own words; for TFDS `subwords8k`; for a path, a
            vocabulary built from the training text.
        data_dir: TFDS's folder; default: TFDS's own choice.
        batch_size: reviews in a batch; the last one of an epoch may hold fewer.
        seed: of the order of the reviews, and of the sample corpus.
        bucket: whether to sort by length within windows of 100 batches, which leaves little padding.
        limit: use at most so many reviews for training, and for testing.
        report: gets a line on each slow step.

    Raises:
        DataError: the source or the vocabulary cannot be used.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, found {batch_size}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, found {limit}")
    if source == "auto":
        source = "tfds" if _tfds_is_local(data_dir) else "sample"
    encoder = None if vocabulary is None else load_vocabulary(vocabulary)
    if source == "tfds":
        encoder, splits = _load_tfds(encoder, data_dir, limit, report)
    else:
        texts = _sample_texts(seed) if source == "sample" else _read_texts(Path(source))
        texts = _shuffled(texts, seed, limit)
        if encoder is None:
            encoder = (
                _encoder_class()(vocab_list=list(sample.vocabulary()))
                if source == "sample"
                else _build_vocabulary(texts["train"][0], report)
            )
        report(f"encoding {sum(len(labels) for _, labels in texts.values()):,} reviews")
        splits = {split: _encode(encoder, *texts[split]) for split in _SPLITS}
    return Data(
        source=str(source if source in ("sample", "tfds") else Path(source).resolve()),
        encoder=encoder,
        train=splits["train"],
        test=splits["test"],
        batch_size=batch_size,
        seed=seed,
        bucket=bucket,
    )


def load_vocabulary(path: str | Path) -> SubwordTextEncoder:
    """Loads a vocabulary that `SubwordTextEncoder.save_to_file` wrote.

    Args:
        path: the file, with or without its suffix `.subwords`.

    Raises:
        DataError: there is no such file, or it holds something else.
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
        return _encoder_class().load_from_file(prefix)
    except (OSError, ValueError) as error:  # ValueError is also what TFDS raises for a wrong header
        raise DataError(
            f"vocabulary: expected a file written by SubwordTextEncoder.save_to_file, found {error} in {file}"
        ) from error


def save_vocabulary(encoder: SubwordTextEncoder, path: Path) -> None:
    """Writes the vocabulary so that `load_vocabulary` reads it; `path` ends in `.subwords`."""
    encoder.save_to_file(str(path).removesuffix(".subwords"))


def vocabulary_digest(encoder: SubwordTextEncoder) -> str:
    """A digest of the vocabulary's entries in their order."""
    return hashlib.sha256("\n".join(encoder.subwords).encode()).hexdigest()[:16]


def _tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"data: expected the package tensorflow-datasets, found {error}; run pip install "
            "tensorflow-datasets importlib_resources, or pip install '.[imdb]' in the source folder of lstm_fast"
        ) from error
    return tfds


def _encoder_class() -> Any:
    return _tfds().deprecated.text.SubwordTextEncoder


def _build_vocabulary(texts: list[str], report: Report) -> SubwordTextEncoder:
    characters = sum(map(len, texts))
    used = min(characters, VOCABULARY_CHARACTERS)
    report(f"building a vocabulary from {used:,} of {characters:,} characters of training text: up to a minute")
    try:
        return _encoder_class().build_from_corpus(texts, TARGET_VOCABULARY, max_corpus_chars=VOCABULARY_CHARACTERS)
    except ValueError as error:
        raise DataError(f"data: expected training text to build a vocabulary from, found {error}") from error


# Texts


def _sample_texts(seed: int) -> Texts:
    # Seeds of one call may not meet those of another.
    train_seed, test_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    return {
        "train": sample.generate(SAMPLE_TRAIN, train_seed),
        "test": sample.generate(SAMPLE_TEST, test_seed),
    }


def _read_texts(path: Path) -> Texts:
    if not path.exists():
        raise DataError(f"data: expected a folder or a .tar.gz archive with {_LAYOUT}, found nothing at {path}")
    found: dict[tuple[str, str], list[tuple[str, bytes]]] = {}
    for name, content in _read_folder(path) if path.is_dir() else _read_archive(path):
        if match := _MEMBER.search(name):
            found.setdefault((match["split"], match["label"]), []).append((name, content))
    missing = [f"{split}/{label}" for split in _SPLITS for label in ("pos", "neg") if (split, label) not in found]
    if missing:
        raise DataError(f"data: expected {_LAYOUT}; found no .txt in {', '.join(missing)} of {path}")
    texts: Texts = {}
    for split in _SPLITS:
        files = [(file, label) for label, name in enumerate(("neg", "pos")) for file in sorted(found[split, name])]
        try:
            contents = [_decode(*file) for file, _ in files]
        except UnicodeDecodeError as error:
            raise DataError(f"data: expected UTF-8 text in {path}, found {error}") from error
        texts[split] = contents, np.array([label for _, label in files], np.int64)
    return texts


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        error.reason += f" ({name})"
        raise


def _read_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    for split in _SPLITS:
        for label in ("neg", "pos"):
            for file in (root / split / label).glob("*.txt"):
                yield file.relative_to(root).as_posix(), file.read_bytes()


def _read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and _MEMBER.search(member.name) and (file := archive.extractfile(member)):
                    yield member.name, file.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # of several lines, one for each kind of compression
        raise DataError(f"data: expected a whole .tar.gz archive, found {path}: {reason}") from error


def _shuffled(texts: Texts, seed: int, limit: int | None) -> Texts:
    """Mixes the classes, which a shuffle buffer smaller than the data would leave apart."""
    mixed: Texts = {}
    for split in _SPLITS:
        reviews, labels = texts[split]
        order = np.random.default_rng(seed).permutation(len(reviews))[:limit]
        mixed[split] = [reviews[index] for index in order], labels[order]
    return mixed


def _encode(encoder: SubwordTextEncoder, texts: list[str], labels: np.ndarray) -> Reviews:
    ids = [encoder.encode(text) for text in texts]
    flat = np.fromiter((token for review in ids for token in review), np.int64, sum(map(len, ids)))
    return Reviews(tf.RaggedTensor.from_row_lengths(flat, [len(review) for review in ids]), tf.constant(labels))


# TensorFlow Datasets


def _tfds_config(encoder: SubwordTextEncoder | None) -> Any:
    """The configuration that TFDS had under the name `subwords8k` before 4.9.7 dropped it."""
    from tensorflow_datasets.datasets.imdb_reviews.imdb_reviews_dataset_builder import IMDBReviewsConfig

    text = _tfds().deprecated.text
    if encoder is None:
        name = "subwords8k"
        encoding = text.TextEncoderConfig(encoder_cls=text.SubwordTextEncoder, vocab_size=TARGET_VOCABULARY)
    else:  # a folder of its own, or TFDS would hand out ids of whichever vocabulary came first
        name = f"subwords8k_{vocabulary_digest(encoder)}"
        encoding = text.TextEncoderConfig(encoder=encoder)
    return IMDBReviewsConfig(name=name, description="IMDB reviews as subword ids", text_encoder_config=encoding)


def _tfds_archive(data_dir: str | Path | None) -> tuple[str, Path]:
    """The address of the reviews, and where TFDS keeps its download."""
    from tensorflow_datasets.core.download.resource import get_dl_fname

    tfds = _tfds()
    ((url, info),) = tfds.builder_cls("imdb_reviews").url_infos.items()
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    return url, root / "downloads" / "imdb_reviews" / get_dl_fname(url, info.checksum)


def _tfds_is_local(data_dir: str | Path | None) -> bool:
    """Whether TFDS has the reviews prepared or downloaded."""
    try:
        _, archive = _tfds_archive(data_dir)
    except DataError:
        return False
    prepared = archive.parents[2] / "imdb_reviews" / "subwords8k"
    return archive.exists() or any(prepared.glob("*/dataset_info.json"))


def _load_tfds(
    encoder: SubwordTextEncoder | None, data_dir: str | Path | None, limit: int | None, report: Report
) -> tuple[SubwordTextEncoder, dict[SplitName, Reviews]]:
    tfds = _tfds()
    builder = tfds.builder(
        "imdb_reviews", data_dir=None if data_dir is None else str(data_dir), config=_tfds_config(encoder)
    )
    if not builder.is_prepared():
        url, archive = _tfds_archive(data_dir)
        if not archive.exists():
            # Without a network TFDS itself tries again for minutes.
            if problem := _unreachable(url):
                raise DataError(
                    f"data: expected {url} within reach, as tfds has no copy in {archive.parents[2]}, found {problem}; "
                    "use --data sample, or --data PATH with a downloaded aclImdb archive or folder"
                )
            report(f"downloading {url}")
        report("preparing imdb_reviews/subwords8k: minutes, the first time")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    splits: dict[SplitName, Reviews] = {}
    for split in _SPLITS:
        reviews = builder.as_dataset(split=split, as_supervised=True).take(-1 if limit is None else limit)
        ids, labels = zip(*reviews.ragged_batch(1000), strict=True)
        splits[split] = Reviews(tf.concat(ids, axis=0), tf.concat(labels, axis=0))
    return builder.info.features["text"].encoder, splits


def _unreachable(url: str) -> str | None:
    """Why nothing answers at the address; None if something does. Returns within seconds."""
    problem: str | None = f"no answer within {PROBE_SECONDS} s"

    def probe() -> None:
        nonlocal problem
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            problem = None
        except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
            problem = str(error)

    # A thread, since the time limit does not cover looking up the name.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem
