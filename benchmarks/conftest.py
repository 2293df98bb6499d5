"""Which scenarios run: the real ones, or with --benchmark-disable small ones, as a smoke test."""

import os

os.environ["LSTM_FAST_KERNEL"] = "fused"  # a fallback would time Keras against Keras
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from benchmarks.contenders import CONTENDERS, SCENARIOS, SMOKE_SCENARIOS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"scenario", "contender"} <= set(metafunc.fixturenames):
        scenarios = SMOKE_SCENARIOS if metafunc.config.getoption("benchmark_disable") else SCENARIOS
        cases = [
            pytest.param(scenario, contender, id=f"{scenario}-{contender.name}".replace(",", "x").replace(" ", "_"))
            for scenario in scenarios
            for contender in CONTENDERS[scenario.bidirectional]
        ]
        metafunc.parametrize(("scenario", "contender"), cases)
