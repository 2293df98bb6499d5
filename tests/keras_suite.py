"""A pytest plugin that puts this package's layers in the place of Keras's, for a run of Keras's own tests.

After the tests it writes how many calls ran fused, and which fell back and why, to the file that LSTM_FAST_SUITE_STATUS
names.
"""

import json
import os
from pathlib import Path

import keras.src.layers
import pytest

import lstm_fast

keras.src.layers.LSTM = lstm_fast.FastLSTM
keras.src.layers.Bidirectional = lstm_fast.FastBidirectional


def pytest_sessionfinish(session: pytest.Session) -> None:  # noqa: ARG001
    Path(os.environ["LSTM_FAST_SUITE_STATUS"]).write_text(json.dumps(lstm_fast.status().as_dict()))
