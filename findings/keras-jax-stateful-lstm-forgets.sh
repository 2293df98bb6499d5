#!/usr/bin/env bash
# On the JAX backend, predict(), evaluate() and fit() forget the states of a stateful LSTM.
#
# One would expect: with stateful=True, the states after one batch are the initial states of the next batch. A long
# sequence that is cut into two pieces then gives the same outputs as the whole sequence. On TensorFlow and PyTorch it
# does.
#
# What happens: a direct call, model(x), carries the states. predict() and predict_on_batch() do not. predict() does
# not even carry them from one batch to the next within one call, and neither do evaluate() and fit(). The second piece
# starts from zero states again. There is no warning.
#
# The reason: Keras's JAX trainer carries the values of model.variables from step to step. The states of a recurrent
# layer are variables, but they are not among model.variables.
#
# Who meets it: whoever cuts long sequences into pieces, and relies on stateful=True.
#
# What to do: call the model in your own loop, or pass the states on yourself (return_state=True, initial_state=...).
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     difference from the whole sequence: call 0.000, predict 0.046, predict_on_batch 0.046, two batches of one predict
#         0.046
#     loss of two batches against the whole sequence (0 if the states are carried): {'evaluate': 0.000416324648540467,
#         'fit': 0.000416324648540467}
#     states among model.variables: False

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
x = np.random.default_rng(0).normal(size=(1, 8, 3)).astype("float32")
pieces = [x[:, :4], x[:, 4:]]


def build(stateful):
    inputs = keras.Input(batch_shape=(1, None, 3))
    return keras.Model(inputs, keras.layers.LSTM(4, return_sequences=True, stateful=stateful)(inputs))


whole, stateful = build(False), build(True)
stateful.set_weights(whole.get_weights())
expected = whole.predict(x, verbose=0)


def error(compute):
    stateful.layers[-1].reset_states()
    return float(np.abs(np.concatenate([np.asarray(y) for y in compute()], axis=1) - expected).max())


def one_predict():
    two_batches = stateful.predict(np.concatenate(pieces), batch_size=1, verbose=0)
    return two_batches[:1], two_batches[1:]


called = error(lambda: [stateful(piece) for piece in pieces])
predicted = error(lambda: [stateful.predict(piece, verbose=0) for piece in pieces])
on_batch = error(lambda: [stateful.predict_on_batch(piece) for piece in pieces])
within = error(one_predict)
print(
    f"difference from the whole sequence: call {called:.3f}, predict {predicted:.3f}, "
    f"predict_on_batch {on_batch:.3f}, two batches of one predict {within:.3f}"
)
stateful.compile(keras.optimizers.SGD(0.0), "mse")  # a learning rate of 0: the weights stay
losses = {}
for name in "evaluate", "fit":
    stateful.layers[-1].reset_states()
    batches = np.concatenate(pieces), np.concatenate([expected[:, :4], expected[:, 4:]])
    found = getattr(stateful, name)(*batches, batch_size=1, verbose=0, **({"shuffle": False} if name == "fit" else {}))
    losses[name] = float(found.history["loss"][0] if name == "fit" else found)
print("loss of two batches against the whole sequence (0 if the states are carried):", losses)
known = {id(variable) for variable in stateful.variables}
print("states among model.variables:", any(id(state) in known for state in stateful.layers[-1].states))
if called > 1e-5:
    sys.exit("changed: a direct call no longer carries the states")
if min(predicted, on_batch, within) < 1e-3 or min(losses.values()) < 1e-6:
    sys.exit("changed: predict, predict_on_batch, evaluate or fit now carries the states")
PY
