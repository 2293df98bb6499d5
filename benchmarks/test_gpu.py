"""lstm_fast on a GPU against cuDNN and FlashRNN: one group per (pass, scenario, precision).

BENCHMARK_DEVICE=cuda pytest benchmarks/test_gpu.py --benchmark-json gpu.json

A time is what a user gets who calls a step again and again: between events on the device around many calls, or for JAX
until the last result is there; the median of rounds. `graph_seconds` is a step that is replayed from a CUDA graph,
without the time it takes to launch it. Without a GPU, --benchmark-disable tries everything on the CPU. Keras's own
layer takes part with KERAS_BACKEND=tensorflow.
"""

import contextlib
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import DEVICE, results
from benchmarks.environment import gpu
from benchmarks.gpu_contenders import KEYS, contender
from benchmarks.scenarios import GPU_SCENARIOS, PRECISIONS, REPEATING_SMOKE, SMOKE_SCENARIOS
from lstm_fast import reference
from lstm_fast.bench.parity import TOLERANCE
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Scenario

torch = pytest.importorskip("torch")

from benchmarks import floors, gpu_parity  # noqa: E402
from benchmarks.peers import gpu_torch  # noqa: E402

WARM_UP_SECONDS = 0.1  # a device that has been idle takes as long to raise its clock
ROUND_SECONDS = 0.01
BUDGET_SECONDS = float(os.environ.get("BENCHMARK_SECONDS", "0.4"))  # for a contender
MIN_ROUNDS, MAX_ROUNDS = 5, 40
DEADLINE = float(os.environ.get("BENCHMARK_DEADLINE", "inf"))  # seconds since the epoch: nothing starts after it
LINES = os.environ.get("BENCHMARK_LINES")  # file to append each row to: it stays if a later one never ends

_clock: Callable[[], float] = time.perf_counter


def device_clock() -> float:
    """The clock of the contender that is being measured."""
    return _clock()


@pytest.fixture
def timed_by() -> Iterator[Callable[[Prepared], None]]:
    """Makes `device_clock` that of a contender, until the end of the test."""

    def use(prepared: Prepared) -> None:
        global _clock  # noqa: PLW0603 - pytest-benchmark wants its timer before there is a contender
        _clock = prepared.clock

    yield use
    use(Prepared(lambda: None, lambda _: []))


@pytest.fixture(autouse=True)
def device(request: pytest.FixtureRequest) -> str:
    if time.time() > DEADLINE:
        pytest.skip("no time left")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("BENCHMARK_DEVICE=cuda: PyTorch sees no GPU")
    if DEVICE == "cpu" and not request.config.getoption("benchmark_disable"):
        pytest.skip("BENCHMARK_DEVICE=cuda measures; on the CPU only --benchmark-disable makes sense")
    return DEVICE


@pytest.mark.benchmark(timer=device_clock)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.scenarios(real=GPU_SCENARIOS, smoke=[*SMOKE_SCENARIOS[::3], REPEATING_SMOKE])
def test_layer(
    benchmark: BenchmarkFixture,
    timed_by: Callable[[Prepared], None],
    device: str,
    scenario: Scenario,
    precision: str,
    training: bool,
    key: str,
) -> None:
    who = contender(key, precision, device)
    if reason := who.unavailable(scenario, training):
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        stack.enter_context(gpu_torch.arithmetic(precision))
        for framework, module in (("jax", "gpu_jax"), ("tensorflow", "gpu_keras")):
            if framework in who.requires:
                peer = importlib.import_module(f"benchmarks.peers.{module}")
                stack.enter_context(peer.arithmetic(precision))
        prepared = gpu_parity.prepare(who, scenario, training, precision, device)
        timed_by(prepared)
        name = f"{scenario} {precision}"
        about = {"kind": "gpu", "contender": who.name, "scenario": name, "training": training}
        benchmark.group = f"gpu {'training' if training else 'inference'} {name}"
        benchmark.extra_info.update(
            **about,
            precision=precision,
            flop=scenario.flop(training),
            bytes=scenario.bytes(training) * gpu_torch.DTYPES[precision].itemsize // 4,
            time=scenario.time,
            **gpu(),
            **prepared.about,
        )
        if not benchmark.enabled:
            benchmark.pedantic(prepared.step)
            return
        benchmark.pedantic(prepared.step, **_rounds(prepared))
        seconds = benchmark.stats.stats.median
        least = floors.floor(scenario, training, precision, device)
        benchmark.extra_info.update(
            us_per_step=1e6 * seconds / scenario.time,
            floor_seconds=least.seconds,
            floor=least._asdict(),
            share_of_floor=least.seconds / seconds,
            flop_rate=floors.flop_rate(precision, device),
            byte_rate=floors.byte_rate(device),
        )
        benchmark.extra_info.update(_graph(prepared))
        if LINES:
            facts = {key: value for key, value in benchmark.extra_info.items() if key not in about}
            row = results.Row("gpu", name, results.pass_name(training), who.name, benchmark.stats.stats.data, facts)
            command = functools.partial(results.header, "pytest benchmarks/test_gpu.py")
            with results.writing(Path(LINES), command, append=True) as add:
                add(row)


def _rounds(prepared: Prepared) -> dict[str, int]:
    """How often to run a step, once the device is warm."""
    end = time.perf_counter() + WARM_UP_SECONDS
    while True:
        start = prepared.clock()  # waits, as launches run ahead of the device
        for _ in range(3):
            prepared.step()
        seconds = max((prepared.clock() - start) / 3, 1e-6)
        if time.perf_counter() > end:
            break
    iterations = max(1, min(200, int(ROUND_SECONDS / seconds)))
    rounds = int(BUDGET_SECONDS / (seconds * iterations))
    return {"iterations": iterations, "rounds": max(MIN_ROUNDS, min(MAX_ROUNDS, rounds))}


def _graph(prepared: Prepared) -> dict[str, Any]:
    """The median seconds of a replayed step, or why there is none."""
    if prepared.graph is None:
        return {}
    try:
        replay = prepared.graph()
    except RuntimeError as error:
        return {"graph": f"{error}".partition("\n")[0]}
    again = prepared._replace(step=replay)
    plan, times = _rounds(again), []
    for _ in range(plan["rounds"]):
        start = prepared.clock()
        for _ in range(plan["iterations"]):
            replay()
        times.append((prepared.clock() - start) / plan["iterations"])
    return {"graph_seconds": float(np.median(times))}


@pytest.mark.parametrize("scenario", SMOKE_SCENARIOS, ids=str)
def test_exact(device: str, scenario: Scenario) -> None:
    """What contenders are compared with is right."""
    problem = gpu_parity.problem_of(scenario, torch.bfloat16)
    kernels, recurrent_kernels, biases = zip(*problem.weights, strict=True)
    absent = [None] * scenario.directions
    inputs = (problem.x, problem.mask, kernels, recurrent_kernels, biases, *[absent] * 4)
    options = {"return_sequences": True, "zero_output_for_mask": True}
    y = reference.forward(*inputs, **options).y
    gradients = reference.backward(*inputs, problem.dy, absent, absent, **options)
    weights = zip(gradients.dkernels, gradients.drecurrent_kernels, gradients.dbiases, strict=True)
    expected = [y, gradients.dx, *(array for direction in weights for array in direction)]
    for found, right in zip(gpu_parity.exact(scenario, torch.bfloat16, device), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE["float64"])


def test_floor(device: str) -> None:
    """The model reproduces its table, and grows with what there is to do."""
    assert floors.latency(32) == floors.latency(64) == pytest.approx(0.15)
    assert 0.3 < floors.latency(192) < 0.45
    small, large = (floors.floor(Scenario(64, steps, 64, 64), True, "float32", device) for steps in (8, 16))
    assert all(2 * a == pytest.approx(b) for a, b in zip(small[:2], large[:2], strict=True))
    assert small.seconds < large.seconds
