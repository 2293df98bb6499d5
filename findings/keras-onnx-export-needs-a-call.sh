#!/usr/bin/env bash
# model.export(format="onnx") refuses a model that was loaded from a file, but model.export() writes it as a
# SavedModel.
#
# One would expect: a model that is built and has weights can be exported in any format: load it, export it.
#
# What happens: the export to ONNX raises ValueError, "The model provided has never called." The same object can be
# exported as a SavedModel. This export calls the model, so after it the export to ONNX succeeds as well. With
# `input_signature`, which Keras finds by itself in other exports, it succeeds at once.
#
# Who meets it: whoever trains in one program, and exports the saved model in another one.
#
# What to do: call the model once, on anything, or give `input_signature`.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0, ONNX 1.23.2, tf2onnx 1.17.0, ONNX Runtime 1.32.0, NumPy 2.4.6, Python 3.11.
#
# Output:
#     ONNX: ValueError: The model provided has never called.
#     ONNX with input_signature: differs from Keras by 0.000
#     SavedModel: written
#     ONNX: written

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

keras.utils.set_random_seed(0)
keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4)]).save("model.keras")
model = keras.models.load_model("model.keras")
try:
    model.export("model.onnx", format="onnx", verbose=False)
except ValueError as error:
    print(f"ONNX: ValueError: {str(error).strip()}")
    if "never called" not in str(error):
        sys.exit("changed: the export to ONNX raises another error")
else:
    sys.exit("changed: a model that was not called is exported to ONNX")

model = keras.models.load_model("model.keras")
signature = [keras.InputSpec(shape=(None, None, 3), dtype="float32", name="x")]
model.export("model.onnx", format="onnx", input_signature=signature, verbose=False)
x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
(found,) = onnxruntime.InferenceSession("model.onnx").run(None, {"x": x})
difference = float(np.abs(found - model.predict(x, verbose=0)).max())
print(f"ONNX with input_signature: differs from Keras by {difference:.3f}")
if difference > 1e-5:
    sys.exit("changed: the ONNX file computes something else than Keras")

model = keras.models.load_model("model.keras")
model.export("saved_model", verbose=False)
print("SavedModel: written")
model.export("model.onnx", format="onnx", verbose=False)
print("ONNX: written")
PY
