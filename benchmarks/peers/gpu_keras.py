"""keras.layers.LSTM on TensorFlow, which runs cuDNN's on a GPU."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from lstm_fast.bench import keras_tensorflow
from lstm_fast.bench.contenders import keras_contender
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem

POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """As in gpu_torch."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def problem_of_device(device: str) -> str | None:
    """Returns why Keras cannot run on TensorFlow there."""
    if keras.backend.backend() != "tensorflow":
        return f"Keras runs on {keras.backend.backend()}; KERAS_BACKEND=tensorflow measures it"
    return "TensorFlow sees no GPU" if device == "cuda" and keras_tensorflow.device() is None else None


def prepare(problem: Problem, training: bool, *, precision: str) -> Prepared:
    return keras_contender("", policy=POLICIES[precision]).prepare(problem, training)
