#!/usr/bin/env bash
# TensorFlow's interpreter refuses a LiteRT file with a recurrent layer that Keras has exported on the same TensorFlow.
#
# One would expect: model.export(format="litert") says that it has saved the model. Then the interpreter of the same
# installation, tf.lite.Interpreter, runs the file.
#
# What happens: the interpreter asks for the Flex delegate, which this TensorFlow's Python package does not have, and
# refuses the file. It does so for LSTM, GRU and SimpleRNN, with a free or a fixed number of timesteps, and also with a
# fixed batch of one. export() returns as if all were well. Only a line in TensorFlow's log tells of it. A model
# without recurrent layers runs.
#
# The reason: the layer becomes a loop over TensorFlow's own operators for lists of tensors. Keras allows the converter
# to keep these operators.
#
# Who meets it: whoever exports an LSTM for phones and other small devices.
#
# What to do: fix the number of timesteps and unroll the loop: LSTM(units, unroll=True). That file has LiteRT's
# operators alone, and runs at any batch size. The weights of the two models fit one another. Or export to ONNX.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM, free timesteps: refused, asks for FlexTensorListReserve
#     LSTM, 6 timesteps: refused, asks for FlexTensorListReserve
#     LSTM, batch of 1, 6 timesteps: refused, asks for FlexTensorListReserve
#     GRU, free timesteps: refused, asks for FlexTensorListReserve
#     SimpleRNN, free timesteps: refused, asks for FlexTensorListReserve
#     LSTM, 6 timesteps, unrolled: runs, differs from Keras by less than 1e-5

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6
export KERAS_BACKEND=tensorflow KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3
"$folder/venv/bin/python" - 2> "$folder/log" <<'PY' || { cat "$folder/log"; exit 1; }
import os
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(1, 6, 3)).astype("float32")


def run(model):
    """Export a model; return what the interpreter makes of x."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.tflite")
        model.export(file, format="litert", verbose=False)
        interpreter = tf.lite.Interpreter(file)
        (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])


layers = keras.layers
cases = {
    "LSTM, free timesteps": (keras.Input((None, 3)), layers.LSTM(4)),
    "LSTM, 6 timesteps": (keras.Input((6, 3)), layers.LSTM(4)),
    "LSTM, batch of 1, 6 timesteps": (keras.Input(batch_shape=(1, 6, 3)), layers.LSTM(4)),
    "GRU, free timesteps": (keras.Input((None, 3)), layers.GRU(4)),
    "SimpleRNN, free timesteps": (keras.Input((None, 3)), layers.SimpleRNN(4)),
    "LSTM, 6 timesteps, unrolled": (keras.Input((6, 3)), layers.LSTM(4, unroll=True)),
}
for name, parts in cases.items():
    model = keras.Sequential(parts)
    right = model.predict(x, verbose=0)
    try:
        found = run(model)
    except RuntimeError as error:
        if "FlexTensorListReserve" not in str(error):
            raise
        print(f"{name}: refused, asks for FlexTensorListReserve")
        refused = True
    else:
        if np.abs(found - right).max() > 1e-5:
            sys.exit(f"changed: {name} runs, and is wrong")
        print(f"{name}: runs, differs from Keras by less than 1e-5")
        refused = False
    if refused == name.endswith("unrolled"):
        sys.exit(f"changed: {name} {'is refused' if refused else 'runs'}")
PY
