#!/usr/bin/env bash
# torch.onnx.export() of an LSTM with a time axis that has a name and bounds writes a file whose time axis is fixed.
#
# One would expect: dynamic_shapes={"x": {1: Dim("time", min=1, max=500)}} leaves the axis free in the file, or raises
# where this cannot be. torch.export.export() with the same request raises, and says that the axis became a constant.
#
# What happens: torch.onnx.export() writes the file without an error. In the file, another axis has its name, "batch",
# but the time axis has the 7 of the sample. Dim.AUTO promises less, but gives a free axis and right numbers for other
# lengths. (The file still declares 7 for its output, and ONNX Runtime warns of that.)
#
# Who meets it: whoever exports an LSTM for sequences of any length. The file refuses the first sequence of another
# length.
#
# What to do: ask for Dim.AUTO, for the time axis or for all axes of a recurrent layer's input, and look at the shapes
# in the file.
#
# Versions: PyTorch 2.13.0 (CPU), ONNX 1.23.2, ONNX Runtime 1.32.0, onnxscript 0.7.2, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: torch.export refuses the named time axis: True
#       torch.onnx.export, named axes: ['batch', 7, 3], nine timesteps: None
#       torch.onnx.export, Dim.AUTO: ['s77', 's27', 3], nine timesteps: 5.0e-08 off
#     GRU: torch.export refuses the named time axis: True
#       torch.onnx.export, named axes: ['batch', 7, 3], nine timesteps: None
#       torch.onnx.export, Dim.AUTO: ['s77', 's27', 3], nine timesteps: 1.2e-07 off

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0
export CUDA_VISIBLE_DEVICES=""
"$folder/venv/bin/python" - <<'PY'
import logging
import os
import sys
import tempfile
import warnings

import onnx
import onnxruntime
import torch
from torch.export import Dim

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.manual_seed(0)


class Outputs(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def export(model, axes):
    """Return the axes that the file declares, and its error for nine timesteps (None: it refuses them)."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "model.onnx")
        torch.onnx.export(model, (torch.randn(2, 7, 3),), file, dynamo=True, dynamic_shapes={"x": axes}, verbose=False)
        declared = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options)
    shape = [axis.dim_param or axis.dim_value for axis in declared]
    x = torch.randn(2, 9, 3)
    try:
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    except Exception:
        return shape, None
    return shape, (torch.from_numpy(found) - model(x)).abs().max().item()


named = {0: Dim("batch", min=1, max=64), 1: Dim("time", min=1, max=500)}
for layer in torch.nn.LSTM, torch.nn.GRU:
    model = Outputs(layer(3, 4, batch_first=True)).eval()
    try:
        torch.export.export(model, (torch.randn(2, 7, 3),), dynamic_shapes={"x": named})
        refused = False
    except Exception as error:
        refused = "specialized it to be a constant (7)" in str(error)
    print(f"{layer.__name__}: torch.export refuses the named time axis: {refused}")
    shape, error = export(model, named)
    print(f"  torch.onnx.export, named axes: {shape}, nine timesteps: {error}")
    free, error_free = export(model, {0: Dim.AUTO, 1: Dim.AUTO})
    print(f"  torch.onnx.export, Dim.AUTO: {free}, nine timesteps: {error_free:.1e} off")
    if not refused:
        sys.exit("changed: torch.export takes a named time axis, or refuses it for another reason")
    if shape != ["batch", 7, 3] or error is not None:
        sys.exit("changed: the file with named axes has no fixed time axis")
    if not isinstance(free[1], str) or error_free > 1e-5:
        sys.exit("changed: Dim.AUTO gives no free time axis")
PY
