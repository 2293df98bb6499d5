#!/usr/bin/env bash
# Under MirroredStrategy, a masked loss per timestep is not the loss of one device, and trains other weights.
#
# One would expect: data-parallel training gives the numbers of one device, up to rounding. Without a mask it does.
#
# What happens: in this example one half of the batch has 12 valid timesteps and the other 2. The step of the two
# replicas is the plain mean of the steps that each half would take alone. One device weighs these steps by 12 and 2.
# With one output per sequence, or without a mask, all is equal.
#
# The reason: Keras divides the loss by the number of valid timesteps, and each replica does so with its own number.
# Then Keras takes the mean over the replicas as if all had the same number. So timesteps in a replica with much
# padding weigh more.
#
# Who meets it: whoever trains on several devices a model with an output for each timestep, on padded batches.
#
# What to do: sort the batches by length: then the loss differs little. To be exact, take the sum of the loss
# (reduction="sum"), and divide by a number that is the same for all replicas, in the learning rate.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0 (tensorflow-cpu), NumPy 2.4.6, Python 3.11.
#
# Output:
#     no mask: loss 1.0688 and 1.0688, steps 0.0% apart
#     mask: loss 1.0895 and 0.9570, steps 288.3% apart
#     one device's step is 0.0% from the mean of the halves' steps by valid timesteps, the replicas' step 0.0% from the
#         plain mean
#     reduction="sum": steps 0.0% apart

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow-cpu==2.21.0 numpy==2.4.6
export KERAS_BACKEND=tensorflow KERAS_HOME="$folder/keras" TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys

import keras
import numpy as np
import tensorflow as tf

tf.get_logger().setLevel("ERROR")
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(0)
x, y = random.normal(size=(4, 6, 3)).astype("float32"), random.normal(size=(4, 6, 1)).astype("float32")
x[2:, 1:] = 0  # padding
one, two = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def step(strategy, rows, masked, reduction="sum_over_batch_size"):
    """Return the loss of one step of training, and how far it moves the weights."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        front = [keras.layers.Masking()] if masked else []
        lstm = keras.layers.LSTM(4, return_sequences=True)
        model = keras.Sequential([keras.Input((6, 3)), *front, lstm, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError(reduction=reduction))
    before = model.get_weights()
    losses = model.fit(x[rows], y[rows], batch_size=4, shuffle=False, verbose=0).history["loss"]
    return losses[0], np.concatenate([np.ravel(b - a) for a, b in zip(before, model.get_weights())])


def apart(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


everything, halves = slice(None), (slice(0, 2), slice(2, 4))
(plain, plain_step), (plain_two, plain_two_step) = step(one, everything, False), step(two, everything, False)
(masked, masked_step), (masked_two, masked_two_step) = step(one, everything, True), step(two, everything, True)
steps = [step(one, half, True)[1] for half in halves]
mean, weighted = np.mean(steps, axis=0), np.average(steps, axis=0, weights=[12, 2])
print(f"no mask: loss {plain:.4f} and {plain_two:.4f}, steps {apart(plain_step, plain_two_step):.1%} apart")
print(f"mask: loss {masked:.4f} and {masked_two:.4f}, steps {apart(masked_step, masked_two_step):.1%} apart")
print(
    f"one device's step is {apart(weighted, masked_step):.1%} from the mean of the halves' steps by valid timesteps, "
    f"the replicas' step {apart(mean, masked_two_step):.1%} from the plain mean"
)
sums = [step(strategy, everything, True, "sum")[1] for strategy in (one, two)]
print(f'reduction="sum": steps {apart(*sums):.1%} apart')
if apart(plain_step, plain_two_step) > 1e-4:
    sys.exit("changed: without a mask, two replicas take another step than one device")
if apart(masked_step, masked_two_step) < 0.05:
    sys.exit("changed: with a mask, two replicas take the step of one device")
if apart(weighted, masked_step) > 1e-3 or apart(mean, masked_two_step) > 1e-3:
    sys.exit("changed: one device's step, or that of the replicas, is another mean of the halves' steps")
if apart(*sums) > 1e-4:
    sys.exit('changed: with reduction="sum", two replicas take another step than one device')
PY
