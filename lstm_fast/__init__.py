"""Keras LSTMs on fused kernels: the same layer, the same weights, the same results, several times faster."""

from typing import TYPE_CHECKING

from lstm_fast import environment

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
    "config",
    "export",
    "lstm",
    "recurrence",
    "status",
    "to_keras",
    "trim",
]

# The command imports Keras only when it needs it: `lstm-fast --help` does not wait for that.
if TYPE_CHECKING or not environment.IS_COMMAND:
    environment.prepare()  # before anything imports Keras

    from lstm_fast.backends import LstmFastWarning
    from lstm_fast.convert import accelerate, as_keras, to_keras
    from lstm_fast.diagnosis import status
    from lstm_fast.exports import export
    from lstm_fast.functional import lstm, recurrence
    from lstm_fast.layers import FastBidirectional, FastLSTM, FastRNN
    from lstm_fast.masks import ReversedMaskWarning
    from lstm_fast.memory import trim
    from lstm_fast.settings import config
