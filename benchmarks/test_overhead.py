"""What a call costs in which there is nothing to compute: one timestep of one sequence."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

import lstm_fast
from benchmarks import BASELINE, FAST, ON_NUMPY, PYTORCH
from benchmarks.contenders import BY_NAME, Contender
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario


def prepare_function(problem: Problem, training: bool) -> Prepared:
    """lstm_fast.lstm, which checks its arguments; the contender on NumPy calls the compiled module."""
    ((kernel, recurrent_kernel, bias),) = problem.weights

    def step() -> Any:
        return lstm_fast.lstm(problem.x, kernel, recurrent_kernel, bias, return_sequences=True, training=training)

    return Prepared(step, lambda outputs: [outputs[0]])


def prepare_empty(problem: Problem, training: bool, *, weights: bool = False) -> Prepared:
    """What TensorFlow takes to call any function: one that returns what Keras computed before the clock started.

    With `weights`, one that also reads three variables, as a layer does.
    """
    reference = BY_NAME[BASELINE].prepare(problem, training)
    outputs = [tf.constant(array) for array in reference.results(reference.step())]
    variables = [tf.Variable(array) for array in problem.weights[0]] if weights else []

    @tf.function
    def called(arrays: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        return [tf.identity(array) for array in arrays], [variable.read_value() for variable in variables]

    return Prepared(lambda: [array.numpy() for array in called(outputs)[0]], list)


CONTENDERS = (
    Contender("an empty tf.function", prepare_empty),
    Contender("an empty tf.function with weights", functools.partial(prepare_empty, weights=True)),
    BY_NAME[ON_NUMPY],
    Contender("lstm_fast.lstm", prepare_function, fused_calls=lambda _: 1),
    *(BY_NAME[name] for name in (FAST, BASELINE, PYTORCH)),
)
SCENARIOS = (Scenario(1, 1, 16, 16),)


@pytest.mark.scenarios(real=SCENARIOS, smoke=SCENARIOS)
@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_call(measure: Callable[..., None], scenario: Scenario, contender: Contender) -> None:
    measure("overhead", contender, scenario, training=False)
