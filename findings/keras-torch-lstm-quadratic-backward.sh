#!/usr/bin/env bash
# On PyTorch, the backward pass of a Keras LSTM costs the square of the number of timesteps.
#
# One would expect: the work of a recurrent layer grows with the number of timesteps: twice the timesteps, twice the
# work.
#
# What happens: the forward pass does so. But the backward pass writes four times as many elements when the timesteps
# double.
#
# The reason: the layer multiplies inputs and kernel for all timesteps at once, and takes out one timestep after
# another by indexing. The gradient of each indexing is a tensor of zeros as large as all timesteps, and PyTorch adds
# all of them up. Together they have exactly batch x timesteps x timesteps x 4 x units elements.
#
# Who meets it: whoever trains on long sequences. At 1,354 timesteps (the longest batches of IMDB reviews) a training
# step takes minutes on a CPU.
#
# What to do: for long sequences use another backend, or torch.nn.LSTM (keras.layers.TorchModuleWrapper).
#
# Versions: Keras 3.15.1, PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     50 timesteps: elements written forwards 17,927, backwards 207,653, of which 80,000 for indexing
#     100 timesteps: elements written forwards 35,827, backwards 735,353, of which 320,000 for indexing x 2.00 x 3.54
#     200 timesteps: elements written forwards 71,627, backwards 2,750,753, of which 1,280,000 for indexing x 2.00 x
#         3.74
#     400 timesteps: elements written forwards 143,227, backwards 10,621,553, of which 5,120,000 for indexing x 2.00 x
#         3.86

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6
export KERAS_BACKEND=torch KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys
from collections import Counter

import keras
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Written(TorchDispatchMode):
    """Counts the elements of the results of PyTorch's operators."""

    def __init__(self):
        super().__init__()
        self.elements = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, (list, tuple)) else [results]:
            if isinstance(result, torch.Tensor):
                self.elements[str(function)] += result.numel()
        return results


layer = keras.layers.LSTM(8)
layer(torch.ones(1, 1, 2))
before = None
for timesteps in 50, 100, 200, 400:
    with Written() as forward:
        loss = layer(torch.ones(1, timesteps, 2)).sum()
    with Written() as backward:
        loss.backward()
    now = forward.elements.total(), backward.elements.total()
    selected = backward.elements["aten.select_backward.default"]
    growth = [b / a for a, b in zip(before, now)] if before else None
    print(
        f"{timesteps} timesteps: elements written forwards {now[0]:,}, backwards {now[1]:,}, "
        f"of which {selected:,} for indexing",
        *(f"x {factor:.2f}" for factor in growth or ()),
    )
    before = now
    if selected != timesteps * timesteps * 4 * 8:
        sys.exit("changed: the gradients of indexing are no longer as large as all timesteps")
if not 1.9 < growth[0] < 2.1 or growth[1] < 3.7:
    sys.exit("changed: the forward pass is not linear, or the backward pass not quadratic")
PY
