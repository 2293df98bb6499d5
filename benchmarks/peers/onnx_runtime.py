"""ONNX Runtime's LSTM operator, which has no backward pass. Time-major is the only layout it has on the CPU."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Weights


def _iofc(array: np.ndarray) -> np.ndarray:
    """Puts the gates, on the last axis, from Keras's order i, f, c, o into ONNX's: i, o, f, c."""
    i, f, c, o = np.split(array, 4, axis=-1)
    return np.concatenate([i, o, f, c], axis=-1)


def _model(problem: Problem) -> bytes:
    def initializers(weights: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kernel, recurrent_kernel, bias = map(_iofc, weights)
        return kernel.T, recurrent_kernel.T, np.concatenate([bias, np.zeros_like(bias)])  # one bias of two is zero

    stacked = [np.stack(column) for column in zip(*map(initializers, problem.weights), strict=True)]
    lengths = ["lengths"] * (problem.lengths is not None)
    node = helper.make_node(
        "LSTM",
        ["x", "W", "R", "B", *lengths],
        ["y"],
        hidden_size=problem.weights[0].recurrent_kernel.shape[0],
        direction="bidirectional" if len(problem.weights) == 2 else "forward",
    )
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, None])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT32, [None]) for name in lengths]
    graph = helper.make_graph(
        [node],
        "lstm",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, None, None])],
        [numpy_helper.from_array(array, name) for array, name in zip(stacked, "WRB", strict=True)],
    )
    # An old version of the format, which every ONNX Runtime of today reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return model.SerializeToString()


def prepare(problem: Problem, training: bool) -> Prepared:
    if training:
        raise ValueError("ONNX Runtime has no backward pass of LSTM")
    session = onnxruntime.InferenceSession(_model(problem), providers=["CPUExecutionProvider"])
    feed = {"x": np.ascontiguousarray(problem.x.swapaxes(0, 1))}
    if problem.lengths is not None:
        feed["lengths"] = problem.lengths.astype(np.int32)
    batch, time, _ = problem.x.shape

    def results(outputs: list[np.ndarray]) -> list[np.ndarray]:
        (y,) = outputs  # [T, N, B, H]
        return [y.transpose(2, 0, 1, 3).reshape(batch, time, -1)]

    return Prepared(lambda: session.run(["y"], feed), results)
