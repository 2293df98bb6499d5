"""The third way to solve a problem of `cases`: a Keras layer under TensorFlow, eager or as a graph. And the proof that
the fused kernels were what ran.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from cases import Problem, Solution

import lstm_fast
from lstm_fast import _core

POLICIES = {
    "float64": "float64",
    "float32": "float32",
    "float16": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
}


@contextlib.contextmanager
def fused(forward: int, backward: int = 0) -> Iterator[None]:
    """Asserts that exactly so many compiled passes run inside, and that nothing falls back to Keras."""
    before, fallbacks = _core.fused_calls(), lstm_fast.status().fallbacks
    yield
    after = _core.fused_calls()
    assert {name: after[name] - before[name] for name in after} == {"forward": forward, "backward": backward}
    assert lstm_fast.status().fallbacks == fallbacks


def make_layer(problem: Problem, layer_class: type[keras.layers.LSTM], direction: int = 0) -> keras.layers.LSTM:
    """The layer that computes one direction of the problem."""
    dropout = problem.input_dropout[direction] is not None
    recurrent_dropout = problem.recurrent_dropout[direction] is not None
    layer = layer_class(
        problem.units,
        use_bias=problem.biases[direction] is not None,
        return_sequences=problem.return_sequences,
        return_state=True,
        go_backwards=problem.go_backwards or direction == 1,
        zero_output_for_mask=problem.zero_output_for_mask,
        dropout=0.5 * dropout,
        recurrent_dropout=0.5 * recurrent_dropout,
        implementation=1 if dropout or recurrent_dropout else 2,  # 1 has one dropout mask per gate, as the problem
        use_cudnn=False,  # with "auto", Keras 3.15 fails for implementation 1 with input dropout
        dtype=POLICIES[problem.x.dtype.name],
    )
    layer.build(problem.x.shape)
    weights = (problem.kernels[direction], problem.recurrent_kernels[direction], problem.biases[direction])
    layer.set_weights([weight for weight in weights if weight is not None])
    return layer


def solve_by_layer(problem: Problem, layer_class: type[keras.layers.LSTM], *, graph: bool = False) -> Solution:
    """Outputs and gradients by one layer per direction."""
    solutions = [_solve_direction(problem, layer_class, n, graph) for n in range(len(problem.kernels))]
    in_input_order = [
        solution.y[:, ::-1] if n == 1 and problem.return_sequences else solution.y
        for n, solution in enumerate(solutions)
    ]
    merged: dict[str, Any] = {
        name: [getattr(solution, name)[0] for solution in solutions]
        for name in ("h_n", "c_n", "dkernels", "drecurrent_kernels", "dbiases", "dh0", "dc0")
    }
    dx = sum(solution.dx for solution in solutions)
    return Solution(y=np.concatenate(in_input_order, axis=-1), dx=dx, **merged)


def _solve_direction(problem: Problem, layer_class: type[keras.layers.LSTM], n: int, graph: bool) -> Solution:
    layer = make_layer(problem, layer_class, n)
    half = problem.units * n, problem.units * (n + 1)
    dy = problem.dy[..., slice(*half)]
    if n == 1 and problem.return_sequences:
        dy = dy[:, ::-1]
    x = tf.constant(problem.x)
    h0, c0 = (
        tf.zeros_like(problem.dh_n[n]) if states[n] is None else tf.constant(states[n])
        for states in (problem.h0, problem.c0)
    )
    mask = None if problem.mask is None else tf.constant(problem.mask)

    def run(x: tf.Tensor, h0: tf.Tensor, c0: tf.Tensor) -> tuple[Any, Any]:
        # The layer draws its dropout masks once per call unless they are there.
        if problem.input_dropout[n] is not None:
            layer.cell._dropout_mask = list(map(tf.constant, problem.input_dropout[n]))
        if problem.recurrent_dropout[n] is not None:
            layer.cell._recurrent_dropout_mask = list(map(tf.constant, problem.recurrent_dropout[n]))
        weights = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch((x, h0, c0))
            outputs = layer(x, initial_state=[h0, c0], mask=mask, training=True)
        seeds = [tf.constant(dy), tf.constant(problem.dh_n[n]), tf.constant(problem.dc_n[n])]
        return outputs, tape.gradient(outputs, [x, h0, c0, *weights], output_gradients=seeds)

    (y, h_n, c_n), gradients = (tf.function(run) if graph else run)(x, h0, c0)
    dx, dh0, dc0, dkernel, drecurrent_kernel, *dbias = (gradient.numpy() for gradient in gradients)
    return Solution(
        y=y.numpy(),
        h_n=[h_n.numpy()],
        c_n=[c_n.numpy()],
        dx=dx,
        dkernels=[dkernel],
        drecurrent_kernels=[drecurrent_kernel],
        dbiases=dbias or [None],
        dh0=[dh0],
        dc0=[dc0],
    )
