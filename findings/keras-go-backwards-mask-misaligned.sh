#!/usr/bin/env bash
# LSTM(go_backwards=True, return_sequences=True) passes on a mask that does not fit its outputs.
#
# One would expect: masked padding has no influence on a stack of recurrent layers.
#
# What happens: the layer returns its outputs in the order in which it has computed them: the last timestep comes
# first. But it passes the mask on in the order of the inputs. So the next layer skips real timesteps and reads
# padding, and predictions depend on the amount of padding. LSTM, GRU and SimpleRNN do so on all backends. There is no
# warning.
#
# Who meets it: whoever puts another recurrent layer on top of such a layer, and has padded batches.
#
# What to do: flip the outputs, and give the next layer the mask itself: next(ops.flip(h, axis=1), mask=mask). Or
# reverse the sequences in the data, so that the padding stays behind them, and use a layer without go_backwards.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: padding changes the prediction by 0%; with go_backwards by 55%; flipped, with the mask given, by 0%
#     GRU: padding changes the prediction by 0%; with go_backwards by 90%; flipped, with the mask given, by 0%
#     SimpleRNN: padding changes the prediction by 0%; with go_backwards by 53%; flipped, with the mask given, by 0%

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
from keras import layers, ops

short, padded = np.array([[1, 2, 3]]), np.array([[1, 2, 3, 0, 0]])


def difference(layer, flip=False, **options):
    """Return by how much two more padding tokens change the prediction."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    embedding = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal")
    embedded = embedding(inputs)
    hidden = layer(4, return_sequences=True, **options)(embedded)
    if flip:
        outputs = layer(4)(ops.flip(hidden, axis=1), mask=embedding.compute_mask(inputs))
    else:
        outputs = layer(4)(hidden)
    model = keras.Model(inputs, outputs)
    found = [model.predict(tokens, verbose=0) for tokens in (short, padded)]
    return float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())


for layer in layers.LSTM, layers.GRU, layers.SimpleRNN:
    forwards = difference(layer)
    backwards = difference(layer, go_backwards=True)
    mended = difference(layer, go_backwards=True, flip=True)
    print(
        f"{layer.__name__}: padding changes the prediction by {forwards:.0%}; with go_backwards by {backwards:.0%}; "
        f"flipped, with the mask given, by {mended:.0%}"
    )
    if forwards > 1e-4 or mended > 1e-4:
        sys.exit("changed: padding matters without go_backwards, or where the mask is given")
    if backwards < 1e-2:
        sys.exit("changed: with go_backwards, padding has no influence any more")
PY
