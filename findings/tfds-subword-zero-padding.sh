#!/usr/bin/env bash
# SubwordTextEncoder decodes a text with padding behind it, and raises for padding before it or inside it.
#
# One would expect: id 0 is padding: the vocabulary leaves it free, vocab_size counts it, and padded_batch() fills with
# it. So decode() skips it wherever it stands, as it skips it at the end.
#
# What happens: decode() strips zeros from the end only. Any other zero is "ValueError: Received id 0 which is invalid.
# Ids must be within [0, 259)", and 0 does lie within [0, 259). So left-padded rows (the default of Keras's
# pad_sequences) cannot be decoded. A neighbour: encode() and decode() are not inverse for every text; the internal name
# of the underscore, backslash & undsc, followed by a blank, gains a blank.
#
# What to do: encoder.decode([i for i in ids if i]).
#
# Versions: TFDS 4.9.10, TensorFlow 2.21.0 (tensorflow-cpu), Python 3.11.
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
"$folder/venv/bin/pip" install --quiet tensorflow-datasets==4.9.10 tensorflow-cpu==2.21.0 importlib_resources numpy==2.4.6
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
        sys.exit(f"changed: it was {expected!r}")
source = "\\&undsc x"
back = encoder.decode(encoder.encode("a" + source))
print(repr("a" + source), "->", repr(back))
if back == "a" + source:
    sys.exit("changed: encode and decode are inverse for backslash & undsc and a blank")
PY
