#!/usr/bin/env bash
# On PyTorch, fit() of a stateful LSTM or GRU raises.
#
# One would expect: a model that trains on one backend trains on another.
#
# What happens: the first step of fit() ends with "one of the variables needed for gradient computation has been
# modified by an inplace operation". predict() works. SimpleRNN trains. On TensorFlow and JAX all three train.
#
# The reason: between the forward and the backward pass, the layer overwrites its state variables with the new states.
# The backward pass of LSTM and GRU needs the old states.
#
# Who meets it: whoever takes a stateful model to PyTorch, and trains it there.
#
# What to do: train without stateful=True. Where states must go from batch to batch, use initial_state=... For
# prediction, load the weights into a stateful model.
#
# Versions: Keras 3.15.1, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM, stateful=False: fit: trains; predict: (8, 1)
#     LSTM, stateful=True: fit: one of the variables needed for gradient computation has been modified by an inplace
#         operation:; predict: (8, 1)
#     GRU, stateful=False: fit: trains; predict: (8, 1)
#     GRU, stateful=True: fit: one of the variables needed for gradient computation has been modified by an inplace
#         operation:; predict: (8, 1)
#     SimpleRNN, stateful=False: fit: trains; predict: (8, 1)
#     SimpleRNN, stateful=True: fit: trains; predict: (8, 1)

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6
export KERAS_BACKEND=torch KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np

x, y = np.ones((8, 5, 3), "float32"), np.ones((8, 1), "float32")
for layer in keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN:
    for stateful in False, True:
        model = keras.Sequential(
            [keras.Input(batch_shape=(4, 5, 3)), layer(4, stateful=stateful), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        try:
            model.fit(x, y, batch_size=4, verbose=0)
            found = "trains"
        except RuntimeError as error:
            found = str(error)[:95]
        predicted = model.predict(x, batch_size=4, verbose=0).shape
        print(f"{layer.__name__}, stateful={stateful}: fit: {found}; predict: {predicted}")
        raises = stateful and layer is not keras.layers.SimpleRNN
        if raises != ("inplace operation" in found) or (not raises and found != "trains"):
            sys.exit("changed: another set of layers raises")
PY
