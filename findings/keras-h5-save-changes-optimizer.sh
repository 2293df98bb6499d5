#!/usr/bin/env bash
# After model.save("best.h5"), a later model.save("final.keras") holds RMSprop, whatever the model was trained with.
#
# One would expect: saving a model does not change it. ModelCheckpoint("best.h5") and a last save as .keras is a common
# pair.
#
# What happens: the model in memory goes on as before, but the .keras file that is saved after the .h5 file is loaded
# with the optimizer RMSprop. The learning rate and the momenta of SGD are poured into it, as the numbers of variables
# happen to fit, so that training goes on with another algorithm and no word. With Adam they do not fit: a warning, and
# the learning rate and the momenta are lost.
#
# The reason: save() as .h5 removes the optimizer from the dictionary of compile's arguments that the model keeps.
# .keras stores this dictionary, and compile() puts the default, "rmsprop", where there is no optimizer.
#
# What to do: do not save as .h5 (or only weights, model.save_weights("x.weights.h5"), which is harmless); or compile
# the loaded model again.
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
