#!/usr/bin/env bash
# Keras: an LSTM with implementation=1 or use_cudnn=False loses both when it is saved, loaded or copied.
#
# One would expect: a layer that is made from the config of another one has the same arguments. implementation=1 draws
# one mask of input dropout for each gate, implementation=2 one for all four. So they train differently.
#
# What happens: get_config() has neither argument. The copy has implementation 2 and use_cudnn "auto". So have the
# layers of a loaded .keras file. Bidirectional copies its layers in the same way, but passes use_cudnn on.
#
# Who meets it: whoever goes on training a loaded model with dropout, or has turned cuDNN off.
#
# What to do: set layer.cell.implementation, layer.cell.dropout_mask_count and layer.use_cudnn again after loading.
#
# Versions: Keras 3.15.1, JAX 0.10.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     made: implementation 1, 4 dropout masks, use_cudnn False
#     from_config: implementation 2, None dropout masks, use_cudnn auto
#     loaded file: implementation 2, None dropout masks, use_cudnn auto
#     in a Bidirectional: implementation 2, None dropout masks, use_cudnn False

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 jax==0.10.2 numpy==2.4.6
export KERAS_BACKEND=jax JAX_PLATFORMS=cpu
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys

import keras

made = keras.layers.LSTM(3, dropout=0.5, implementation=1, use_cudnn=False)
keras.Sequential([keras.Input((4, 2)), made]).save("model.keras")
layers = {
    "made": made,
    "from_config": keras.layers.LSTM.from_config(made.get_config()),
    "loaded file": keras.models.load_model("model.keras").layers[0],
    "in a Bidirectional": keras.layers.Bidirectional(made).forward_layer,
}
found = {}
for name, layer in layers.items():
    masks = getattr(layer.cell, "dropout_mask_count", None)
    found[name] = (layer.cell.implementation, masks, layer.use_cudnn)
    print(f"{name}: implementation {found[name][0]}, {masks} dropout masks, use_cudnn {layer.use_cudnn}")
lost = (2, None, "auto")
if found != {"made": (1, 4, False), "from_config": lost, "loaded file": lost, "in a Bidirectional": (2, None, False)}:
    sys.exit("changed: a copy of an LSTM keeps other arguments than stated")
PY
