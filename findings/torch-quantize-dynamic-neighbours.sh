#!/usr/bin/env bash
# PyTorch: after quantize_dynamic(), the output for a sequence depends on the other sequences of its batch, and on
# later timesteps.
#
# One would expect: int8 weights make the numbers coarser. But each row of a batch is still computed for itself, and a
# recurrent layer still does not look ahead. So a text gets the same score alone and in a batch.
#
# What happens: one neighbour with large values makes everything else in the batch coarse. The error is several times
# that of the quantization by itself. Large values in the padding after the end of a sequence do the same.
#
# The reason: "dynamic" means that PyTorch rounds the inputs of a product to int8 by one scale. The scale comes from
# the largest value in the whole input: of all rows and all timesteps.
#
# Who meets it: whoever serves a quantized model, and puts requests into batches.
#
# What to do: score with the batch size of the test. Or keep padding at zero, and clip or normalize the inputs. Or
# quantize in a way that has fixed scales.
#
# Versions: PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: int8 against float32 0.0030; a neighbour changes float32 by 3e-08, int8 by 0.0247; later timesteps by 0.0241
#     GRU: int8 against float32 0.0078; a neighbour changes float32 by 3e-08, int8 by 0.0325; later timesteps by 0.0448
#     Linear: int8 against float32 0.0108; a neighbour changes float32 by 0e+00, int8 by 0.0692; later timesteps by
#         0.0773

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import torch

warnings.simplefilter("ignore")
torch.manual_seed(0)
x = torch.randn(1, 5, 3)
neighbour, later = 10 * torch.randn(1, 5, 3), 10 * torch.randn(1, 2, 3)


def outputs(model, value):
    result = model(value)
    return (result[0] if isinstance(result, tuple) else result).detach()


def largest(a, b):
    return (a - b).abs().max().item()


for layer, options in (
    (torch.nn.LSTM, {"batch_first": True}),
    (torch.nn.GRU, {"batch_first": True}),
    (torch.nn.Linear, {}),
):
    model = torch.nn.Sequential(layer(3, 4, **options)).eval()
    int8 = torch.ao.quantization.quantize_dynamic(model, {layer}, dtype=torch.qint8)
    rounding = largest(outputs(int8, x), outputs(model, x))
    moves = {}
    for name, candidate in ("float32", model), ("int8", int8):
        alone = outputs(candidate, x)
        batched = outputs(candidate, torch.cat([x, neighbour]))[:1]
        longer = outputs(candidate, torch.cat([x, later], dim=1))[:, :5]
        moves[name] = largest(alone, batched), largest(alone, longer)
    print(
        f"{layer.__name__}: int8 against float32 {rounding:.4f}; a neighbour changes float32 by "
        f"{moves['float32'][0]:.0e}, int8 by {moves['int8'][0]:.4f}; later timesteps by {moves['int8'][1]:.4f}"
    )
    if max(moves["float32"]) > 1e-6:
        sys.exit("changed: float32 depends on the neighbours")
    if min(moves["int8"]) < 2 * rounding:
        sys.exit("changed: int8 does not depend on neighbours or later timesteps, or less than it rounds")
PY
