#!/usr/bin/env bash
# Keras on JAX: in a callback, the model has weights under the name self.model, and none under another name.
#
# One would expect: a callback may use the model from its constructor, or from the code around it: to save the weights,
# to reset the states of a stateful LSTM, or to change a layer. `self.model` is the same object.
#
# What happens: during fit, model.get_weights() raises "TypeError: 'NoneType' object is not callable". After one look
# at self.model, the same call on the same object works, until the next batch. On TensorFlow and PyTorch both work.
#
# The reason: Keras's trainer takes the arrays out of all variables for the time of an epoch. The property
# Callback.model puts them back.
#
# Who meets it: whoever writes a callback that has its own reference to the model.
#
# What to do: use self.model in callbacks, or call model.jax_state_sync() first.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     the model of the scope is self.model: True
#     get_weights of the model of the scope: TypeError; of self.model: works; of the first again: works
#     of the model of the scope after jax_state_sync(): works

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
            print(f"the model of the scope is self.model: {same}")
            found.extend((weights_of(self.model), weights_of(model)))
        else:
            model.jax_state_sync()
            found.append(weights_of(model))


model.fit(np.ones((4, 3, 2)), np.ones((4, 1)), batch_size=2, verbose=0, callbacks=[Look()])
print(f"get_weights of the model of the scope: {found[0]}; of self.model: {found[1]}; of the first again: {found[2]}")
print(f"of the model of the scope after jax_state_sync(): {found[3]}")
if found != ["TypeError", "works", "works", "works"]:
    sys.exit(f"changed: get_weights in a callback gives {found}")
PY
