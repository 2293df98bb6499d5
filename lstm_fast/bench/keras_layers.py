"""Keras layers, with whichever backend Keras runs on: its own, and those of lstm_fast."""

import importlib
from types import ModuleType
from typing import Any

import keras

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem


def framework() -> ModuleType:
    """Returns what runs layers with Keras's backend: `keras_tensorflow`, `keras_jax` or `keras_torch`.

    Each has the same functions: `device()`, the name of the GPU, None on a CPU; `prepared(launch)`, a contender of a
    function that returns tensors; `launcher(layer, problem, training, jit)`, such a function, of a layer.
    """
    return importlib.import_module(f"lstm_fast.bench.keras_{keras.backend.backend()}")


def prepare(
    problem: Problem,
    training: bool,
    *,
    layer_class: type[keras.layers.LSTM],
    wrapper: type[keras.layers.Bidirectional],
    policy: str = "float32",
    jit: bool = False,
    **options: Any,
) -> Prepared:
    """`wrapper` is for two directions; `jit` is for TensorFlow; `options` are further arguments of the layer."""
    units = problem.weights[0].recurrent_kernel.shape[0]
    # Zero, because that is what Bidirectional and the other frameworks return at padding.
    layer = layer_class(units, return_sequences=True, zero_output_for_mask=True, dtype=policy, **options)
    if len(problem.weights) == 2:
        layer = wrapper(layer, dtype=policy)
    layer.build(problem.x.shape)
    layer.set_weights([array for direction in problem.weights for array in direction])
    side = framework()
    prepared: Prepared = side.prepared(side.launcher(layer, problem, training, jit))
    return prepared
