#!/usr/bin/env bash
# With the dtype policy "bfloat16", Adam and AdamW never change a weight, and Nadam makes all weights NaN.
#
# One would expect: training in pure bfloat16 is coarse, but the model learns. With SGD and RMSprop it does.
#
# What happens: the loss is the same in every epoch, and no weight changes by a single bit. There is no warning.
#
# The reason: the optimizer computes in the dtype of the variables. bfloat16 has 8 bits of precision, so Adam's beta_2
# = 0.999 becomes 1. The factor sqrt(1 - beta_2 ** step) is then zero, and so is the whole step.
#
# Who meets it: whoever keeps the variables in bfloat16, to save memory. With an LSTM the first try ends in an error,
# because the default recurrent_initializer, "orthogonal", cannot be computed in bfloat16. With another initializer the
# model runs, but does not learn.
#
# What to do: use the policy "mixed_bfloat16", whose variables are float32. Or give beta_2=0.99, which is less than 1
# in bfloat16.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     0.999 in bfloat16 is 1.0
#     bfloat16, adam: 0 of 5 weights changed, 0 NaN; losses 1.0009 1.0009 1.0009 1.0009 1.0009
#     bfloat16, adam_w: 0 of 5 weights changed, 0 NaN; losses 1.0009 1.0009 1.0009 1.0009 1.0009
#     bfloat16, nadam: 5 of 5 weights changed, 5 NaN; losses 1.0009 nan nan nan nan
#     bfloat16, sgd: 5 of 5 weights changed, 0 NaN; losses 1.0009 0.3974 0.1355 0.0319 0.0063
#     bfloat16, rm_sprop: 5 of 5 weights changed, 0 NaN; losses 1.0009 0.2442 0.0027 0.0002 0.0000
#     bfloat16, adam_1: 5 of 5 weights changed, 0 NaN; losses 1.0009 0.1505 0.0156 0.1306 0.1480
#     mixed_bfloat16, adam_2: 5 of 5 weights changed, 0 NaN; losses 1.3392 0.3351 0.0082 0.0675 0.1377

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

x, y = np.ones((8, 5, 3), "float32"), np.ones((8, 1), "float32")
sys.stdout.reconfigure(line_buffering=True)


def train(policy, optimizer):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    lstm = keras.layers.LSTM(4, recurrent_initializer="glorot_uniform")
    model = keras.Sequential([keras.Input((5, 3)), lstm, keras.layers.Dense(1)])
    model.compile(optimizer, "mse")
    before = [np.asarray(weight, "float32") for weight in model.get_weights()]
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    after = [np.asarray(weight, "float32") for weight in model.get_weights()]
    moved = sum(not np.array_equal(a, b) for a, b in zip(before, after))
    lost = sum(bool(np.isnan(weight).all()) for weight in after)
    print(
        f"{policy}, {optimizer.name}: {moved} of 5 weights changed, {lost} NaN; losses", *(f"{v:.4f}" for v in losses)
    )
    return moved, lost


O = keras.optimizers
print("0.999 in bfloat16 is", float(keras.ops.cast(0.999, "bfloat16")))
for optimizer in O.Adam(0.05), O.AdamW(0.05):
    if train("bfloat16", optimizer) != (0, 0):
        sys.exit(f"changed: {optimizer.name} changes weights")
if train("bfloat16", O.Nadam(0.05))[1] != 5:
    sys.exit("changed: Nadam leaves numbers")
for policy, optimizer in (
    ("bfloat16", O.SGD(0.05)),
    ("bfloat16", O.RMSprop(0.05)),
    ("bfloat16", O.Adam(0.05, beta_2=0.99)),
    ("mixed_bfloat16", O.Adam(0.05)),
):
    if train(policy, optimizer) != (5, 0):
        sys.exit(f"changed: {optimizer.name} under {policy} does not change all weights")
PY
