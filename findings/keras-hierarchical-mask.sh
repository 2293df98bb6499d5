#!/usr/bin/env bash
# An LSTM above TimeDistributed(LSTM) gets a mask with one axis too many. JAX is right. PyTorch and TensorFlow raise,
# or give wrong numbers if there are as many words as units.
#
# One would expect: a model of documents has Embedding(mask_zero=True), TimeDistributed(LSTM) over the words of a
# sentence, and an LSTM over the sentences. This last LSTM skips a sentence without words.
#
# What happens: TimeDistributed passes on the mask of the words, [batch, sentences, words]. On JAX a sentence counts if
# any of its words does, and the result is right. On PyTorch and TensorFlow the mask of one step is [batch, words], and
# the states are [batch, units]. Where these sizes differ, that is an error. Where words == units, word k of a sentence
# decides whether unit k of the document's state changes. Then the numbers are wrong, without a warning.
#
# Who meets it: whoever builds a model of words, sentences and documents.
#
# What to do: give the outer layer its mask: outer(h, mask=ops.any(ops.not_equal(tokens, 0), axis=-1)).
#
# Versions: Keras 3.15.1, JAX 0.10.2, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     jax, 4 units: words per sentence 5: right; 4: right
#     torch, 4 units: words per sentence 5: raises; 4: wrong

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 jax==0.10.2 numpy==2.4.6
export KERAS_HOME="$folder/keras" JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import os
import subprocess
import sys

MODEL = """
import keras, numpy as np
from keras import layers, ops

def predict(words, give_mask):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((3, words), dtype="int32")
    weights = keras.initializers.RandomNormal(seed=1)
    normal = dict(kernel_initializer=weights, recurrent_initializer=weights)
    hidden = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer=weights)(tokens)
    hidden = layers.TimeDistributed(layers.LSTM(4, **normal))(hidden)
    mask = ops.any(ops.not_equal(tokens, 0), axis=-1) if give_mask else None
    model = keras.Model(tokens, layers.LSTM(4, **normal)(hidden, mask=mask))
    text = np.zeros((1, 3, words), "int32")
    text[0, :2, :2] = [[1, 2], [3, 0]]
    return model.predict(text, verbose=0)

expected = predict(4, True)
for words in 5, 4:
    try:
        error = np.abs(predict(words, False) - expected).max() / np.abs(expected).max()
        print(words, "right" if error < 1e-4 else "wrong" if error > 0.1 else "between")
    except Exception as error:
        print(words, "raises")
"""
for backend, expected in ("jax", ["5 right", "4 right"]), ("torch", ["5 raises", "4 wrong"]):
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run([sys.executable, "-c", MODEL], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = run.stdout.strip().splitlines()
    print(f"{backend}, 4 units: words per sentence", "; ".join(line.replace(" ", ": ") for line in found))
    if found != expected:
        sys.exit(f"changed: {backend} gives {found}, and gave {expected}")
PY
