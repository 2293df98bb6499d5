"""Writes a model of Keras's own layers to a file, with Keras on TensorFlow."""

import pathlib
import tempfile
from typing import Any


def saved_model(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes a folder."""
    model.export(str(path), input_signature=signature, verbose=False)


def onnx(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes one file. With a signature, Keras does not ask for a model that was called."""
    model.export(str(path), format="onnx", input_signature=signature, verbose=False)


def litert(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes one file of LiteRT's own operations.

    Those of TensorFlow, which Keras allows as well, need the Flex delegate, which no Python package has. A batch of
    known size makes do without.
    """
    import tensorflow as tf

    own = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    model.export(str(path), format="litert", input_signature=signature, verbose=False, target_spec=own)


def openvino(model: Any, path: pathlib.Path, signature: list[Any]) -> None:
    """Writes two files, .xml and .bin, by way of a SavedModel: Keras's own way fails on the loop of an LSTM."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        saved_model(model, pathlib.Path(folder), signature)
        ov.save_model(ov.convert_model(folder), path, compress_to_fp16=False)


WRITERS = {"saved_model": saved_model, "onnx": onnx, "litert": litert, "openvino": openvino}
