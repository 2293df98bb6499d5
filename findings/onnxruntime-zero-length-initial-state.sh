#!/usr/bin/env bash
# ONNX Runtime: the final state of a sequence of length 0 is zero, not its initial state.
#
# One would expect: sequence_lens says how many timesteps each row has. After no timestep, the state is the initial
# one. So a batch that goes on piece by piece keeps the state of a row that has ended.
#
# What happens: LSTM, GRU and RNN return zeros for Y_h (and Y_c) of such a row, and so does the reverse direction of
# "bidirectional". initial_h and initial_c of the row are lost. Rows of length 1 and more are right. The operator's
# description says nothing about this case. Keras keeps the initial state of a wholly masked row.
#
# Who meets it: whoever reads sequences of different lengths piece by piece in one batch.
#
# What to do: after the run, put the initial states back where the length is 0: np.where(lengths[:, None] == 0, h0, h).
#
# Versions: ONNX 1.23.2, ONNX Runtime 1.32.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM, forward: initial states 0.5; final states of the row of length 0: {0.0}
#     LSTM, bidirectional: initial states 0.5; final states of the row of length 0: {0.0}
#     GRU, forward: initial states 0.5; final states of the row of length 0: {0.0}
#     GRU, bidirectional: initial states 0.5; final states of the row of length 0: {0.0}
#     RNN, forward: initial states 0.5; final states of the row of length 0: {0.0}
#     RNN, bidirectional: initial states 0.5; final states of the row of length 0: {0.0}

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

STEPS, ROWS, INPUTS, UNITS = 4, 2, 2, 3
random = np.random.default_rng(0)


def final_states(operator, gates, direction, lengths):
    directions = 2 if direction == "bidirectional" else 1
    states = ["initial_h", "initial_c"][: 2 if operator == "LSTM" else 1]
    values = {
        "X": random.normal(size=(STEPS, ROWS, INPUTS)),
        "W": random.normal(size=(directions, gates * UNITS, INPUTS)),
        "R": random.normal(size=(directions, gates * UNITS, UNITS)),
        **{state: np.full((directions, ROWS, UNITS), 0.5) for state in states},
    }
    values = {name: value.astype("float32") for name, value in values.items()}
    values["lengths"] = np.array(lengths, "int32")
    outputs = ["Y_h", "Y_c"][: len(states)]
    node = helper.make_node(
        operator, ["X", "W", "R", "", "lengths", *states], ["", *outputs], hidden_size=UNITS, direction=direction
    )
    kinds = {name: TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT for name in values}
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], value.shape) for name, value in values.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (directions, ROWS, UNITS)) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, values)


for operator, gates in ("LSTM", 4), ("GRU", 3), ("RNN", 1):
    for direction in "forward", "bidirectional":
        states = final_states(operator, gates, direction, [STEPS, 0])
        found = {float(value) for state in states for value in state[:, 1].ravel()}
        print(f"{operator}, {direction}: initial states 0.5; final states of the row of length 0: {found}")
        if found != {0.0}:
            sys.exit("changed: the final state of a row of length 0 is not zero")
PY
