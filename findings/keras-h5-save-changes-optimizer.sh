#!/usr/bin/env bash
# After model.save("best.h5"), a later model.save("final.keras") holds RMSprop, whatever the model was trained with.
#
# One would expect: saving a model does not change it. ModelCheckpoint("best.h5") and a last save as .keras are often
# used together.
#
# What happens: the model in memory works as before. But a .keras file that is saved after the .h5 file comes back with
# the optimizer RMSprop. RMSprop happens to have as many variables as SGD, so it gets SGD's learning rate and momenta.
# Training then goes on with another algorithm, without a message. Adam has another number of variables: Keras warns,
# and the learning rate and the momenta are lost.
#
# The reason: the model keeps the arguments of compile() in a dictionary. save() as .h5 removes the optimizer from it.
# The .keras file stores this dictionary. Where it holds no optimizer, compile() takes its default, "rmsprop".
#
# Who meets it: whoever saves a model in both formats, and later goes on training from the .keras file.
#
# What to do: do not save as .h5. (Weights alone do no harm: model.save_weights("x.weights.h5").) Or compile the loaded
# model again.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     trained with SGD 0.5, saved as None and .keras: loaded SGD 0.5, 1 steps
#     trained with SGD 0.5, saved as x.weights.h5 and .keras: loaded SGD 0.5, 1 steps
#     trained with SGD 0.5, saved as best.h5 and .keras: loaded RMSprop 0.5, 1 steps
#     trained with Adam 0.02, saved as None and .keras: loaded Adam 0.02, 1 steps
#     trained with Adam 0.02, saved as x.weights.h5 and .keras: loaded Adam 0.02, 1 steps
#     trained with Adam 0.02, saved as best.h5 and .keras: loaded RMSprop 0.001, 0 steps

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu
"$folder/venv/bin/python" - <<'PY'
import pathlib
import sys
import tempfile

import keras
import numpy as np

x, y = np.ones((4, 5, 3), "float32"), np.ones((4, 1), "float32")
sys.stdout.reconfigure(line_buffering=True)


def reload(optimizer, first):
    """Return the optimizer that a .keras file brings back, when the model was saved as `first` before."""
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4), keras.layers.Dense(1)])
    model.compile(type(optimizer).from_config(optimizer.get_config()), "mse")
    model.fit(x, y, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "final.keras")
        if first:
            (model.save_weights if "weights" in first else model.save)(pathlib.Path(folder, first))
        model.save(file)
        found = keras.models.load_model(file).optimizer
    print(
        f"trained with {type(optimizer).__name__} {float(optimizer.learning_rate):g}, saved as {first} and .keras: "
        f"loaded {type(found).__name__} {float(found.learning_rate):g}, {int(found.iterations)} steps"
    )
    return type(found).__name__, round(float(found.learning_rate), 6)


for optimizer, spoiled in (
    (keras.optimizers.SGD(0.5, momentum=0.9), ("RMSprop", 0.5)),
    (keras.optimizers.Adam(0.02), ("RMSprop", 0.001)),
):
    name = type(optimizer).__name__, round(float(optimizer.learning_rate), 6)
    if reload(optimizer, None) != name or reload(optimizer, "x.weights.h5") != name:
        sys.exit("changed: a .keras file does not bring the optimizer back")
    if reload(optimizer, "best.h5") != spoiled:
        sys.exit("changed: after .h5, the .keras file brings back another optimizer than stated")
PY
