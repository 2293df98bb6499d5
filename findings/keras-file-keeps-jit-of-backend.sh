#!/usr/bin/env bash
# Keras: an LSTM model that was compiled and saved on TensorFlow runs without jit after JAX has loaded it.
#
# One would expect: compile(jit_compile="auto") is the default, and means "as this backend does best". A .keras file
# may go from one backend to another. So JAX chooses anew, and it chooses jit.
#
# What happens: the file holds jit_compile=False, because "auto" became that on TensorFlow. On JAX the model then runs
# one operation at a time, and predict of an LSTM takes many times as long. There is no warning. In the other
# direction, a file of JAX holds True, and Keras on PyTorch passes the model to torch.compile.
#
# The reason: compile() resolves "auto" at once if the model has an LSTM, and the configuration keeps the result.
#
# Who meets it: whoever trains on one backend and loads the model on another.
#
# What to do: call model.compile(...) again after load_model, or set model.jit_compile = True.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0 (CPU), JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     saved on tensorflow: the file says jit_compile=False
#     loaded on jax: jit_compile=False; compiled again: True
#     predict takes at least 10 times as long as after compile: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow-cpu==2.21.0 jax==0.10.2 numpy==2.4.6
export JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3
cd "$folder"
KERAS_BACKEND=tensorflow venv/bin/python - 2> /dev/null <<'PY'
import json
import sys
import zipfile

import keras

model = keras.Sequential([keras.Input((60, 8)), keras.layers.LSTM(16), keras.layers.Dense(1)])
model.compile("adam", "mse")
model.save("model.keras")
config = json.loads(zipfile.ZipFile("model.keras").read("config.json"))["compile_config"]
print(f"saved on tensorflow: the file says jit_compile={config['jit_compile']}")
if config["jit_compile"] is not False:
    sys.exit("changed: the file no longer holds jit_compile=False")
PY
KERAS_BACKEND=jax venv/bin/python - <<'PY'
import statistics
import sys
import time

import keras
import numpy as np

x = np.ones((8, 60, 8), np.float32)


def seconds(model):
    model.predict_on_batch(x)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        model.predict_on_batch(x)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


model = keras.saving.load_model("model.keras")
loaded, slow = model.jit_compile, seconds(model)
model.compile("adam", "mse")
again, fast = model.jit_compile, seconds(model)
print(f"loaded on jax: jit_compile={loaded}; compiled again: {again}")
print(f"predict takes at least 10 times as long as after compile: {slow > 10 * fast}")
if loaded is not False or again is not True or slow <= 10 * fast:
    sys.exit("changed: a file of TensorFlow now runs with jit on JAX")
PY
