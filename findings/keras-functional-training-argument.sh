#!/usr/bin/env bash
# predict(), evaluate() and fit() overrule a training=True that was written into a functional model.
#
# One would expect: dropout(h, training=True) is fixed in the model. This is the well-known way to Monte Carlo dropout:
# make ten predictions, and take their spread as the uncertainty. In the same way, batch_norm(x, training=False) keeps
# a BatchNormalization frozen during fine-tuning.
#
# What happens: a direct call, model(x), respects the argument. predict() puts training=False in its place, and fit()
# puts training=True. So the spread of ten predictions is zero, which looks like "no uncertainty". And fit() moves the
# averages of the frozen BatchNormalization. All backends do so, also with LSTM(dropout=...).
#
# Who meets it: whoever estimates uncertainty by Monte Carlo dropout, or fine-tunes a model with BatchNormalization.
#
# What to do: for dropout, write a layer whose call() always passes training=True. For BatchNormalization, set
# layer.trainable = False, which also stops the averages.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     Dropout, training=True: spread of model(x) 0.5178, of predict(x) 0.0000
#     LSTM(dropout=0.5), training=True: spread of model(x) 0.3091, of predict(x) 0.0000
#     a layer of one's own: spread of model(x) 0.5178, of predict(x) 0.5285
#     BatchNormalization, training=False, trainable=True: fit moved the mean by 0.0667
#     BatchNormalization, training=False, trainable=False: fit moved the mean by 0.0000

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

x = np.ones((1, 5, 3), "float32")


class AlwaysDropout(keras.layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


def spread(predict):
    return float(np.std([np.asarray(predict(x)) for _ in range(10)], axis=0).max())


def spreads(dropout):
    """Return the spread of ten direct calls and of ten predictions."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, dropout(inputs))
    return spread(model), spread(lambda value: model.predict(value, verbose=0))


for name, dropout in {
    "Dropout": lambda h: keras.layers.Dropout(0.5)(keras.layers.LSTM(8)(h), training=True),
    "LSTM(dropout=0.5)": lambda h: keras.layers.LSTM(8, dropout=0.5)(h, training=True),
}.items():
    called, predicted = spreads(dropout)
    print(f"{name}, training=True: spread of model(x) {called:.4f}, of predict(x) {predicted:.4f}")
    if called < 1e-2 or predicted > 1e-6:
        sys.exit("changed: predict no longer overrules training=True, or a call does")
called, predicted = spreads(lambda h: AlwaysDropout(0.5)(keras.layers.LSTM(8)(h)))
print(f"a layer of one's own: spread of model(x) {called:.4f}, of predict(x) {predicted:.4f}")
if min(called, predicted) < 1e-2:
    sys.exit("changed: a layer of one's own does not help")

data = np.random.default_rng(0).normal(3, 2, (64, 3)).astype("float32")
for frozen in False, True:
    inputs, layer = keras.Input((3,)), keras.layers.BatchNormalization()
    layer.trainable = not frozen
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs, training=False)))
    model.compile("sgd", "mse")
    model.fit(data, data[:, :1], verbose=0)
    moved = float(np.abs(np.asarray(layer.moving_mean)).max())
    print(f"BatchNormalization, training=False, trainable={layer.trainable}: fit moved the mean by {moved:.4f}")
    if (moved > 0) == frozen:
        sys.exit("changed: fit no longer moves the mean, or moves it in spite of trainable=False")
PY
