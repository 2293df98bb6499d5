#!/usr/bin/env bash
# On TensorFlow, predict() of a stateful LSTM returns 64 rows for 33 samples.
#
# One would expect: there are as many predictions as samples, or there is an error, because a stateful layer keeps its
# batch size. With 34 or 70 samples there is an error, from deep inside the graph.
#
# What happens: 33 samples are a batch of 32 and a batch of 1. The single row meets states of 32 rows and is broadcast:
# one sample gets 32 predictions. So predict() returns 64 rows, of which the last 31 belong to no sample, and the
# states are mixed up. This happens with every number of samples that leaves one over: 65, 97, ... LSTM, GRU and
# SimpleRNN do so. On JAX and PyTorch they raise.
#
# Who meets it: whoever predicts with a stateful layer, and cannot choose the number of samples.
#
# What to do: use batches of one size (tf.data's batch(32, drop_remainder=True)), or pad the last batch.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0 (tensorflow-cpu), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: 32 samples, predictions: 32
#     LSTM: 33 samples, predictions: 64
#     LSTM: 34 samples, predictions: error
#     LSTM: 65 samples, predictions: 96
#     GRU: 32 samples, predictions: 32
#     GRU: 33 samples, predictions: 64
#     GRU: 34 samples, predictions: error
#     GRU: 65 samples, predictions: 96
#     SimpleRNN: 32 samples, predictions: 32
#     SimpleRNN: 33 samples, predictions: 64
#     SimpleRNN: 34 samples, predictions: error
#     SimpleRNN: 65 samples, predictions: 96

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow-cpu==2.21.0 numpy==2.4.6
export KERAS_BACKEND=tensorflow KERAS_HOME="$folder/keras" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np
import tensorflow as tf

tf.get_logger().setLevel("ERROR")
for layer in keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN:
    for samples, expected in (32, 32), (33, 64), (34, "error"), (65, 96):
        model = keras.Sequential([keras.Input(batch_shape=(32, 5, 3)), layer(4, stateful=True), keras.layers.Dense(1)])
        try:
            found = len(model.predict(np.ones((samples, 5, 3), "float32"), verbose=0))
        except (tf.errors.InvalidArgumentError, ValueError):
            found = "error"
        print(f"{layer.__name__}: {samples} samples, predictions: {found}")
        if found != expected:
            sys.exit(f"changed: {samples} samples gave {expected}, and now give {found}")
PY
