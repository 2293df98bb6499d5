"""Writes a model of Keras's own layers to a file, with Keras on TensorFlow."""

import pathlib
import tempfile
from typing import Any


def saved_model(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes a folder."""
    model.export(str(path), input_signature=signature, verbose=False)


def onnx(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes one file. With a signature, Keras also takes a model that was never called."""
    model.export(str(path), format="onnx", input_signature=signature, verbose=False)


def litert(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes one file of LiteRT's own operations.

    Keras also allows those of TensorFlow. They need the Flex delegate, and no Python package has it. With a fixed batch
    size they are not needed.
    """
    import tensorflow as tf

    builtins = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(str(path), format="litert", input_signature=signature, verbose=False, target_spec=builtins)


def openvino(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes two files, .xml and .bin, through a SavedModel. Keras's own export fails on the loop of an LSTM."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        saved_model(model, pathlib.Path(folder), signature)
        ov.save_model(ov.convert_model(folder), path, compress_to_fp16=False)


WRITERS = {"saved_model": saved_model, "onnx": onnx, "litert": litert, "openvino": openvino}
