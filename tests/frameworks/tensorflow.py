"""TensorFlow: see the package."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

MODES = ("eager", "graph", "jit")
OWN_RANDOM = ("jit",)
EVERY = 1
REACHED: dict[str, str] = {}


def precision(dtype: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG001
    return contextlib.nullcontext()


def run(
    call: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    variables: Sequence[Any],
    states: Sequence[Any],  # noqa: ARG001
    seeds: Callable[[Any], np.ndarray] | None,
    mode: str,
) -> tuple[list[Any], list[Any]]:
    def step(*tensors: tf.Tensor) -> tuple[list[Any], list[Any]]:
        floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floating)
            outputs = tf.nest.flatten(call(*tensors))
        if seeds is None:
            return outputs, []
        sources = [*floating, *(variable.value for variable in variables)]
        given = [tf.constant(seeds(output), output.dtype) for output in outputs]
        return outputs, tape.gradient(outputs, sources, output_gradients=given)

    run_step = step if mode == "eager" else tf.function(step, jit_compile=mode == "jit")
    return run_step(*(tf.constant(array) for array in inputs))
