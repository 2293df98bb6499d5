"""Loads the texts that the arguments of a command name."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from lstm_fast.commands.packages import require
from lstm_fast.commands.start import without_start_up_messages

if TYPE_CHECKING:
    from lstm_fast.commands.heartbeat import Heartbeat
    from lstm_fast.text.batches import Data

# Defaults of a new run. A resumed run has its own settings. The default of the learning rate depends on the data.
DEFAULTS: dict[str, Any] = {
    "model": "single",
    "layer": "fast",
    "data": "auto",
    "vocabulary": None,
    "text_column": None,
    "label_column": None,
    "test_share": None,
    "mask": False,
    "bucket": False,
    "batch_size": 64,
    "limit": None,
    "seed": 0,
}


def prepare(
    command: str, packages: tuple[str, ...] = ("tensorflow", "tensorflow_datasets", "matplotlib", "rich")
) -> None:
    """Prepares TensorFlow: it encodes and batches texts, on every backend of Keras.

    Args:
        command: The command that needs it.
        packages: The packages that the command needs.

    Raises:
        CommandError: A package is not installed.
    """
    require(command, *packages)
    import keras

    if keras.backend.backend() == "jax":  # token ids come as int64, and fit into int32
        warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
    if keras.backend.backend() != "tensorflow":
        with without_start_up_messages():
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")  # TensorFlow would take the memory that the other framework needs
            tf.constant(0)
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns about its own encoders


def warn(line: str) -> None:
    """Prints a warning."""
    print(f"lstm-fast: warning: {line}", file=sys.stderr, flush=True)


def load(options: dict[str, Any], heartbeat: Heartbeat) -> Data:
    """Returns the texts, and prints a line about them."""
    from lstm_fast.text import data as texts
    from lstm_fast.text.corpus import Columns

    data = texts.load(
        options["data"],
        vocabulary=options["vocabulary"],
        columns=Columns(options["text_column"], options["label_column"], options["test_share"]),
        data_dir=options.get("data_dir"),
        batch_size=options["batch_size"],
        seed=options["seed"],
        bucket=options["bucket"],
        limit=options["limit"],
        report=heartbeat.report,
        warn=warn,
    )
    heartbeat.report(
        f"data: {data.source}, {len(data.train):,} texts for training and {len(data.test):,} for testing, "
        f"vocabulary of {data.encoder.vocab_size:,}"
    )
    return data


def learning_rate(options: dict[str, Any], data: Data) -> float:
    """Returns the user's learning rate, or the default for the data."""
    from lstm_fast.text import models, sample

    default = sample.LEARNING_RATE if data.source == "sample" else models.LEARNING_RATE
    rate: float = options.get("learning_rate", default)
    return rate
