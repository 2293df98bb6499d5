"""The third way to solve a problem of `cases`: a Keras layer, in every mode of Keras's backend. And the proof that the
fused kernels ran.
"""

import contextlib
import copy
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tolerances
from cases import Array, Expected, Problem, Solution, solve_by_reference

import lstm_fast
from lstm_fast import _core, states

BACKEND = keras.backend.backend()
framework = importlib.import_module(f"frameworks.{BACKEND}")
MODES: tuple[str, ...] = framework.MODES

to_numpy = keras.ops.convert_to_numpy

POLICIES = {
    "float64": "float64",
    "float32": "float32",
    "float16": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
}


@contextlib.contextmanager
def fused(forward: int, backward: int = 0) -> Iterator[None]:
    """Asserts that exactly so many compiled passes run inside the block, and that nothing falls back to Keras."""
    before, fallbacks = _core.fused_calls(), lstm_fast.status().fallbacks
    expected = {"forward": before["forward"] + forward, "backward": before["backward"] + backward}
    yield
    end = time.monotonic() + 30
    while _core.fused_calls() != expected and time.monotonic() < end:
        time.sleep(0.001)  # JAX may still be about to run what it was given
    assert _core.fused_calls() == expected
    assert lstm_fast.status().fallbacks == fallbacks


def everything_in(layer: keras.Layer) -> list[Any]:
    """All variables of a layer or model: weights, random numbers, and the states of stateful layers.

    Keras does not count these states among the variables; on JAX, our layers do.
    """
    return [*variables_without(layer), *_states(layer)]


def variables_without(layer: Any) -> list[Any]:
    """The variables of a layer or model, without the states of stateful layers in it."""
    kept = {id(state) for state in _states(layer)}
    return [variable for variable in layer.variables if id(variable) not in kept]


def _states(layer: Any) -> list[Any]:
    return [
        state for part in layer._flatten_layers() if isinstance(part, keras.layers.RNN) for state in states.of(part)
    ]


def keras_copy(layer: Any) -> Any:
    """A copy of a layer or model with Keras's layers in the place of ours, and with the values of all variables."""
    plain = lstm_fast.to_keras(copy.deepcopy(layer))
    for new, value in zip(everything_in(plain), everything_in(layer), strict=True):
        new.assign(to_numpy(value))  # a file has neither random numbers nor states, and JAX would share the array
    return plain


def expected_of_layer(problem: Problem) -> Expected:
    """The exact solution, with the outputs before the first real timestep as this Keras backend has them."""
    expected = solve_by_reference(problem, starts_from_state=BACKEND == "jax")
    if len(problem.kernels) == 1:
        return expected
    # Each direction is a layer that stores its part of dx. The framework computes the sum.
    stored = tolerances.ROUNDOFF[problem.x.dtype.name] * tolerances.largest(expected.solution.dx)
    parts = len(problem.kernels) * stored
    return replace(expected, allowance={**expected.allowance, "dx": expected.allowance["dx"] + parts})


def plain_mode(mode: str, *, random: bool) -> str:
    """The mode of Keras's layer, for the comparison with ours in `mode`."""
    return mode if random and mode in framework.OWN_RANDOM else MODES[0]


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


def run(
    layer: keras.Layer,
    call: Callable[..., Any],
    inputs: Sequence[Array],
    seeds: Callable[[Any], Array] | None,
    mode: str = MODES[0],
) -> tuple[list[Array], list[Array]]:
    """Outputs of a call of the layer, and its gradients by the floating-point inputs and the weights: see `frameworks`.

    `seeds(output)` is the incoming gradient of an output; None: no gradients.
    """
    trained = {id(variable) for variable in layer.trainable_variables}
    others = [variable for variable in everything_in(layer) if id(variable) not in trained]
    outputs, gradients = framework.run(call, inputs, layer.trainable_variables, others, seeds, mode)
    return [*map(to_numpy, outputs)], [*map(to_numpy, gradients)]


def solve_by_layer(problem: Problem, layer_class: type[keras.layers.LSTM], mode: str = MODES[0]) -> Solution:
    """Outputs and gradients by one layer per direction."""
    with framework.precision(problem.x.dtype.name):
        solutions = [_solve_direction(problem, layer_class, n, mode) for n in range(len(problem.kernels))]
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


def _solve_direction(problem: Problem, layer_class: type[keras.layers.LSTM], n: int, mode: str) -> Solution:
    layer = make_layer(problem, layer_class, n)
    dy = problem.dy[..., problem.units * n : problem.units * (n + 1)]
    if n == 1 and problem.return_sequences:
        dy = dy[:, ::-1]
    h0, c0 = (np.zeros_like(problem.dh_n[n]) if states[n] is None else states[n] for states in (problem.h0, problem.c0))
    masks = [] if problem.mask is None else [problem.mask]

    def call(x: Any, h0: Any, c0: Any, *mask: Any) -> Any:
        # The layer draws its dropout masks once per call, unless they are set before.
        if problem.input_dropout[n] is not None:
            layer.cell._dropout_mask = list(map(keras.ops.convert_to_tensor, problem.input_dropout[n]))
        if problem.recurrent_dropout[n] is not None:
            layer.cell._recurrent_dropout_mask = list(map(keras.ops.convert_to_tensor, problem.recurrent_dropout[n]))
        return layer(x, initial_state=[h0, c0], mask=mask[0] if mask else None, training=True)

    seeds = iter((dy, problem.dh_n[n], problem.dc_n[n]))
    (y, h_n, c_n), gradients = run(layer, call, [problem.x, h0, c0, *masks], lambda _: next(seeds), mode)
    dx, dh0, dc0, dkernel, drecurrent_kernel, *dbias = gradients
    return Solution(
        y=y,
        h_n=[h_n],
        c_n=[c_n],
        dx=dx,
        dkernels=[dkernel],
        drecurrent_kernels=[drecurrent_kernel],
        dbiases=dbias or [None],
        dh0=[dh0],
        dc0=[dc0],
    )
