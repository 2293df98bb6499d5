#!/usr/bin/env bash
# With a seed, both directions of Bidirectional(LSTM(dropout=...)) draw the same dropout masks.
#
# One would expect: a seed makes a run repeatable. It does not make two parts of a model equal. Without a seed, the two
# directions draw independent masks.
#
# What happens: in each call, both directions drop the same features, and with recurrent_dropout the same units. So
# both halves of the output have the same noise. LSTM and GRU do so on all backends.
#
# The reason: Bidirectional makes the backward layer from the config of the forward layer, and this config holds the
# seed. (The config of SimpleRNN lacks the seed. So a copied or loaded SimpleRNN has none at all.)
#
# Who meets it: whoever gives such a layer a seed, to repeat an experiment.
#
# What to do: call keras.utils.set_random_seed(...), and give the layer no seed. Or give the backward layer another
# seed: backward_layer=LSTM(..., seed=another, go_backwards=True).
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: the same masks: without seed False, seed=7 True, seeds 7 and 8 False
#     GRU: the same masks: without seed False, seed=7 True, seeds 7 and 8 False
#     the seed in the config: {'LSTM': 7, 'GRU': 7, 'SimpleRNN': None}

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
from keras import layers

keras.utils.set_random_seed(0)
x = np.ones((1, 1, 64), "float32")


def same(layer, backwards_seed=None, **options):
    """Return whether two directions with equal weights give the same outputs, under dropout of one timestep."""
    values = keras.initializers.RandomNormal(seed=1)
    options |= {"kernel_initializer": values, "recurrent_initializer": values, "dropout": 0.5}
    backward = backwards_seed and layer(8, go_backwards=True, **options | {"seed": backwards_seed})
    both = layers.Bidirectional(layer(8, **options), merge_mode=None, backward_layer=backward)
    without = [np.asarray(y) for y in both(x, training=False)]
    if not np.array_equal(*without):
        sys.exit("changed: equal weights give unequal outputs")
    return np.array_equal(*(np.asarray(y) for y in both(x, training=True)))


for layer in layers.LSTM, layers.GRU:
    free, seeded, two = same(layer), same(layer, seed=7), same(layer, seed=7, backwards_seed=8)
    print(f"{layer.__name__}: the same masks: without seed {free}, seed=7 {seeded}, seeds 7 and 8 {two}")
    if not seeded:
        sys.exit("changed: with a seed, the directions draw different masks")
    if free or two:
        sys.exit("changed: without a seed or with two seeds, the directions draw the same masks")

found = {
    layer.__name__: layer(8, seed=7).get_config().get("seed") for layer in (layers.LSTM, layers.GRU, layers.SimpleRNN)
}
print("the seed in the config:", found)
if found != {"LSTM": 7, "GRU": 7, "SimpleRNN": None}:
    sys.exit("changed: another set of layers holds the seed in its config")
PY
