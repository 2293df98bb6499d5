"""Training steps of the single IMDB model with each of Keras's backends, in a fresh process per backend."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

from benchmarks import FAST, KERAS_LAYER, worker
from benchmarks.results import Row
from benchmarks.suites import Case, Settings
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import IMDB_PADDING, Scenario

BACKENDS = ("tensorflow", "jax", "torch")
VOCABULARY = 8185  # the entries of `subwords8k`
BATCH, TIME = 64, 1354  # the longest review of an IMDB batch
QUICK = 3, 8
SECONDS = 20.0
SLOW_SECONDS = 10.0  # Keras on PyTorch takes a minute or more a step: it is timed once


def cases(settings: Settings) -> list[Case]:
    batch, time = QUICK if settings.quick else (BATCH, TIME)
    name = f"single IMDB model, batch {batch}, {time} timesteps"
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    return [Case("backends", f"{name}, {backend}", "training", (backend, batch, time)) for backend in installed]


def measure(case: Case, settings: Settings) -> list[Row]:
    backend, batch, time = case.what
    times = worker.once(train, batch, time, settings.budget(SECONDS), BENCHMARK_BACKEND=backend)
    facts = {"backend": backend, "padding": 1 - scenario_of(batch, time).real_share}
    cases_of = {masked: case._replace(name=f"{case.name}{', masked' * masked}") for masked in (False, True)}
    return [cases_of[masked].row(name, seconds, **facts) for name, masked, seconds in times]


def scenario_of(batch: int, time: int) -> Scenario:
    return Scenario(batch, time, 64, 64, bidirectional=True, padding=IMDB_PADDING)


def train(batch: int, time: int, seconds: float) -> list[tuple[str, bool, list[float]]]:
    """The seconds of `train_on_batch`, by contender, without and with the mask."""
    import keras
    import numpy as np

    from lstm_fast import _core
    from lstm_fast.bench.turns import take_turns
    from lstm_fast.text.models import single

    expected = os.environ["BENCHMARK_BACKEND"]
    assert keras.backend.backend() == expected, f"Keras runs on {keras.backend.backend()}, not on {expected}"
    rng = np.random.default_rng(0)
    ids = rng.integers(1, VOCABULARY, (batch, time))  # 0 is padding
    ids[np.arange(time) >= scenario_of(batch, time).lengths[:, None]] = 0
    labels = rng.integers(0, 2, (batch, 1))

    def step(layer: Any, mask: bool) -> Callable[[], Any]:
        model = single(VOCABULARY, layer, mask=mask, seed=0)

        def one() -> None:
            before = _core.fused_calls()
            model.train_on_batch(ids, labels)
            done = {name: count - before[name] for name, count in _core.fused_calls().items()}
            assert done == dict.fromkeys(("forward", "backward"), int(layer == "fast")), done

        model.train_on_batch(ids, labels)  # builds, traces and compiles
        return one

    layers = {KERAS_LAYER: "keras", FAST: "fast"}
    both = {(name, mask): Prepared(step(layer, mask), list) for mask in (False, True) for name, layer in layers.items()}
    return [(*key, times) for key, times in take_turns(both, seconds, slow_seconds=SLOW_SECONDS).items()]
