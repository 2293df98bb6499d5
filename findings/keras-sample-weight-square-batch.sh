#!/usr/bin/env bash
# With one output per timestep, one weight per sample is an error. But if batch and timesteps are equal in number, the
# weights silently weigh the timesteps.
#
# One would expect: sample_weight of shape [samples] weighs the samples, whatever shape the targets have. At least, the
# meaning of a weight does not depend on the size of the batch.
#
# What happens: for 4 samples of 6 timesteps, Keras raises. For 6 samples of 6 timesteps it works, but weight number k
# goes to timestep k of every sample. All backends do so.
#
# The reason: the loss per timestep has the shape [batch, time], and the weights [batch]. Keras multiplies the two by
# NumPy's rules for broadcasting, which align the last axes.
#
# Who meets it: whoever weighs samples, and has an output for each timestep.
#
# What to do: give weights of shape [samples, timesteps]: np.repeat(weights[:, None], timesteps, axis=1).
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     4 samples of 6 timesteps: Incompatible shapes for broadcasting: shapes=[(4, 6), (4,)]
#     6 samples of 6 timesteps: loss 0.1089; weighed by sample 0.1729; by timestep 0.1089
#     weights [6, 6]: loss 0.1099; weighed by sample 0.1099

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

random = np.random.default_rng(0)


def evaluate(samples, weights):
    """Return the loss of Keras, and the loss where the weights weigh the samples, the timesteps."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6, 2)), keras.layers.LSTM(3, return_sequences=True), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    x, y = (random.normal(size=(samples, 6, size)).astype("float32") for size in (2, 1))
    squares = np.square(model.predict(x, verbose=0) - y)[..., 0]
    found = model.evaluate(x, y, sample_weight=weights, batch_size=samples, verbose=0)
    one = weights if weights.ndim == 1 else weights[:, 0]
    return float(found), float((squares * one[:, None]).mean()), float((squares * one).mean()) if samples == 6 else None


first = np.float32([1, 0, 0, 0, 0, 0])
try:
    evaluate(4, first[:4])
    sys.exit("changed: weights [4] with outputs [4, 6] are accepted")
except ValueError as error:
    print("4 samples of 6 timesteps:", error)
found, samples, timesteps = evaluate(6, first)
print(f"6 samples of 6 timesteps: loss {found:.4f}; weighed by sample {samples:.4f}; by timestep {timesteps:.4f}")
if abs(found - timesteps) > 1e-5 or abs(found - samples) < 1e-3:
    sys.exit("changed: the weights no longer weigh the timesteps")
found, samples, _ = evaluate(6, np.repeat(first[:, None], 6, axis=1))
print(f"weights [6, 6]: loss {found:.4f}; weighed by sample {samples:.4f}")
if abs(found - samples) > 1e-5:
    sys.exit("changed: weights [samples, timesteps] do not weigh the samples")
PY
