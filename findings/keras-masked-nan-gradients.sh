#!/usr/bin/env bash
# NaN in masked timesteps leaves outputs and loss right, and makes every gradient of a recurrent layer NaN.
#
# One would expect: a masked timestep has no influence, whatever it holds. So NaN does no harm as padding, or in a gap
# of measured data that the mask excludes. The outputs and the loss suggest this, because they are exactly those of
# zero padding.
#
# What happens: predictions and loss are equal bit by bit. But after one step of training, all weights of the LSTM, GRU
# or SimpleRNN are NaN. From the second step on, everything is NaN. All backends do so.
#
# The reason: the loop computes the masked timestep as well, and then selects the old state. The gradient of what was
# not selected is zero, but zero times NaN is NaN.
#
# Who meets it: whoever trains on measured data with gaps.
#
# What to do: replace NaN before the model (np.nan_to_num), and keep the mask. keras.layers.Masking(nan) does not help:
# it masks nothing, because NaN is not equal to NaN.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: same predictions and loss: True; weights all NaN after one step: [True, True, True]
#     GRU: same predictions and loss: True; weights all NaN after one step: [True, True, True]
#     SimpleRNN: same predictions and loss: True; weights all NaN after one step: [True, True, True]

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

x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype("float32")
y = np.ones((4, 1), "float32")
mask = np.arange(6) < np.full((4, 1), 4)


def train(layer, padding):
    keras.utils.set_random_seed(0)
    padded = np.where(mask[..., None], x, np.float32(padding))
    inputs, valid = keras.Input((6, 3)), keras.Input((6,), dtype="bool")
    model = keras.Model([inputs, valid], keras.layers.Dense(1)(layer(4)(inputs, mask=valid)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    prediction = model.predict([padded, mask], verbose=0)
    loss = float(model.train_on_batch([padded, mask], y))
    return prediction, loss, model.layers[-2].get_weights()


for layer in keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN:
    zeros, nans = train(layer, 0), train(layer, np.nan)
    same = np.array_equal(zeros[0], nans[0]) and zeros[1] == nans[1]
    lost = [bool(np.isnan(weight).all()) for weight in nans[2]]
    print(f"{layer.__name__}: same predictions and loss: {same}; weights all NaN after one step: {lost}")
    if not same:
        sys.exit("changed: the outputs or the loss are no longer those of zero padding")
    if not all(lost):
        sys.exit("changed: the weights stay finite, at least in part")
PY
