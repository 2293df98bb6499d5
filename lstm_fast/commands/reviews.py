"""The reviews that the commands train on, as the arguments ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_fast.imdb.data import Data

# What a new run takes where the command line says nothing; a resumed one takes its own. The learning rate depends on
# the data.
DEFAULTS: dict[str, Any] = {
    "model": "single",
    "layer": "fast",
    "data": "auto",
    "vocabulary": None,
    "mask": False,
    "bucket": False,
    "batch_size": 64,
    "limit": None,
    "seed": 0,
}


def load(options: dict[str, Any]) -> Data:
    """Returns the reviews, and prints which these are."""
    from absl import logging as absl_logging

    from lstm_fast.imdb import data as reviews

    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns about its own encoders
    data = reviews.load(
        options["data"],
        vocabulary=options["vocabulary"],
        data_dir=options.get("data_dir"),
        batch_size=options["batch_size"],
        seed=options["seed"],
        bucket=options["bucket"],
        limit=options["limit"],
        report=print,
    )
    print(
        f"data: {data.source}, {len(data.train):,} reviews for training and {len(data.test):,} for testing, "
        f"vocabulary of {data.encoder.vocab_size:,}",
        flush=True,
    )
    return data


def learning_rate(options: dict[str, Any], data: Data) -> float:
    """Returns the learning rate that was asked for, or the one that suits the data."""
    from lstm_fast.imdb import models, sample

    default = sample.LEARNING_RATE if data.source == "sample" else models.LEARNING_RATE
    rate: float = options.get("learning_rate", default)
    return rate
