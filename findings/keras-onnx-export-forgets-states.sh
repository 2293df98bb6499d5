#!/usr/bin/env bash
# The ONNX file of a stateful LSTM forgets the states after each call. The SavedModel of the same model does not.
#
# One would expect: model.export writes the forward pass of the model. With stateful=True, each call goes on from where
# the last one has ended. If a format cannot hold states, the export says so.
#
# What happens: the SavedModel goes on. The ONNX file is written without a message, and begins each call anew, with the
# states that the model had when it was exported. So two calls with the same input give the same answer.
#
# Who meets it: whoever exports a model that reads a sequence piece by piece.
#
# What to do: for ONNX, make the states inputs and outputs of the model: use `initial_state` and `return_state=True` of
# an LSTM without `stateful`.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0, ONNX 1.23.2, tf2onnx 1.17.0, ONNX Runtime 1.32.0, NumPy 2.4.6, Python 3.11.
#
# Output:
#     the second call differs from the first by: Keras 0.056, SavedModel 0.056, ONNX 0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6 onnx==1.23.2 tf2onnx==1.17.0 \
  onnxruntime==1.32.0
export KERAS_BACKEND=tensorflow KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3
cd "$folder"
"$folder/venv/bin/python" - 2>stderr <<'PY' || { tail -5 stderr; exit 1; }
import sys

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input(batch_shape=(2, 5, 3)), keras.layers.LSTM(4, stateful=True)])
x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
model(x)
model.layers[0].reset_state()
model.export("saved_model", verbose=False)
model.export("model.onnx", format="onnx", verbose=False)
session = onnxruntime.InferenceSession("model.onnx")
name = session.get_inputs()[0].name
served = tf.saved_model.load("saved_model")


def changes(call):
    """Return by how much the answer to the same input changes from the first call to the second."""
    first, second = np.array(call()), np.array(call())
    return float(np.abs(second - first).max())


found = {
    "Keras": changes(lambda: model(x)),
    "SavedModel": changes(lambda: served.serve(tf.constant(x))),
    "ONNX": changes(lambda: session.run(None, {name: x})[0]),
}
print("the second call differs from the first by:", ", ".join(f"{who} {size:.3f}" for who, size in found.items()))
if found["Keras"] < 1e-3 or abs(found["SavedModel"] - found["Keras"]) > 1e-5:
    sys.exit("changed: the SavedModel does not go on from the states")
if found["ONNX"] > 0:
    sys.exit("changed: the ONNX file goes on from the states")
PY
