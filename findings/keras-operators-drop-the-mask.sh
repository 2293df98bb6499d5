#!/usr/bin/env bash
# An operator between Embedding(mask_zero=True) and an LSTM drops the mask without a warning.
#
# One would expect: e * 2.0 does the same as a layer that doubles. A layer either passes the mask on (Activation, Add,
# Dropout), or warns that it destroys it (Conv1D, Lambda).
#
# What happens: operators on symbolic tensors (e * 8.0, e + position) and functions of keras.ops do neither. The result
# has no mask, nothing warns, and the LSTM reads the padding. So predictions depend on the amount of padding.
#
# Who meets it: whoever computes with embeddings in a functional model. The usual "embedding times sqrt(size)" is
# enough.
#
# What to do: use layers (Add, Multiply, Activation, Rescaling), or give the mask yourself: lstm(e * 8.0,
# mask=embedding.compute_mask(tokens)).
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     e: padding changes the prediction by 0%, no warning
#     e * 8.0: padding changes the prediction by 188%, no warning
#     e + 1.0: padding changes the prediction by 9%, no warning
#     ops.tanh(e): padding changes the prediction by 228%, no warning
#     Lambda: padding changes the prediction by 188%, a warning
#     Activation: padding changes the prediction by 0%, no warning
#     Rescaling: padding changes the prediction by 0%, no warning
#     e * 8.0, mask given: padding changes the prediction by 0%, no warning

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import keras
import numpy as np
from keras import layers, ops

short, padded = np.array([[1, 2, 3, 4]]), np.array([[1, 2, 3, 4, 0, 0]])


def difference(change, give_mask=False):
    """Return by how much padding changes the prediction, and the number of warnings about masks."""
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = keras.Input((None,), dtype="int32")
        embedding = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal")
        mask = embedding.compute_mask(tokens) if give_mask else None
        model = keras.Model(tokens, layers.LSTM(4)(change(embedding(tokens)), mask=mask))
        found = [model.predict(x, verbose=0) for x in (short, padded)]
    relative = float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())
    return relative, sum("mask" in str(warning.message) for warning in caught)


def check(name, change, drops, warns=False, **options):
    relative, messages = difference(change, **options)
    print(f"{name}: padding changes the prediction by {relative:.0%}, {'a' if messages else 'no'} warning")
    if (relative > 1e-2) != drops or bool(messages) != warns:
        sys.exit(
            f"changed: {name} was to {'drop' if drops else 'keep'} the mask, {'with' if warns else 'without'} warning"
        )


check("e", lambda e: e, drops=False)
check("e * 8.0", lambda e: e * 8.0, drops=True)
check("e + 1.0", lambda e: e + 1.0, drops=True)
check("ops.tanh(e)", ops.tanh, drops=True)
check("Lambda", layers.Lambda(lambda e: e * 8.0), drops=True, warns=True)
check("Activation", layers.Activation("tanh"), drops=False)
check("Rescaling", layers.Rescaling(8.0), drops=False)
check("e * 8.0, mask given", lambda e: e * 8.0, drops=False, give_mask=True)
PY
