"""Keras on TensorFlow: a layer in a tf.function, as a graph or through XLA."""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem

Launch = Callable[[], list[Any]]


def device() -> str | None:
    """Returns the name of the first GPU, None if there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    return str(tf.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)) if gpus else None


def prepared(launch: Launch) -> Prepared:
    """On a GPU a step returns when it is on its way, and the clock waits for an element of the last result."""

    def results(arrays: list[Any]) -> list[np.ndarray]:
        return [np.asarray(array, np.float32) for array in arrays]

    if device() is None:
        # Waits without copying, as the other frameworks' contenders do: numpy() copies, a tenth of a short step.
        return Prepared(lambda: [np.asarray(array) for array in launch()], results)
    last: list[Any] = []

    def step() -> list[Any]:
        last[:] = launch()
        return last

    def clock() -> float:
        if last:
            last[-1][(0,) * last[-1].ndim].numpy()
        return time.perf_counter()

    return Prepared(step, results, clock)


def launcher(layer: keras.Layer, problem: Problem, training: bool, jit: bool) -> Launch:
    """Calls and differentiates the layer."""
    x = tf.cast(problem.x, layer.compute_dtype)
    mask = None if problem.mask is None else tf.constant(problem.mask)
    given = None if problem.dy is None else tf.cast(problem.dy, layer.compute_dtype)

    def run(x: tf.Tensor, mask: tf.Tensor | None, given: tf.Tensor | None) -> list[tf.Tensor]:
        if not training:
            return [layer(x, mask=mask)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
        dy = y * (2 / np.prod(y.shape)) if given is None else given
        sources = [x, *(weight.value for weight in layer.trainable_weights)]
        return [y, *tape.gradient(y, sources, output_gradients=dy)]

    compiled = tf.function(run, jit_compile=jit, autograph=False)
    return lambda: compiled(x, mask, given)
