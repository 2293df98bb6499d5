#!/usr/bin/env bash
# Keras: reset_state() of a stateful RNN over several cells raises.
#
# One would expect: RNN([LSTMCell(2), LSTMCell(3)], stateful=True) keeps its states from call to call, and
# reset_state() sets them to zero. With one cell it is so.
#
# What happens: the layer keeps its states, but reset_state() raises AttributeError: a list has no attribute 'assign'.
#
# The reason: the states of several cells are a list of lists, and reset_state() goes through the outer list only.
#
# Who meets it: whoever reads one long sequence after another with stacked cells.
#
# What to do: set the states yourself: for state in keras.tree.flatten(layer.states):
# state.assign(keras.ops.zeros_like(state.value)).
#
# Versions: Keras 3.15.1, JAX 0.10.2 (with TensorFlow 2.21.0 likewise), NumPy 2.4.6, Python 3.11.
#
# Output:
#     one cell: the second call goes on from the first: True; reset_state raises: None; the next call gives the first
#         outputs again: True
#     two cells: the second call goes on from the first: True; reset_state raises: AttributeError; the next call gives
#         the first outputs again: False
#     two cells, states set to zero by hand: the next call gives the first outputs again: True

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

x = np.ones((1, 2, 2), np.float32)


def run(layer):
    return keras.ops.convert_to_numpy(layer(x))


for name, sizes in {"one cell": [2], "two cells": [2, 3]}.items():
    cells = [keras.layers.LSTMCell(size) for size in sizes]
    layer = keras.layers.RNN(cells if len(cells) > 1 else cells[0], stateful=True)
    first, second = run(layer), run(layer)
    goes_on = not np.allclose(first, second)
    raised = None
    try:
        layer.reset_state()
    except AttributeError as error:
        raised = type(error).__name__
    same = np.allclose(first, run(layer))
    print(
        f"{name}: the second call goes on from the first: {goes_on}; reset_state raises: {raised}; "
        f"the next call gives the first outputs again: {same}"
    )
    if not goes_on:
        sys.exit("changed: the layer is not stateful")
    if (raised is None, same) != ((True, True) if len(sizes) == 1 else (False, False)):
        sys.exit(f"changed: reset_state of {name} does something else than stated")

for state in keras.tree.flatten(layer.states):
    state.assign(keras.ops.zeros_like(state.value))
same = np.allclose(first, run(layer))
print(f"two cells, states set to zero by hand: the next call gives the first outputs again: {same}")
if not same:
    sys.exit("changed: setting the states to zero by hand does not help")
PY
