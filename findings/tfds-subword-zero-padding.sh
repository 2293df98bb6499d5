#!/usr/bin/env bash
# SubwordTextEncoder decodes a text with padding after it, and raises for padding before it or inside it.
#
# One would expect: id 0 is padding: the vocabulary leaves it free, vocab_size counts it, and padded_batch() fills with
# it. decode() skips it at the end. So decode() skips it wherever it stands.
#
# What happens: decode() removes zeros at the end only. Any other zero raises "ValueError: Received id 0 which is
# invalid. Ids must be within [0, 259)", although 0 lies within [0, 259). (Besides, encode() and decode() are not
# inverse for every text. The internal name of the underscore is backslash & undsc. If a blank follows it in a text,
# one blank is added.)
#
# Who meets it: whoever decodes rows with padding on the left. This is the default of Keras's pad_sequences.
#
# What to do: remove the zeros first: encoder.decode([i for i in ids if i]).
#
# Versions: TFDS 4.9.10, TensorFlow 2.21.0 (tensorflow-cpu), NumPy 2.4.6, Python 3.11.
#
# Output:
#     ids [1, 2] vocab_size 259
#     behind [1, 2, 0, 0] -> 'good film'
#     before [0, 0, 1, 2] -> ValueError: Received id 0 which is invalid. Ids must be within [0, 259).
#     inside [1, 0, 2] -> ValueError: Received id 0 which is invalid. Ids must be within [0, 259).
#     taken out [1, 2] -> 'good film'
#     'a\\&undsc x' -> 'a\\&undsc  x'

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorflow-datasets==4.9.10 tensorflow-cpu==2.21.0 importlib_resources \
  numpy==2.4.6
export TF_CPP_MIN_LOG_LEVEL=3 CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys

import tensorflow_datasets as tfds

encoder = tfds.deprecated.text.SubwordTextEncoder(vocab_list=["good_", "film"])
text = "good film"
ids = encoder.encode(text)
print("ids", ids, "vocab_size", encoder.vocab_size)
for name, padded, expected in (
    ("behind", [*ids, 0, 0], text),
    ("before", [0, 0, *ids], ValueError),
    ("inside", [ids[0], 0, *ids[1:]], ValueError),
    ("taken out", [i for i in [0, 0, *ids] if i], text),
):
    try:
        found = encoder.decode(padded)
        print(name, padded, "->", repr(found))
    except ValueError as error:
        found = ValueError
        print(name, padded, "-> ValueError:", error)
    if found != expected:
        sys.exit(f"changed: {padded} gave {expected!r}, and now gives {found!r}")
source = "\\&undsc x"
back = encoder.decode(encoder.encode("a" + source))
print(repr("a" + source), "->", repr(back))
if back == "a" + source:
    sys.exit("changed: encode and decode are inverse for backslash & undsc and a blank")
PY
