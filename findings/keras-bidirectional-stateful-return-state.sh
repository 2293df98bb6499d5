#!/usr/bin/env bash
# Bidirectional(LSTM(stateful=True, return_state=True)) raises a TypeError about generators.
#
# One would expect: each of the two options works alone. So both together work, and give the outputs and four states.
#
# What happens: every call, eager or symbolic, raises "TypeError: unsupported operand type(s) for *: 'generator' and
# 'int'". LSTM, GRU and SimpleRNN do so on all backends.
#
# The reason: Bidirectional.compute_mask expects a list of states. With stateful=True it finds a generator. It uses the
# states only if they are returned.
#
# Who meets it: whoever carries the states from batch to batch, and also reads them.
#
# What to do: leave out stateful=True, and pass the states on as initial_state. Or use two layers, one of them with
# go_backwards=True, in the place of Bidirectional.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM {'stateful': True} -> 1 output
#     LSTM {'return_state': True} -> 5 outputs
#     LSTM {'stateful': True, 'return_state': True} -> TypeError: unsupported operand type(s) for *: 'generator' and
#         'int'
#     GRU {'stateful': True} -> 1 output
#     GRU {'return_state': True} -> 3 outputs
#     GRU {'stateful': True, 'return_state': True} -> TypeError: unsupported operand type(s) for *: 'generator' and
#         'int'
#     SimpleRNN {'stateful': True} -> 1 output
#     SimpleRNN {'return_state': True} -> 3 outputs
#     SimpleRNN {'stateful': True, 'return_state': True} -> TypeError: unsupported operand type(s) for *: 'generator'
#         and 'int'
#     initial_state by hand: (1, 4)

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from keras import layers

x = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")

for layer in layers.LSTM, layers.GRU, layers.SimpleRNN:
    for options in {"stateful": True}, {"return_state": True}, {"stateful": True, "return_state": True}:
        try:
            outputs = layers.Bidirectional(layer(2, **options))(x)
            found = f"{len(outputs)} outputs" if isinstance(outputs, (list, tuple)) else "1 output"
        except TypeError as error:
            found = f"TypeError: {error}"
        print(layer.__name__, options, "->", found)
        if found.startswith("TypeError") != (len(options) == 2):
            sys.exit("changed: the combination works, or one of the options alone does not")

layer = layers.Bidirectional(layers.LSTM(2, return_state=True))
_, *states = layer(x)
again, *_ = layer(x, initial_state=states)
print("initial_state by hand:", again.shape)
if np.array_equal(again, layer(x)[0]):
    sys.exit("changed: initial_state has no influence")
PY
