"""A way to solve a problem of `cases`: the function under the layers on TensorFlow's tensors, in each of its modes."""

from typing import Any

import numpy as np
import tensorflow as tf
from cases import Problem, Solution

from lstm_fast import functional
from lstm_fast.backends import Direction


def solve_by_tensorflow(
    problem: Problem, *, mode: str = "eager", open_sizes: bool = False, reserve: str = "gates"
) -> Solution:
    """Outputs and gradients. With `open_sizes`, batch and time are unknown at tracing; not for eager mode."""
    fields = problem.kernel_inputs[2:]
    given = [problem.x, problem.mask, *(value for column in fields for value in column)]
    n = len(problem.kernels)

    def step(*present: tf.Tensor) -> tuple[Any, Any]:
        remaining = iter(present)
        x, mask, *values = (None if value is None else next(remaining) for value in given)
        sources = [value for value in (x, *values[: 5 * n]) if value is not None]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y, h, c = functional.run(
                x,
                mask,
                [Direction(*values[i::n]) for i in range(n)],
                **problem.options,
                recompute=reserve == "recompute",
                training=reserve != "none",
            )
            outputs = [y if problem.return_sequences else y[:, 0], *h, *c]
        seeds = [problem.dy, *problem.dh_n, *problem.dc_n]
        return outputs, tape.gradient(outputs, sources, output_gradients=list(map(tf.constant, seeds)))

    def spec(value: np.ndarray) -> tf.TensorSpec:
        """A spec in which the batch and the time of a sequence, a mask or a state are open."""
        of_sequence = value is problem.x or value is problem.mask
        of_state = any(value is state for state in (*problem.h0, *problem.c0))
        sizes = [None if axis < 2 * of_sequence + of_state else size for axis, size in enumerate(value.shape)]
        return tf.TensorSpec(sizes, value.dtype)

    present = [value for value in given if value is not None]
    run = step
    if mode != "eager":
        signature = list(map(spec, present)) if open_sizes else None
        run = tf.function(step, jit_compile=mode == "jit", input_signature=signature)
    outputs, gradients = run(*map(tf.constant, present))
    y, *states = (output.numpy() for output in outputs)
    dx, *remaining = (gradient.numpy() for gradient in gradients)
    found = iter(remaining)
    by_field = [[None if value is None else next(found) for value in column] for column in fields[:5]]
    return Solution(y, states[:n], states[n:], dx, *by_field)
