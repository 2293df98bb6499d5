"""Speed and memory of the layers beside Keras's own and other frameworks' LSTMs, and a report of the results."""

import os
import sys
from pathlib import Path

# Before TensorFlow and JAX are imported.
os.environ["LSTM_FAST_KERNEL"] = "fused"  # a fallback would time Keras against Keras
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The tolerances, and the proof that the kernels ran, are those of the tests; pytest finds them by itself.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

# Names of contenders, which the report knows too.
BASELINE = "Keras graph"  # whose results the others must reproduce
XLA = "Keras XLA"
FAST = "FastLSTM"
TWO_CALLS = "two FastLSTM"
ON_NUMPY = "lstm_fast on NumPy"
PYTORCH = "PyTorch"
PYTORCH_NATIVE = "PyTorch (native)"
