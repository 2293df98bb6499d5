"""`imdb_reviews` of TensorFlow Datasets, as ids of subwords."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from lstm_fast.errors import DataError
from lstm_fast.text import vocabulary
from lstm_fast.text.batches import Encoded
from lstm_fast.text.corpus import SPLITS, Report, SplitName

if TYPE_CHECKING:
    from tensorflow_datasets.deprecated.text import SubwordTextEncoder

PROBE_SECONDS = 5


def _config(encoder: SubwordTextEncoder | None) -> Any:
    """Returns the configuration that TFDS before 4.9.7 had under the name `subwords8k`."""
    from tensorflow_datasets.datasets.imdb_reviews.imdb_reviews_dataset_builder import IMDBReviewsConfig

    text = vocabulary.tfds().deprecated.text
    if encoder is None:
        name = "subwords8k"
        encoding = text.TextEncoderConfig(encoder_cls=text.SubwordTextEncoder, vocab_size=vocabulary.TARGET_SIZE)
    else:  # another folder for each vocabulary: in the same one, TFDS would return ids of the first vocabulary
        name = f"subwords8k_{vocabulary.digest(encoder)}"
        encoding = text.TextEncoderConfig(encoder=encoder)
    return IMDBReviewsConfig(name=name, description="IMDB reviews as subword ids", text_encoder_config=encoding)


def _archive(data_dir: str | Path | None) -> tuple[str, Path]:
    """Returns the address of the reviews, and the path of TFDS's download."""
    from tensorflow_datasets.core.download.resource import get_dl_fname

    tfds = vocabulary.tfds()
    ((url, info),) = tfds.builder_cls("imdb_reviews").url_infos.items()
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    return url, root / "downloads" / "imdb_reviews" / get_dl_fname(url, info.checksum)


def is_local(data_dir: str | Path | None) -> bool:
    """Whether TFDS has the reviews prepared or downloaded."""
    try:
        _, archive = _archive(data_dir)
    except DataError:
        return False
    prepared = archive.parents[2] / "imdb_reviews" / "subwords8k"
    return archive.exists() or any(prepared.glob("*/dataset_info.json"))


def load(
    encoder: SubwordTextEncoder | None, data_dir: str | Path | None, limit: int | None, report: Report
) -> tuple[SubwordTextEncoder, dict[SplitName, Encoded], tuple[str, ...]]:
    """Returns the vocabulary, the encoded reviews by split, and the names of the classes.

    Args:
        encoder: The vocabulary; None: that of `subwords8k`.
        data_dir: TFDS's folder; None: TFDS's own choice.
        limit: Use at most this number of reviews of each split.
        report: Called with a line about each slow step.

    Raises:
        DataError: There are no reviews on this machine, and no network.
    """
    tfds = vocabulary.tfds()
    builder = tfds.builder(
        "imdb_reviews", data_dir=None if data_dir is None else str(data_dir), config=_config(encoder)
    )
    if not builder.is_prepared():
        url, archive = _archive(data_dir)
        if not archive.exists():
            # Without a network TFDS would try again for minutes.
            if problem := _unreachable(url):
                raise DataError(
                    f"data: expected {url} within reach, because tfds has no copy in {archive.parents[2]}, found "
                    f"{problem}; use --data sample, or --data PATH with a downloaded aclImdb archive or folder"
                )
            report(f"downloading {url}")
        report("preparing imdb_reviews/subwords8k: minutes, the first time")
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    splits: dict[SplitName, Encoded] = {}
    for split in SPLITS:
        reviews = builder.as_dataset(split=split, as_supervised=True).take(-1 if limit is None else limit)
        ids, labels = zip(*reviews.ragged_batch(1000), strict=True)
        splits[split] = Encoded(tf.concat(ids, axis=0), tf.concat(labels, axis=0))
    features = builder.info.features
    return features["text"].encoder, splits, tuple(features["label"].names)


def _unreachable(url: str) -> str | None:
    """Returns why nothing answers at the address; None if something does. Takes seconds at most."""
    problem: str | None = f"no answer within {PROBE_SECONDS} s"

    def probe() -> None:
        nonlocal problem
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
            problem = None
        except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
            problem = str(error)

    # In a thread, because the time limit does not include the look-up of the name.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem
