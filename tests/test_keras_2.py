"""Tensors and models of Keras 2 (tf_keras; tf.keras with TF_USE_LEGACY_KERAS=1): they are not those of Keras 3."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from lstm_fast import FastBidirectional, FastLSTM, accelerate, checks, to_keras

pytestmark = pytest.mark.backends("tensorflow")  # Keras 2 has no other backend

BATCH, TIME, FEATURES, UNITS = 2, 3, 4, 5

# The modules of the symbolic tensors of Keras 2, and of its older copy inside TensorFlow.
PACKAGES = ["tf_keras.src", "tf_keras", "keras.src", "keras", "tensorflow.python.keras"]
modules = pytest.mark.parametrize("module", [f"{package}.engine.keras_tensor" for package in PACKAGES])


def stand_in(module: str) -> Any:
    """A stand-in for a tensor of Keras 2. TensorFlow's functions take it for a tf.Tensor, as they do with many."""
    import tensorflow as tf

    class KerasTensor:
        shape = tf.TensorShape((BATCH, TIME, FEATURES))
        dtype = tf.float32

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            del dtype, copy
            return np.ones(self.shape, np.float32)

    KerasTensor.__module__ = module
    return type("SparseKerasTensor", (KerasTensor,), {})()


@modules
@pytest.mark.parametrize("wrap", [lambda layer: layer, FastBidirectional], ids=["lstm", "bidirectional"])
def test_symbolic_tensors_are_refused(wrap: Callable[[Any], Any], module: str) -> None:
    layer = wrap(FastLSTM(UNITS))
    layer.build((BATCH, TIME, FEATURES))
    with pytest.raises(
        TypeError, match=rf"'{layer.name}': `sequences`: .*found {module}.*KerasTensor, .*Keras 2.*set_w"
    ):
        layer.call(stand_in(module))


@modules
@pytest.mark.parametrize("convert", [accelerate, to_keras])
def test_models_are_refused(convert: Callable[[Any], Any], module: str) -> None:
    with pytest.raises(TypeError, match=rf"{convert.__name__}: `model`: .*found {module}.*Keras 2.*load_weights"):
        convert(stand_in(module))


def test_own_classes_are_not_refused() -> None:
    class Model(keras.Sequential):
        pass

    Model.__module__ = "keras_engine.tf_keras_tools"
    for value in (Model(), keras.Input((TIME, FEATURES)), np.ones(3), "tf_keras"):
        assert checks.of_keras_2(value) == ""
