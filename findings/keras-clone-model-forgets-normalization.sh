#!/usr/bin/env bash
# clone_model() and set_weights() make a wrong copy of a model with an adapted Normalization layer.
#
# One would expect: a clone with the weights of the original computes the same as the original. This is the usual way
# to copy a model, or to replace its layers by clone_function. get_weights() of a Normalization layer holds mean and
# variance.
#
# What happens: the clone gets the weights, but does not use them. It still normalizes with mean 0 and variance 1. So
# its predictions are wrong, without a warning. This is so on JAX and TensorFlow. On PyTorch the clone is right,
# because there the tensors in use share memory with the weights.
#
# The reason: the layer computes with two tensors that finalize_state() derives from its weights. adapt() and
# load_weights() call it, set_weights() does not.
#
# Who meets it: whoever copies a model in memory, or replaces its layers, and has normalized inputs.
#
# What to do: after set_weights(), call finalize_state() of each such layer. Or copy the weights by save_weights() and
# load_weights().
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     weights equal: True
#     predictions differ by 0.571; the clone's mean is [0. 0. 0.], the original's [1.8643814 3.2427394 5.5983877]
#     after finalize_state: 0.000

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

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(3, 7, (8, 5, 3)).astype("float32")
normalization = keras.layers.Normalization()
normalization.adapt(x)
model = keras.Sequential([keras.Input((5, 3)), normalization, keras.layers.LSTM(4)])
expected = model.predict(x, verbose=0)

clone = keras.models.clone_model(model)
clone.set_weights(model.get_weights())
equal = all(np.array_equal(a, b) for a, b in zip(clone.get_weights(), model.get_weights()))
wrong = float(np.abs(clone.predict(x, verbose=0) - expected).max())
print("weights equal:", equal)
print(
    f"predictions differ by {wrong:.3f}; the clone's mean is {np.ravel(clone.layers[0].mean)}, "
    f"the original's {np.ravel(model.layers[0].mean)}"
)
clone.layers[0].finalize_state()
clone.compile()
right = float(np.abs(clone.predict(x, verbose=0) - expected).max())
print(f"after finalize_state: {right:.3f}")
if not equal:
    sys.exit("changed: the weights do not arrive")
if wrong < 0.01:
    sys.exit("changed: the clone uses the weights that were set")
if right > 1e-6:
    sys.exit("changed: finalize_state does not help")
PY
