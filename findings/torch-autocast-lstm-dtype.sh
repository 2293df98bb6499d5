#!/usr/bin/env bash
# Under torch.autocast on a CPU, the dtype of a recurrent layer's output does not tell how it was computed.
#
# One would expect: autocast to bfloat16 gives bfloat16. Where it leaves an operator in float32, it gives float32 with
# the accuracy of float32. LSTM, GRU and RNN behave alike. So do padded and packed sequences, which are two layouts of
# the same data.
#
# What happens: LSTM gives bfloat16 for padded input, and float32 for a packed sequence. GRU gives float32 for both,
# RNN bfloat16 for both. All have the error of bfloat16, more than ten thousand times that of float32, because the
# products are bfloat16 in any case. So a float32 result has three digits. And a model that changes from padded to
# packed input gets another dtype after the layer.
#
# Who meets it: whoever uses autocast on a CPU, and takes the dtype for the accuracy.
#
# What to do: turn autocast off around the layer where accuracy matters (torch.autocast("cpu", enabled=False)), and
# convert outputs to one dtype.
#
# Versions: PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: float32 2e-08 off; under autocast: padded torch.bfloat16, 1e-03 off; packed torch.float32, 1e-03 off
#     GRU: float32 9e-08 off; under autocast: padded torch.float32, 2e-03 off; packed torch.float32, 2e-03 off
#     RNN: float32 6e-08 off; under autocast: padded torch.bfloat16, 5e-03 off; packed torch.bfloat16, 3e-03 off

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

torch.manual_seed(0)
x, lengths = torch.randn(2, 5, 3), torch.tensor([5, 3])
half, single = torch.bfloat16, torch.float32


def packed_outputs(model):
    outputs, _ = model(pack_padded_sequence(x, lengths, batch_first=True))
    return pad_packed_sequence(outputs, batch_first=True)[0]


def error(found, reference):
    """Return the largest error of the first row, which has no padding."""
    return (found[0].double() - reference[0]).abs().max().item()


for layer, expected in (torch.nn.LSTM, (half, single)), (torch.nn.GRU, (single, single)), (torch.nn.RNN, (half, half)):
    model = layer(3, 4, batch_first=True)
    without = model(x)[0]
    with torch.autocast("cpu", half):
        padded, packed = model(x)[0], packed_outputs(model)
    reference = model.double()(x.double())[0]
    errors = [error(found, reference) for found in (without, padded, packed)]
    print(
        f"{layer.__name__}: float32 {errors[0]:.0e} off; under autocast: padded {padded.dtype}, {errors[1]:.0e} off; "
        f"packed {packed.dtype}, {errors[2]:.0e} off"
    )
    if (padded.dtype, packed.dtype) != expected:
        sys.exit(f"changed: {layer.__name__} gave the dtypes {expected}")
    if min(errors[1:]) < 100 * errors[0]:
        sys.exit(f"changed: {layer.__name__} under autocast is about as accurate as float32")
PY
