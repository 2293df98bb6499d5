#!/usr/bin/env bash
# Keras on JAX: in a callback, a model has weights under one name, and none under another.
#
# One would expect: a callback may look at the model that it was given in its constructor, or finds in the scope around
# it, for instance to save the weights, to reset the states of a stateful LSTM, or to change a layer. `self.model` is the
# same object.
#
# What happens: during fit, model.get_weights() raises TypeError: 'NoneType' object is not callable. After self.model was
# looked at once, the same call on the same object works, until the next batch. On TensorFlow and PyTorch both work.
#
# The reason: Keras's trainer takes the arrays of all variables for the time of an epoch; the property Callback.model
# gives them back on the way.
#
# What to do: use self.model in callbacks, or call model.jax_state_sync() first.
#
# Versions: Keras 3.15.1, JAX 0.10.2, Python 3.11.
#
# Output:
#     is it self.model: True
#     the model of the scope: TypeError; self.model: works; the model of the scope after it: works
#     the model of the scope after jax_state_sync(): works

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np

model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(2), keras.layers.Dense(1)])
model.compile("sgd", "mse")
found = []


def weights_of(each):
    try:
        each.get_weights()
    except TypeError as error:
        return type(error).__name__
    return "works"


class Look(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            found.append(weights_of(model))
            same = self.model is model
            print(f"is it self.model: {same}")
            found.extend((weights_of(self.model), weights_of(model)))
        else:
            model.jax_state_sync()
            found.append(weights_of(model))


model.fit(np.ones((4, 3, 2)), np.ones((4, 1)), batch_size=2, verbose=0, callbacks=[Look()])
print(f"the model of the scope: {found[0]}; self.model: {found[1]}; the model of the scope after it: {found[2]}")
print(f"the model of the scope after jax_state_sync(): {found[3]}")
if found != ["TypeError", "works", "works", "works"]:
    sys.exit("changed: who has weights in a callback")
PY
