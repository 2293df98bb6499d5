"""How the benchmarks choose their scenarios, check a contender, time it, and record what it was."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    from pytest_benchmark.fixture import BenchmarkFixture
except ModuleNotFoundError:
    raise pytest.UsageError(
        "benchmarks: expected the package pytest-benchmark, found none; run pip install -e '.[bench]'"
    ) from None

from benchmarks import DEVICE
from benchmarks.contenders import Contender
from benchmarks.environment import environment
from lstm_fast import _core
from lstm_fast.bench.scenarios import Scenario

# On a GPU only test_gpu.py runs, because it does not need TensorFlow.
collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_gpu.py"]
if DEVICE == "cpu":
    collect_ignore = []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scenarios(real, smoke): what to run; smoke: with --benchmark-disable")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("scenarios")
    if marker:
        scenarios = marker.kwargs["smoke" if metafunc.config.getoption("benchmark_disable") else "real"]
        ids = [str(scenario).replace(",", "x").replace(" ", "_") for scenario in scenarios]
        metafunc.parametrize("scenario", scenarios, ids=ids)


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Callable[..., None]:
    """Times a contender as part of the comparison `kind`, once it has shown that it computes what Keras computes."""

    def run(
        kind: str, contender: Contender, scenario: Scenario, training: bool, group: str | None = None, **info: Any
    ) -> None:
        if reason := contender.unavailable(scenario, training):
            pytest.skip(reason)
        from benchmarks import parity

        prepared = parity.prepare(contender, scenario, training)
        benchmark.group = f"{'training' if training else 'inference'} {group or scenario}"
        if kind != "layers":
            benchmark.group = f"{kind} {benchmark.group}"
        benchmark.extra_info.update(
            kind=kind,
            contender=contender.name,
            scenario=str(scenario),
            training=training,
            flop=scenario.flop(training),
            bytes=scenario.bytes(training),
            **info,
        )
        benchmark(prepared.step)

    return run


@pytest.fixture
def threads() -> Iterator[int]:
    """The number of threads of the kernels, which is put back afterwards."""
    before = _core.threads()
    yield before
    _core.set_threads(before)


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["lstm_fast"] = environment()
