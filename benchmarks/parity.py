"""The check before a contender is timed: its results are Keras's, and ours come from the fused kernels."""

import functools
from collections.abc import Sequence

import numpy as np
import tolerances
from keras_side import fused

from benchmarks import BASELINE
from benchmarks.contenders import BY_NAME, Contender
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario, make_problem


@functools.lru_cache(maxsize=1)  # the contenders of a group follow each other
def problem_of(scenario: Scenario) -> Problem:
    return make_problem(scenario)


@functools.lru_cache(maxsize=1)
def results_of_keras(scenario: Scenario, training: bool) -> Sequence[np.ndarray]:
    keras = BY_NAME[BASELINE].prepare(problem_of(scenario), training)
    return keras.results(keras.step())


def prepare(contender: Contender, scenario: Scenario, training: bool) -> Prepared:
    """Returns the contender at work, warmed up; AssertionError if it computes anything else than Keras does."""
    prepared = contender.prepare(problem_of(scenario), training)
    calls = contender.fused_calls(scenario)
    with fused(forward=calls, backward=calls * training):
        found = prepared.results(prepared.step())
    terms = scenario.batch * scenario.time * (scenario.features + scenario.units)
    for array, expected in zip(found, results_of_keras(scenario, training), strict=True):
        # The tolerance is absolute, and gradients of a mean are far below 1. So the largest is brought to 1.
        scale = tolerances.largest(expected) or 1.0  # one timestep: no gradient of the recurrent kernel
        atol = tolerances.between_layers("float32", terms, expected / scale)
        np.testing.assert_allclose(array / scale, expected / scale, rtol=0.0, atol=atol, err_msg=contender.name)
    return prepared
