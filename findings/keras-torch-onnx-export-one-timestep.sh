#!/usr/bin/env bash
# On PyTorch, model.export(format="onnx") of an LSTM with a free time axis writes a file that reads the first timestep
# only.
#
# One would expect: Input((None, 3)) says that the number of timesteps is free. The file says so, too: its input has
# the shape [batch, free, 3], and it takes sequences of any length. So it reads all of their timesteps.
#
# What happens: ONNX Runtime takes six timesteps, and returns what the model gives for the first one. The numbers are
# wrong, and there is no error. LSTM and GRU do so. ONNX Runtime refuses other lengths for the file of a SimpleRNN.
# (PyTorch warns during the export that a trace may be incorrect. But it warns in the same way in exports that are
# right.)
#
# The reason: Keras makes up a sample of one timestep, and the export unrolls the loop over timesteps for this sample.
#
# Who meets it: whoever trains on PyTorch, and runs the model in ONNX Runtime.
#
# What to do: fix the number of timesteps in the input before the export, Input((6, 3)). That file is right, and
# refuses other lengths. Or export from the TensorFlow backend, which writes an LSTM operator.
#
# Versions: Keras 3.15.1, PyTorch 2.13.0 (CPU), ONNX 1.23.2, ONNX Runtime 1.32.0, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: input ['batch', 'dim_0_1', 3]: differs from Keras by 0.204, from Keras's first timestep by 0.000; input
#         ['batch', 6, 3]: differs from Keras by 0.000
#     GRU: input ['batch', 'dim_0_1', 3]: differs from Keras by 0.433, from Keras's first timestep by 0.000; input
#         ['batch', 6, 3]: differs from Keras by 0.000

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
export KERAS_BACKEND=torch KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import os
import sys
import tempfile
import warnings

import keras
import numpy as np
import onnx
import onnxruntime

warnings.simplefilter("ignore")
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(1, 6, 3)).astype("float32")


def export(model):
    """Return the shape that the file declares for its input, and the file's result for six timesteps."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.onnx")
        model.export(file, format="onnx", verbose=False)
        declared = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
        session = onnxruntime.InferenceSession(file)
    shape = [axis.dim_param or axis.dim_value for axis in declared]
    return shape, session.run(None, {session.get_inputs()[0].name: x})[0]


for layer in keras.layers.LSTM, keras.layers.GRU:
    free = keras.Sequential([keras.Input((None, 3)), layer(4)])
    fixed = keras.Sequential([keras.Input((6, 3)), layer(4)])
    fixed.set_weights(free.get_weights())
    right, first = free.predict(x, verbose=0), free.predict(x[:, :1], verbose=0)
    fixed.predict(x, verbose=0)  # export() wants a model that was called
    (shape, found), (fixed_shape, fixed_found) = export(free), export(fixed)
    errors = [float(np.abs(a - b).max()) for a, b in ((found, right), (found, first), (fixed_found, right))]
    print(
        f"{layer.__name__}: input {shape}: differs from Keras by {errors[0]:.3f}, from Keras's first timestep by "
        f"{errors[1]:.3f}; input {fixed_shape}: differs from Keras by {errors[2]:.3f}"
    )
    if not isinstance(shape[1], str) or errors[0] < 1e-3 or errors[1] > 1e-5:
        sys.exit("changed: the file with a free time axis does not hold the first timestep only")
    if errors[2] > 1e-5:
        sys.exit("changed: the file with a fixed time axis is wrong")
PY
