#!/usr/bin/env bash
# After quantize_dynamic of an LSTM's ONNX file, a row's answer depends on the other rows of its batch. With a mask
# nothing becomes faster, because the products stay in float.
#
# One would expect: quantized weights make a file smaller and a little less exact, and a row's answer is its own. This
# also works for the file of a model with mask_zero=True, which gets smaller by as much.
#
# What happens: without a mask, Keras writes an LSTM operator, which becomes DynamicQuantizeLSTM. It has one scale for
# the inputs of all rows. So one row with large inputs changes the answers of the others. (In float they stay the same,
# to the last bits.) With a mask, Keras writes a Loop around MatMul. The file stores the weights in 8 bits, and makes
# them float again before the loop. All products in the loop are of float.
#
# Who meets it: whoever quantizes a model to serve it, and puts requests into batches.
#
# What to do: quantize the unmasked file alone. Give it batches of one, or inputs of one range.
#
# Versions: Keras 3.15.1, TensorFlow 2.21.0, ONNX 1.23.2, tf2onnx 1.17.0, ONNX Runtime 1.32.0, NumPy 2.4.6, Python 3.11.
#
# Output:
#     unmasked: DynamicQuantizeLSTM; beside a large row an answer changes by: float 0.0000, int8 0.0639
#     masked: in the loop over time: MatMul, MatMul; the weights: made float again before it

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6 onnx==1.23.2 tf2onnx==1.17.0 \
  onnxruntime==1.32.0
export KERAS_BACKEND=tensorflow KERAS_HOME="$folder/keras" CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3
cd "$folder"
"$folder/venv/bin/python" - 2>stderr <<'PY' || { tail -5 stderr; exit 1; }
import sys

import keras
import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import quantize_dynamic

keras.utils.set_random_seed(0)


def export(name, *first):
    """Write a model with an LSTM, and its quantized file; return the operators of the latter, and those in loops."""
    model = keras.Sequential([keras.Input((None, 8), name="x"), *first, keras.layers.LSTM(16)])
    signature = [keras.InputSpec(shape=(None, None, 8), dtype="float32", name="x")]
    model.export(f"{name}.onnx", format="onnx", input_signature=signature, verbose=False)
    quantize_dynamic(f"{name}.onnx", f"{name}_int8.onnx")
    nodes = onnx.load(f"{name}_int8.onnx").graph.node
    bodies = [attribute.g.node for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    return [node.op_type for node in nodes], [node.op_type for body in bodies for node in body]


operators, _ = export("unmasked")
x = np.random.default_rng(0).normal(size=(1, 12, 8)).astype("float32")
changes = []
for file in "unmasked.onnx", "unmasked_int8.onnx":
    session = onnxruntime.InferenceSession(file)
    alone, beside = (session.run(None, {"x": rows})[0][0] for rows in (x, np.concatenate([x, 30 * x])))
    changes.append(float(np.abs(alone - beside).max()))
kind = next((name for name in operators if "LSTM" in name), "no LSTM")
print(f"unmasked: {kind}; beside a large row an answer changes by: float {changes[0]:.4f}, int8 {changes[1]:.4f}")
if kind != "DynamicQuantizeLSTM" or changes[0] > 1e-5 or changes[1] < 1e-3:
    sys.exit("changed: the answer of a row does not depend on the others")

operators, inside = export("masked", keras.layers.Masking())
products = [name for name in inside if "MatMul" in name]
restored = "made float again before it" if "DequantizeLinear" in operators else "not made float"
print(f"masked: in the loop over time: {', '.join(products)}; the weights: {restored}")
if set(products) != {"MatMul"} or "DequantizeLinear" not in operators:
    sys.exit("changed: the products of a masked LSTM are not of float")
PY
