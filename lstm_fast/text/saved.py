"""The files of a run. Training writes them, and prediction reads them."""

from __future__ import annotations

from pathlib import Path

import keras

import lstm_fast.layers  # noqa: F401 - the classes that a file may name
from lstm_fast.errors import DataError

MODEL_FILE = "model.keras"
HISTORY_FILE = "history.json"
RUN_FILE = "run.json"
PLOT_FILE = "history.png"
VOCABULARY_FILE = "vocabulary.subwords"


def load_model(path: Path, argument: str) -> keras.Model:
    """Returns the model of a file.

    Args:
        path: The file.
        argument: The name of the file in error messages.

    Raises:
        DataError: It holds no model.
    """
    try:
        return keras.saving.load_model(path)
    except Exception as error:  # a damaged file makes zipfile, json, h5py or Keras raise, each in its own way
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{argument}: expected a whole Keras model in {path}, found {reason}") from error
