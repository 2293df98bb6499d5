#!/usr/bin/env bash
# Left padding, a mask and an initial state: before the first real timestep, JAX returns the initial state, PyTorch and
# TensorFlow return zeros.
#
# One would expect: one model file gives the same numbers on each backend. The output at a masked timestep is the last
# valid output.
#
# What happens: with return_sequences=True, the outputs at masked timesteps before the first valid one are the initial
# state h0 on JAX, and zeros on the other backends. A wholly masked row shows the same without any padding on the left:
# all of its outputs, the last one too, are h0 on JAX, and zeros on the others. The returned states are the initial
# ones on all backends.
#
# Who meets it: whoever reads all timesteps without a mask, by attention, a Dense head or pooling, and uses more than
# one backend.
#
# What to do: pad on the right, and leave no row empty. Or use the states (return_state=True) in the place of the
# outputs.
#
# Versions: Keras 3.15.1, JAX 0.10.2, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     jax, LSTM, h0 = 0.5: output before the first valid timestep 0.5, last output of a wholly masked row 0.5, its state
#         0.5
#     jax, GRU, h0 = 0.5: output before the first valid timestep 0.5, last output of a wholly masked row 0.5, its state
#         0.5
#     jax, SimpleRNN, h0 = 0.5: output before the first valid timestep 0.5, last output of a wholly masked row 0.5, its
#         state 0.5
#     torch, LSTM, h0 = 0.5: output before the first valid timestep 0, last output of a wholly masked row 0, its state
#         0.5
#     torch, GRU, h0 = 0.5: output before the first valid timestep 0, last output of a wholly masked row 0, its state
#         0.5
#     torch, SimpleRNN, h0 = 0.5: output before the first valid timestep 0, last output of a wholly masked row 0, its
#         state 0.5

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 jax==0.10.2 numpy==2.4.6
export KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import json
import os
import subprocess
import sys

LAYER = """
import json, keras, numpy as np
from keras import layers, ops

x = np.ones((2, 3, 2), "float32")
mask = np.array([[False, True, True], [False, False, False]])
for layer, count in (layers.LSTM, 2), (layers.GRU, 1), (layers.SimpleRNN, 1):
    states = [np.full((2, 1), 0.5, "float32")] * count
    sequence = layer(1, return_sequences=True)(x, initial_state=states, mask=mask)
    last, *final = layer(1, return_state=True)(x, initial_state=states, mask=mask)
    numbers = [ops.convert_to_numpy(value) for value in (sequence, last, final[0])]
    print(json.dumps([float(numbers[0][0, 0, 0]), float(numbers[1][1, 0]), float(numbers[2][1, 0])]))
"""
for backend, expected in ("jax", [0.5, 0.5, 0.5]), ("torch", [0, 0, 0.5]):
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run([sys.executable, "-c", LAYER], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    for name, line in zip(("LSTM", "GRU", "SimpleRNN"), run.stdout.strip().splitlines()):
        first, last, state = json.loads(line)
        print(
            f"{backend}, {name}, h0 = 0.5: output before the first valid timestep {first:g}, "
            f"last output of a wholly masked row {last:g}, its state {state:g}"
        )
        if [first, last, state] != expected:
            sys.exit(f"changed: {backend}, {name} gives {[first, last, state]}, and gave {expected}")
PY
