"""Keras LSTMs on fused kernels: the same layer, the same weights, the same results, several times faster."""

# ruff: noqa: E402
from lstm_fast import environment

environment.prepare()  # before anything imports Keras

from lstm_fast.backends import LstmFastWarning
from lstm_fast.convert import accelerate, as_keras, to_keras
from lstm_fast.functional import lstm, recurrence
from lstm_fast.layers import FastBidirectional, FastLSTM, FastRNN
from lstm_fast.masks import ReversedMaskWarning
from lstm_fast.status import status, trim

__version__ = "0.1.0"

__all__ = [
    "FastBidirectional",
    "FastLSTM",
    "FastRNN",
    "LstmFastWarning",
    "ReversedMaskWarning",
    "__version__",
    "accelerate",
    "as_keras",
    "lstm",
    "recurrence",
    "status",
    "to_keras",
    "trim",
]
