#!/usr/bin/env bash
# ONNX's own reference evaluator ignores sequence_lens of LSTM, GRU and RNN.
#
# One would expect: onnx.reference.ReferenceEvaluator shows what a runtime should compute. Where it lacks something, it
# raises.
#
# What happens: with sequence_lens it computes all timesteps of all rows, with the padding, and says nothing. Outputs
# after the end of a row are not zero, and the final states are those after the padding. ONNX Runtime does what the
# operator's description says. With equal lengths the two agree up to rounding, so a first test passes.
#
# Who meets it: whoever tests a runtime or an exporter against the reference evaluator.
#
# What to do: do not check masks or lengths with it. Compute each row alone, without its padding, and compare.
#
# Versions: ONNX 1.23.2, ONNX Runtime 1.32.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: reference against runtime: lengths 4 4: 6e-08, lengths 4 2: 0.42; largest output behind the end: runtime
#         0.00, reference 0.33; reference ignores lengths: True
#     GRU: reference against runtime: lengths 4 4: 1e-07, lengths 4 2: 0.90; largest output behind the end: runtime
#         0.00, reference 0.90; reference ignores lengths: True
#     RNN: reference against runtime: lengths 4 4: 3e-07, lengths 4 2: 1.42; largest output behind the end: runtime
#         0.00, reference 0.98; reference ignores lengths: True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
export PYTHONWARNINGS=ignore
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

STEPS, ROWS, INPUTS, UNITS = 4, 2, 2, 3
random = np.random.default_rng(0)


def build(operator, gates):
    """Return a model, checked by onnx, and its inputs without the lengths."""
    values = {
        "X": random.normal(size=(STEPS, ROWS, INPUTS)).astype("float32"),
        "W": random.normal(size=(1, gates * UNITS, INPUTS)).astype("float32"),
        "R": random.normal(size=(1, gates * UNITS, UNITS)).astype("float32"),
    }
    declare = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["X", "W", "R", "", "lengths"], ["Y", "Y_h"], hidden_size=UNITS)],
        "graph",
        [
            *(declare(name, TensorProto.FLOAT, value.shape) for name, value in values.items()),
            declare("lengths", TensorProto.INT32, (ROWS,)),
        ],
        [declare("Y", TensorProto.FLOAT, (STEPS, 1, ROWS, UNITS)), declare("Y_h", TensorProto.FLOAT, (1, ROWS, UNITS))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model, values


for operator, gates in ("LSTM", 4), ("GRU", 3), ("RNN", 1):
    model, values = build(operator, gates)
    reference = ReferenceEvaluator(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(runtime, *lengths):
        return runtime.run(None, values | {"lengths": np.array(lengths, "int32")})

    full = max(np.abs(a - b).max() for a, b in zip(run(session, 4, 4), run(reference, 4, 4)))
    short = max(np.abs(a - b).max() for a, b in zip(run(session, 4, 2), run(reference, 4, 2)))
    ignored = all(np.array_equal(a, b) for a, b in zip(run(reference, 4, 4), run(reference, 4, 2)))
    beyond = [float(np.abs(run(runtime, 4, 2)[0][2:, 0, 1]).max()) for runtime in (session, reference)]
    print(
        f"{operator}: reference against runtime: lengths 4 4: {full:.0e}, lengths 4 2: {short:.2f}; largest output "
        f"behind the end: runtime {beyond[0]:.2f}, reference {beyond[1]:.2f}; reference ignores lengths: {ignored}"
    )
    if full > 1e-5 or beyond[0] != 0:
        sys.exit("changed: ONNX Runtime no longer does as stated")
    if not ignored:
        sys.exit("changed: the reference evaluator reads sequence_lens")
PY
