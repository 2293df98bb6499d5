#!/usr/bin/env bash
# OpenVINO reads an ONNX LSTM with peepholes or input_forget, leaves these out, and says nothing.
#
# One would expect: what OpenVINO cannot compute it refuses.
#
# What happens: an ONNX LSTM may have peephole weights (input P), and an attribute input_forget, which couples the
# forget gate to the input gate. OpenVINO converts the node without both, and computes a plain LSTM: exactly what it
# computes for the file without them. ONNX Runtime computes both as the operator's description says; a loop in NumPy
# shows it. Without them, and with clip, the two runtimes agree up to rounding.
#
# Who meets it: whoever deploys speech models of the time when peepholes were usual, converted to ONNX, on OpenVINO.
#
# What to do: look for LSTM nodes with an eighth input or with input_forget=1 before a conversion, and compare the
# outputs with ONNX Runtime's.
#
# Versions: OpenVINO 2026.4.1, ONNX 1.23.2, ONNX Runtime 1.32.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     plain: ONNX Runtime 2e-07 off, OpenVINO 1e-07 off
#     clip: ONNX Runtime 5e-08 off, OpenVINO 2e-08 off
#     peepholes: ONNX Runtime 2e-07 off, OpenVINO 0.15 off and as without them: True
#     input_forget: ONNX Runtime 2e-07 off, OpenVINO 0.45 off and as without them: True

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

TIME, BATCH, FEATURES, UNITS = 5, 2, 3, 4
rng = np.random.default_rng(0)


def random(*shape):
    return rng.normal(size=shape).astype("float32")


weights = {"W": random(1, 4 * UNITS, FEATURES), "R": random(1, 4 * UNITS, UNITS), "B": random(1, 8 * UNITS)}
peepholes = {"P": random(1, 3 * UNITS)}
x = 2 * random(TIME, BATCH, FEATURES)


def model(more, attributes):
    given = {**weights, **more}
    inputs = ["X", "W", "R", "B", *(["", "", "", "P"] if more else [])]
    node = helper.make_node("LSTM", inputs, ["Y"], hidden_size=UNITS, **attributes)
    tensors = [helper.make_tensor(n, TensorProto.FLOAT, a.shape, a.tobytes(), raw=True) for n, a in given.items()]
    sizes = {"X": [TIME, BATCH, FEATURES], "Y": [TIME, 1, BATCH, UNITS]}
    x_info, y_info = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items())
    graph = helper.make_graph([node], "lstm", [x_info], [y_info], tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(made)
    return made.SerializeToString()


def by_runtime(content):
    return onnxruntime.InferenceSession(content).run(None, {"X": x})[0]


def by_openvino(content):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(compiled([x]).values())).copy()


def by_loop(more, clip=np.inf, input_forget=0):
    """Return what the operator's description says, in float64."""
    w, r, bias = (array[0].astype(float) for array in weights.values())
    of_input, of_output, of_forget = more.get("P", np.zeros((1, 3 * UNITS)))[0].astype(float).reshape(3, UNITS)
    h, c, outputs = np.zeros((BATCH, UNITS)), np.zeros((BATCH, UNITS)), []

    def sigmoid(values):
        return 1 / (1 + np.exp(-np.clip(values, -clip, clip)))

    for timestep in x.astype(float):
        z = timestep @ w.T + h @ r.T + bias[: 4 * UNITS] + bias[4 * UNITS :]
        i, o, f, g = np.split(z, 4, axis=1)
        i = sigmoid(i + of_input * c)
        f = 1 - i if input_forget else sigmoid(f + of_forget * c)
        c = f * c + i * np.tanh(np.clip(g, -clip, clip))
        h = sigmoid(o + of_output * c) * np.tanh(np.clip(c, -clip, clip))
        outputs.append(h)
    return np.stack(outputs)[:, None]


plain = by_openvino(model({}, {}))
cases = {
    "plain": ({}, {}),
    "clip": ({}, {"clip": 0.5}),
    "peepholes": (peepholes, {}),
    "input_forget": ({}, {"input_forget": 1}),
}
for name, (more, attributes) in cases.items():
    content, expected = model(more, attributes), by_loop(more, **attributes)
    found = by_openvino(content)
    right, off = (np.abs(each - expected).max() for each in (by_runtime(content), found))
    if name in ("plain", "clip"):
        print(f"{name}: ONNX Runtime {right:.0e} off, OpenVINO {off:.0e} off")
        if off > 1e-5:
            sys.exit(f"changed: OpenVINO is wrong for {name}")
    else:
        ignored = np.array_equal(found, plain)
        print(f"{name}: ONNX Runtime {right:.0e} off, OpenVINO {off:.2f} off and as without them: {ignored}")
        if off < 0.01 or not ignored:
            sys.exit(f"changed: OpenVINO no longer leaves out {name}")
    if right > 1e-5:
        sys.exit(f"changed: ONNX Runtime is wrong for {name}")
PY
