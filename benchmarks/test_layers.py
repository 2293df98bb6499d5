"""One group per (pass, scenario), with every contender in it. Each must agree with Keras before it is timed."""

import functools

import numpy as np
import pytest
import tolerances
from keras_side import fused
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import BASELINE
from benchmarks.contenders import CONTENDERS, Contender, Scenario, environment, make_step


@functools.lru_cache(maxsize=1)  # the contenders of a group follow each other
def results_of_keras(scenario: Scenario, training: bool) -> list[np.ndarray]:
    (baseline,) = (contender for contender in CONTENDERS[scenario.bidirectional] if contender.name == BASELINE)
    return make_step(scenario, baseline, training)()


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_layer(benchmark: BenchmarkFixture, scenario: Scenario, contender: Contender, training: bool) -> None:
    step = make_step(scenario, contender, training)
    calls = contender.fused_calls
    with fused(forward=calls, backward=calls * training):
        found = step()
    terms = scenario.batch * scenario.time * (scenario.features + scenario.units)
    for array, expected in zip(found, results_of_keras(scenario, training), strict=True):
        atol = tolerances.between_layers("float32", terms, expected)
        np.testing.assert_allclose(array, expected, rtol=0.0, atol=atol)

    benchmark.group = f"{'training' if training else 'inference'} {scenario}"
    benchmark.extra_info.update(
        contender=contender.name,
        scenario=str(scenario),
        training=training,
        flop=scenario.flop(training),
        bytes=scenario.bytes(training),
        **environment(),
    )
    benchmark(step)
