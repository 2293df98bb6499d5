"""Runs a written file: a script, for a process without this package and Keras.

Some runtimes end their process if they cannot read a file. This is another reason for a separate process.

Usage: python serve.py FOLDER

Reads from the folder `job.json` (`format`, `path`, the names of the `inputs`, the number of `cases`) and `inputs.npz`.
Writes `outputs.npz`, or, if the file does not run, `error.txt`.
"""

import importlib
import json
import pathlib
import re
import sys
from typing import Any

import numpy as np

# For each call, an array for each input or output.
Cases = list[list[Any]]


class RowsError(ValueError):
    """A file takes another number of rows."""


def saved_model(path: str, _: list[str], cases: Cases) -> Cases:
    """Runs the endpoint `serve` of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(path)  # a variable, because its endpoints do not keep it alive
    arguments, _ = loaded.serve.concrete_functions[0].structured_input_signature
    specs = tf.nest.flatten(arguments)
    results = []
    for arrays in cases:
        tensors = [tf.constant(array, spec.dtype) for array, spec in zip(arrays, specs, strict=True)]
        outputs = loaded.serve(*tf.nest.pack_sequence_as(arguments, tensors))
        results.append([output.numpy() for output in tf.nest.flatten(outputs)])
    return results


def onnx(path: str, inputs: list[str], cases: Cases) -> Cases:
    """Runs an ONNX file with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = in_order(inputs, [node.name for node in session.get_inputs()])
    return [session.run(None, dict(zip(names, arrays, strict=True))) for arrays in cases]


def litert(path: str, inputs: list[str], cases: Cases) -> Cases:
    """Runs a LiteRT file with the interpreter of ai-edge-litert or else of TensorFlow, the first one that works.

    Raises:
        RowsError: The file takes another number of rows. The interpreters would resize it, and fail somewhere inside.
        RuntimeError: It does not run.
    """
    errors = []
    for package in ("ai_edge_litert.interpreter", "tensorflow.lite.python.interpreter"):
        try:
            interpreter = importlib.import_module(package).Interpreter(model_path=path)
            run = interpreter.get_signature_runner("serving_default")
            details = run.get_input_details()
            names = in_order(inputs, list(details))
            check_rows([details[name]["shape_signature"] for name in names], cases)
            results = [run(**dict(zip(names, arrays, strict=True))) for arrays in cases]
        except RowsError:
            raise
        except Exception as error:
            errors.append(f"{package}: {error}")
        else:
            return [[outputs[name] for name in sorted(outputs, key=position)] for outputs in results]
    raise RuntimeError("; ".join(errors))


def openvino(path: str, inputs: list[str], cases: Cases) -> Cases:
    """Runs an OpenVINO file in float32. OpenVINO's default is bfloat16 on many processors."""
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = in_order(inputs, [node.any_name for node in model.inputs])
    outputs = sorted(model.outputs, key=lambda node: position(node.any_name))
    results = [model(dict(zip(names, arrays, strict=True))) for arrays in cases]
    return [[found[output] for output in outputs] for found in results]


def check_rows(shapes: list[Any], cases: Cases) -> None:
    """Raises RowsError for calls with more or fewer rows than a LiteRT file takes; -1 is any number."""
    for arrays in cases:
        for shape, array in zip(shapes, arrays, strict=True):
            if len(shape) and shape[0] not in (-1, len(array)):
                raise RowsError(f"the file takes a batch of {shape[0]}, found {len(array)}; give batch_size={shape[0]}")


def in_order(expected: list[str], found: list[str]) -> list[str]:
    """Returns the names of a file's inputs, in the order of the model's inputs."""
    return expected if set(expected) == set(found) else found


def position(name: str) -> list[Any]:
    """Returns a key that sorts outputs: `output_10` comes after `output_9`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def main(folder: pathlib.Path) -> None:
    """Runs the job in a folder."""
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "inputs.npz") as file:
        cases = [[file[f"{n}/{i}"] for i in range(len(job["inputs"]))] for n in range(job["cases"])]
    formats = {"saved_model": saved_model, "onnx": onnx, "litert": litert, "openvino": openvino}
    try:
        results = formats[job["format"]](job["path"], job["inputs"], cases)
    except Exception as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")
        return
    outputs = {f"{n}/{i}": array for n, arrays in enumerate(results) for i, array in enumerate(arrays)}
    np.savez(folder / "outputs.npz", **outputs)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this script
    sys.modules.update({"lstm_fast": None, "keras": None})  # type: ignore[dict-item]
    main(pathlib.Path(sys.argv[1]))
