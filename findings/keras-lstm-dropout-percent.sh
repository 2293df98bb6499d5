#!/usr/bin/env bash
# keras.layers.LSTM(dropout=20) raises nowhere: it drops nothing on a CPU, but everything on PyTorch without a mask.
#
# One would expect: a share of 20 is refused, as keras.layers.Dropout(20) refuses it. If it became 1, all inputs would
# be dropped, with every backend.
#
# What happens: the layer makes 1.0 of every larger share. Its cell applies a share only if it lies between 0 and 1,
# so 1.0 drops nothing: in training mode the outputs are those of inference. This is so on a CPU with TensorFlow and
# JAX. On PyTorch the layer has a faster path of its own, which multiplies the inputs by a mask of zeros. Then an
# input has no effect at all. With a mask, PyTorch takes the other path, and drops nothing. recurrent_dropout=20 drops
# nothing on any of them.
#
# Who meets it: whoever means 20 percent. On TensorFlow and JAX the model overfits as if there were no dropout; on
# PyTorch it cannot learn.
#
# What to do: give a share, 0.2; look at layer.dropout, which is 1.0 in this case.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0, JAX 0.10.2, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     Dropout(20): ValueError
#     tensorflow: dropout=20 becomes 1.0 and drops nothing; masked: drops nothing; recurrent_dropout=20: drops nothing
#     jax: dropout=20 becomes 1.0 and drops nothing; masked: drops nothing; recurrent_dropout=20: drops nothing
#     torch: dropout=20 becomes 1.0 and drops the input; masked: drops nothing; recurrent_dropout=20: drops nothing

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0 jax==0.10.2 torch==2.13.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 JAX_PLATFORMS=cpu PYTHONWARNINGS=ignore
cat > "$folder/case.py" <<'PY'
import sys

import keras
import numpy as np

backend = keras.backend.backend()
try:
    keras.layers.Dropout(20)
    sys.exit("changed: Dropout(20) is accepted")
except ValueError as error:
    if backend == "tensorflow":
        print(f"Dropout(20): {type(error).__name__}")

x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")


def outcome(mask=None, **options):
    """Return what a layer drops in training mode."""
    layer = keras.layers.LSTM(4, **options)

    def outputs(values, training):
        return keras.ops.convert_to_numpy(layer(values, mask=mask, training=training))

    if np.array_equal(outputs(x, True), outputs(x, False)):
        return "drops nothing"
    return "drops the input" if np.array_equal(outputs(x, True), outputs(2 * x, True)) else "drops something"


mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
found = outcome(dropout=20), outcome(mask, dropout=20), outcome(recurrent_dropout=20)
share = keras.layers.LSTM(4, dropout=20).dropout
print(f"{backend}: dropout=20 becomes {share} and {found[0]}; masked: {found[1]}; recurrent_dropout=20: {found[2]}")
first = "drops the input" if backend == "torch" else "drops nothing"
if share != 1.0 or found != (first, "drops nothing", "drops nothing"):
    sys.exit(f"changed: dropout=20 on {backend} is no longer taken for 1.0, or drops something else")
PY
for backend in tensorflow jax torch; do
  KERAS_BACKEND=$backend "$folder/venv/bin/python" "$folder/case.py" 2> "$folder/errors" ||
    { tail -n 1 "$folder/errors"; exit 1; }
done
