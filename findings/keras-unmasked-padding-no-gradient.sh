#!/usr/bin/env bash
# Padding without a mask: no word has any gradient from the forward LSTM, not a small one but exactly zero.
#
# One would expect: without a mask, an LSTM reads the padding after a text like more text. The gradient of the words is
# smaller then, as after any long text. The forward half of a Bidirectional layer learns a bit more slowly.
#
# What happens: with 1,000 timesteps of padding after 100 of text, the gradient of the loss with respect to each of the
# 100 inputs is 0.0 in all features. Each timestep of padding multiplies it by about the same factor. In a new layer,
# after some 470 timesteps nothing is left that float32 can hold. So the forward half learns from padding alone. The
# backward half, which reads the text last, learns as usual. With a mask both do.
#
# Who meets it: whoever follows a tutorial that pads texts to the longest of the batch, and gives the embedding no
# mask_zero=True. Reviews of films are often padded by a thousand timesteps. Loss and accuracy look normal, because one
# half of the layer learns.
#
# What to do: mask_zero=True in the embedding, or batches of texts of similar length.
#
# Versions: TensorFlow 2.21.0 (tensorflow-cpu), Keras 3.15.1, NumPy 2.4.6, Python 3.11.
#
# Output:
#     forward half, no mask: 0 of 100 words have a gradient
#     backward half, no mask: 100 of 100 words have a gradient
#     forward half, mask: 100 of 100 words have a gradient
#     backward half, mask: 100 of 100 words have a gradient

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6
export KERAS_HOME="$folder/keras" KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - 2> "$folder/errors" <<'PY' || { code=$?; tail -5 "$folder/errors" >&2; exit "$code"; }
import sys

import keras
import numpy as np
import tensorflow as tf

WORDS, PADDING = 100, 1000
keras.utils.set_random_seed(0)
ids = np.zeros((8, WORDS + PADDING), "int64")
ids[:, :WORDS] = np.random.default_rng(0).integers(1, 1000, (8, WORDS))
vectors = keras.layers.Embedding(1000, 64)(ids)
halves = {"forward": keras.layers.LSTM(64), "backward": keras.layers.LSTM(64, go_backwards=True)}
for masked in False, True:
    for name, half in halves.items():
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            loss = tf.reduce_sum(half(vectors, mask=ids > 0 if masked else None) ** 2)
        gradient = tape.gradient(loss, vectors).numpy()[:, :WORDS]
        some = int((gradient != 0).any((0, 2)).sum())
        print(f"{name} half, {'mask' if masked else 'no mask'}: {some} of {WORDS} words have a gradient")
        expected = 0 if name == "forward" and not masked else WORDS
        if some != expected:
            sys.exit(f"changed: {some} of {WORDS} words have a gradient, and {expected} had one")
PY
