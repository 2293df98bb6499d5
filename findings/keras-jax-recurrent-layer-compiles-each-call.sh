#!/usr/bin/env bash
# On JAX, every call of a recurrent Keras layer outside of a compiled function compiles the layer again.
#
# One would expect: what is called twice with the same shapes is compiled once. For other layers, such as Dense and
# Conv1D, it is so: from the second call on, nothing is compiled.
#
# What happens: LSTM, GRU and SimpleRNN compile one program in each call, however often they were called before.
#
# The reason: the loop over timesteps is jax.lax.scan over a function, and the layer defines this function anew in each
# call. JAX recognises a program by the function that it was made from. So each call has a program that JAX does not
# know.
#
# Who meets it: whoever calls model(x) in a loop, for a few rows at a time, or in a test. Nearly all of the time then
# goes into the compiler.
#
# What to do: call the model in a compiled function: in jax.jit over model.stateless_call, or by model.predict, which
# compiles once for each shape. Or give JAX a folder for compiled programs (jax_compilation_cache_dir). JAX then reads
# the program from a file, which is faster than compiling it.
#
# Versions: Keras 3.15.1, JAX 0.10.2 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: programs compiled in calls 2, 3, 4: 1, 1, 1
#     GRU: programs compiled in calls 2, 3, 4: 1, 1, 1
#     SimpleRNN: programs compiled in calls 2, 3, 4: 1, 1, 1
#     Dense: programs compiled in calls 2, 3, 4: 0, 0, 0
#     Conv1D: programs compiled in calls 2, 3, 4: 0, 0, 0
#     LSTM in jax.jit: programs compiled in calls 2, 3, 4: 0, 0, 0

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys

import jax
import keras
import numpy as np

compiled = 0


def count(event, seconds, **_):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count)
x = np.ones((2, 5, 3), "float32")


def later_calls(call):
    """How many programs are compiled in calls 2, 3 and 4."""
    counts = []
    for _ in range(4):
        before = compiled
        call(x)
        counts.append(compiled - before)
    return counts[1:]


layers = keras.layers
found = {
    layer.__class__.__name__: later_calls(layer)
    for layer in (layers.LSTM(8), layers.GRU(8), layers.SimpleRNN(8), layers.Dense(8), layers.Conv1D(8, 3))
}
inside = layers.LSTM(8)
inside.build(x.shape)
weights = [variable.value for variable in inside.variables]
stateless = jax.jit(lambda inputs: inside.stateless_call(weights[:3], weights[3:], inputs)[0])
found["LSTM in jax.jit"] = later_calls(stateless)
for name, counts in found.items():
    print(f"{name}: programs compiled in calls 2, 3, 4: {', '.join(map(str, counts))}")
recurrent = {"LSTM", "GRU", "SimpleRNN"}
if any(counts != ([1] * 3 if name in recurrent else [0] * 3) for name, counts in found.items()):
    sys.exit("changed: recurrent layers no longer compile one program in each call, or other layers compile some")
PY
