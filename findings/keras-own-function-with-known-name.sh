#!/usr/bin/env bash
# Keras replaces your own function by its own function of the same name, in copies and in loaded files.
#
# One would expect: LSTM(activation=tanh), with your own tanh (here the scaled one of LeCun), is saved as what it is.
# Either it comes back, or loading fails and says that custom_objects is needed. With any other name it is so.
#
# What happens: a loaded file, clone_model() and even Bidirectional(layer), which copies the layer, compute with
# Keras's tanh, without a message. custom_objects={"tanh": tanh} changes nothing. The same happens to a loss, such as
# your own mean_squared_error. All backends do so.
#
# The reason: Keras stores the function by its bare name, and looks this name up among its own functions first.
#
# Who meets it: whoever writes a variant of a well-known activation or loss, and gives it the well-known name.
#
# What to do: put @keras.saving.register_keras_serializable() on the function: then all three are right. Or take a name
# that Keras does not have.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     tanh, differences: {'load_model': 0.0749, 'with custom_objects': 0.0749, 'clone_model': 0.0749, 'Bidirectional
#         keeps it': False}
#     scaled_tanh: {'load_model': 'TypeError', 'with custom_objects': 0.0, 'clone_model': 'TypeError', 'Bidirectional
#         keeps it': 'TypeError'}
#     tanh, registered: {'load_model': 0.0, 'with custom_objects': 0.0, 'clone_model': 0.0, 'Bidirectional keeps it':
#         True}
#     a loss named mean_squared_error, seven times Keras's: 6.1811, loaded 0.8830

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import pathlib
import sys
import tempfile

import keras
import numpy as np
from keras import layers, ops

x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")


def tanh(x):
    return 1.7159 * ops.tanh(2 / 3 * x)


def scaled_tanh(x):
    return 1.7159 * ops.tanh(2 / 3 * x)


def differences(function):
    """Return by how much copies of a model differ from it: loaded, loaded with custom_objects, cloned."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(5, activation=function)])
    expected = model.predict(x, verbose=0)
    objects = {function.__name__: function}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.keras")
        model.save(file)
        copies = {
            "load_model": lambda: keras.models.load_model(file),
            "with custom_objects": lambda: keras.models.load_model(file, custom_objects=objects),
            "clone_model": lambda: keras.models.clone_model(model),
        }
        found = {}
        for name, copy in copies.items():
            try:
                other = copy()
                other.set_weights(model.get_weights())
                found[name] = round(float(np.abs(other.predict(x, verbose=0) - expected).max()), 4)
            except TypeError:
                found[name] = "TypeError"
    try:
        both = layers.Bidirectional(layers.LSTM(5, activation=function))
        found["Bidirectional keeps it"] = both.forward_layer.activation is function
    except TypeError:
        found["Bidirectional keeps it"] = "TypeError"
    return found


def mean_squared_error(target, prediction):
    return 7.0 * ops.mean(ops.square(target - prediction), axis=-1)


def losses():
    """Return the loss of a model with a loss of one's own, and of the model loaded from its file."""
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(1)])
    model.compile("sgd", mean_squared_error)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.keras")
        model.save(file)
        loaded = keras.models.load_model(file)
    return [float(m.evaluate(x, np.ones((2, 1)), verbose=0)) for m in (model, loaded)]


saved, loaded = losses()
own, other = differences(tanh), differences(scaled_tanh)
registered = differences(keras.saving.register_keras_serializable()(tanh))
print("tanh, differences:", own)
print("scaled_tanh:", other)
print("tanh, registered:", registered)
print(f"a loss named mean_squared_error, seven times Keras's: {saved:.4f}, loaded {loaded:.4f}")
if abs(saved - 7 * loaded) > 1e-4:
    sys.exit("changed: a loss named mean_squared_error is not replaced")
*numbers, kept = own.values()
if not all(isinstance(number, float) and number > 1e-3 for number in numbers) or kept:
    sys.exit("changed: a function named tanh is not replaced without a word")
if list(other.values()) != ["TypeError", 0, "TypeError", "TypeError"]:
    sys.exit("changed: a function of another name gives no TypeError, or custom_objects does not help")
if list(registered.values()) != [0, 0, 0, True]:
    sys.exit("changed: a registered function is replaced")
PY
