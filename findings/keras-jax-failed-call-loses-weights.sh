#!/usr/bin/env bash
# On the JAX backend, a fit(), evaluate() or predict() that raises in its first step leaves the model without weights.
#
# One would expect: fit() with targets of a wrong shape raises. The user corrects the targets, and goes on with the
# model.
#
# What happens: the call raises, as it should. But then the model has no weights: get_weights(), save_weights(), a
# direct call and the corrected fit() all raise "TypeError: 'NoneType' object is not callable". All earlier training is
# lost. On TensorFlow and PyTorch the model keeps its weights.
#
# The reason: to save memory, Keras's JAX trainer takes the values out of the variables before the first step. It puts
# them back only after a step that has succeeded.
#
# Who meets it: whoever works in a notebook, where the session goes on after an error.
#
# What to do: before a call that may fail, keep a copy: saved = model.get_weights(). After the error, build the model
# anew and set the weights. set_weights on the old model is not enough: the states of its random generators are gone,
# too, and after fit() also those of its optimizer.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     fit fails: ValueError: Incompatible shapes for broadcasting: shapes=[(4, 3, 2), (4,
#       then get_weights: TypeError: 'NoneType' object is not callable
#       then the right fit: TypeError: 'NoneType' object is not callable
#       then a new model with the saved weights: works
#     evaluate fails: ValueError: Incompatible shapes for broadcasting: shapes=[(4, 3, 2), (4,
#       then get_weights: TypeError: 'NoneType' object is not callable
#       then the right fit: TypeError: 'NoneType' object is not callable
#       then a new model with the saved weights: works
#     predict fails: TypeError: Exception encountered when calling LSTMCell.call().
#       then get_weights: TypeError: 'NoneType' object is not callable
#       then the right fit: TypeError: 'NoneType' object is not callable
#       then a new model with the saved weights: works

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np

x, y = np.ones((4, 5, 3), "float32"), np.ones((4, 1), "float32")
wrong_targets, wrong_inputs = np.ones((4, 3, 2), "float32"), np.ones((4, 5, 2), "float32")


def build():
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(4), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def outcome(function):
    try:
        function()
        return "works"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


for name, fails in {
    "fit": lambda model: model.fit(x, wrong_targets, verbose=0),
    "evaluate": lambda model: model.evaluate(x, wrong_targets, verbose=0),
    "predict": lambda model: model.predict(wrong_inputs, verbose=0),
}.items():
    model = build()
    model.fit(x, y, verbose=0)
    saved = model.get_weights()
    print(f"{name} fails:", outcome(lambda: fails(model)))
    after = outcome(model.get_weights)
    print("  then get_weights:", after)
    print("  then the right fit:", outcome(lambda: model.fit(x, y, verbose=0)))
    model = build()
    model.set_weights(saved)
    again = outcome(lambda: model.fit(x, y, verbose=0))
    print("  then a new model with the saved weights:", again)
    if "NoneType" not in after:
        sys.exit(f"changed: a failed {name} no longer takes the weights away")
    if again != "works":
        sys.exit("changed: a new model with the saved weights does not train")
PY
