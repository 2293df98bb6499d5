#!/usr/bin/env bash
# On JAX, every call of a recurrent Keras layer outside of a compiled function compiles the layer again.
#
# One would expect: what is called twice with the same shapes is compiled once. So it is for other layers, Dense or
# Conv1D: from the second call on nothing is compiled.
#
# What happens: LSTM, GRU and SimpleRNN compile one program in each call, however often they were called before. A loop
# that calls model(x), as for a few rows at a time or in a test, spends nearly all of its time in the compiler.
#
# The reason: the loop over timesteps is jax.lax.scan over a function that the layer defines anew in each call. JAX knows
# a program again by the function it was made of, and this one it has never seen.
#
# What to do: call the model from a function that is compiled, jax.jit over model.stateless_call, or model.predict,
# which compiles once for a shape; or give JAX a folder for compiled programs (jax_compilation_cache_dir): then the
# program is read from a file, which is faster than to compile it.
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
    sys.exit("Changed: recurrent layers compiled one program in each call, and everything else none.")
PY
