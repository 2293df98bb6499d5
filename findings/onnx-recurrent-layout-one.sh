#!/usr/bin/env bash
# An ONNX LSTM, GRU or RNN with layout=1, batch first: OpenVINO recurs over the batch, ONNX Runtime refuses the file.
#
# One would expect: layout=1, which ONNX has had since operator set 14, is only another order of axes. Runtimes
# compute the same as for layout=0 with the axes exchanged, or refuse the file.
#
# What happens: OpenVINO takes the rows of the batch for timesteps and the timesteps for rows, and says nothing. So a
# sequence's output depends on the sequences before it in the batch, and not on its own earlier timesteps. The output
# has the order batch, direction, time, units, where ONNX says batch, time, direction, units. ONNX Runtime makes no
# session. ONNX's reference evaluator computes what is meant, and so do both runtimes for layout=0.
#
# Who meets it: whoever writes ONNX by hand or with a converter of their own for data in Keras's or batch_first order,
# and looks at shapes only: with one direction a reshape hides the order of the output.
#
# What to do: write layout=0 and a Transpose before and after the node, as Keras's and PyTorch's exporters do.
#
# Why: OpenVINO's own operator has the batch first. Its reader of ONNX files exchanges the axes for layout=1, which
# has them in that order already.
#
# Versions: ONNX 1.23.2, ONNX Runtime 1.32.0 (CPU), OpenVINO 2026.4.1, NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM, layout=1: ONNX Runtime refuses; reference (2, 5, 1, 4), 9e-08 off; OpenVINO (2, 1, 5, 4), 0.5 off, and 7e-08
#         from a recurrence over the batch
#     GRU, layout=1: ONNX Runtime refuses; reference (2, 5, 1, 4), 9e-08 off; OpenVINO (2, 1, 5, 4), 0.8 off, and 1e-07
#         from a recurrence over the batch
#     RNN, layout=1: ONNX Runtime refuses; reference (2, 5, 1, 4), 2e-07 off; OpenVINO (2, 1, 5, 4), 0.6 off, and 2e-07
#         from a recurrence over the batch

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
export PYTHONWARNINGS=ignore
"$folder/venv/bin/python" - <<'PY'
import io
import sys

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, checker, helper
from onnx.reference import ReferenceEvaluator

TIME, BATCH, FEATURES, UNITS = 5, 2, 3, 4
batch_first = np.random.default_rng(0).normal(size=(BATCH, TIME, FEATURES)).astype("float32")
time_first = np.ascontiguousarray(batch_first.transpose(1, 0, 2))
onnxruntime.set_default_logger_severity(4)


def model(operator, gates, layout):
    rows = gates * UNITS
    weights = {"W": (1, rows, FEATURES), "R": (1, rows, UNITS)}
    tensors = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, np.sin(np.arange(np.prod(shape))).tolist())
        for name, shape in weights.items()
    ]
    node = helper.make_node(operator, ["X", "W", "R"], ["Y"], hidden_size=UNITS, layout=layout)
    x_info = helper.make_tensor_value_info("X", TensorProto.FLOAT, ["first", "second", FEATURES])
    y_info = helper.make_tensor_value_info("Y", TensorProto.FLOAT, [f"size {n}" for n in range(4)])
    graph = helper.make_graph([node], "layer", [x_info], [y_info], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(made)
    return made


def by_openvino(made, x):
    core = openvino.Core()
    content = io.BytesIO(made.SerializeToString())
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled([x]).values())).copy()


def by_runtime(made, x):
    return onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"X": x})[0]


def error(found, expected):
    return np.abs(found - expected).max()


for operator, gates in ("LSTM", 4), ("GRU", 3), ("RNN", 1):
    plain, other = model(operator, gates, layout=0), model(operator, gates, layout=1)
    expected = by_runtime(plain, time_first)[:, 0].transpose(1, 0, 2)  # batch, time, units
    over_batch = by_runtime(plain, batch_first)[:, 0]  # the same axes, with rows taken for timesteps
    reference = ReferenceEvaluator(other).run(None, {"X": batch_first})[0]
    found = by_openvino(other, batch_first)
    try:
        by_runtime(other, batch_first)
        sys.exit(f"changed: ONNX Runtime runs {operator} with layout=1")
    except Exception as refused:
        if "layout" not in str(refused):
            sys.exit(f"changed: ONNX Runtime says something else: {refused}")
    errors = [error(reference[:, :, 0], expected), error(found[:, 0], expected), error(found[:, 0], over_batch)]
    print(
        f"{operator}, layout=1: ONNX Runtime refuses; reference {reference.shape}, {errors[0]:.0e} off; "
        f"OpenVINO {found.shape}, {errors[1]:.1f} off, and {errors[2]:.0e} from a recurrence over the batch"
    )
    if error(by_openvino(plain, time_first)[:, 0].transpose(1, 0, 2), expected) > 1e-5 or errors[0] > 1e-5:
        sys.exit("changed: OpenVINO with layout=0, or the reference evaluator, is wrong")
    if found.shape != (BATCH, 1, TIME, UNITS) or errors[1] < 0.1 or errors[2] > 1e-5:
        sys.exit(f"changed: OpenVINO no longer recurs over the batch in {operator}")
PY
