"""Keras LSTMs on fused kernels: the same layer, the same weights, the same results, several times faster."""

import os
import sys

if os.path.basename(next(iter(sys.argv), "")) == "lstm-fast":
    # The command's own output is not to drown in TensorFlow's start-up messages, which can only be turned off here,
    # before it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from lstm_fast.backends import LstmFastWarning
from lstm_fast.convert import accelerate, to_keras
from lstm_fast.functional import lstm, recurrence
from lstm_fast.layers import FastBidirectional, FastLSTM
from lstm_fast.masks import ReversedMaskWarning
from lstm_fast.status import status, trim

__version__ = "0.1.0"

__all__ = [
    "FastBidirectional",
    "FastLSTM",
    "LstmFastWarning",
    "ReversedMaskWarning",
    "__version__",
    "accelerate",
    "lstm",
    "recurrence",
    "status",
    "to_keras",
    "trim",
]
