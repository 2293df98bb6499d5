"""A large product of matrices: what the machine can do, and so the floor of a layer's time."""

import keras
import numpy as np

from lstm_fast.bench import keras_layers
from lstm_fast.bench.prepared import Prepared

SIZE = 2048  # rows and columns: enough that all of the time goes into the product, three times 16 MiB
GPU_SIZE = 4096


def on_numpy() -> Prepared:
    """Float32, by NumPy's BLAS, on the CPU."""
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE), np.float32)
    return Prepared(lambda: np.matmul(a, b), list)


def on_device(dtype: str) -> Prepared:
    """By the framework under Keras, wherever it runs, with its own switches for TF32."""
    arrays = np.random.default_rng(0).standard_normal((2, GPU_SIZE, GPU_SIZE), np.float32)
    a, b = (keras.ops.convert_to_tensor(array, dtype=dtype) for array in arrays)
    prepared: Prepared = keras_layers.framework().prepared(lambda: [keras.ops.matmul(a, b)])
    return prepared
