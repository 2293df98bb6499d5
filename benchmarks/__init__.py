"""Speed and memory of the layers beside Keras's own and other frameworks' LSTMs, and a report of the results."""

import importlib.util
import os
import sys
from pathlib import Path

# These must be set before TensorFlow and JAX are imported.
os.environ["LSTM_FAST_KERNEL"] = "fused"  # because a fallback would time Keras against Keras
# benchmarks/test_gpu.py runs on this: cuda, or cpu, which only tries it. All others run on the CPU.
DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")
if DEVICE == "cuda":
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some of the memory, too
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
elif DEVICE == "cpu":
    # Without TensorFlow only benchmarks.gpu, which measures in processes of its own, and the report run.
    usual = "tensorflow" if importlib.util.find_spec("tensorflow") else "torch"
    os.environ["KERAS_BACKEND"] = os.environ.get("BENCHMARK_BACKEND", usual)  # the suite `backends` sets it, one by one
    os.environ["JAX_PLATFORMS"] = "cpu"
else:
    raise ValueError(f"BENCHMARK_DEVICE: expected cpu or cuda, found {DEVICE!r}")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Benchmarks use the tolerances of the tests, and their proof that the kernels ran. pytest finds them by itself.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

# Names of contenders, which the report knows too.
BASELINE = "Keras graph"  # the others must reproduce its results
XLA = "Keras XLA"
FAST = "FastLSTM"
FAST_XLA = "FastLSTM XLA"
TWO_CALLS = "two FastLSTM"
ON_NUMPY = "lstm_fast on NumPy"
PYTORCH = "PyTorch"
PYTORCH_NATIVE = "PyTorch (native)"
ONNX_RUNTIME = "ONNX Runtime"
PRODUCT = "matrix product"  # of float32 by NumPy's OpenBLAS: what the machine can do

# On a GPU the report groups names that begin alike, and takes the fastest of a group.
LSTM_FAST, CUDNN = "lstm_fast", "cuDNN"
FAST_TORCH = f"{LSTM_FAST} (PyTorch)"
FAST_TORCH_X3 = f"{LSTM_FAST} (PyTorch, 3xTF32)"
FAST_JAX = f"{LSTM_FAST} (JAX)"
FAST_TORCH_EVERY = f"every timestep by {LSTM_FAST} (PyTorch)"  # not one of those that begin alike
CUDNN_TORCH = f"{CUDNN} (torch.nn.LSTM)"
CUDNN_JAX = f"{CUDNN} (jax.experimental.rnn)"
CUDNN_KERAS = f"{CUDNN} (keras.layers.LSTM)"
FLASHRNN = "FlashRNN"
KERAS_LAYER = "keras.layers.LSTM"
