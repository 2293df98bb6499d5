"""Training steps of the single IMDB model with each of Keras's backends, in a fresh process per backend."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from benchmarks import FAST, KERAS_LAYER, worker
from benchmarks.results import Row
from benchmarks.scenarios import IMDB, VOCABULARY, ids_and_labels
from benchmarks.suites import Case, Settings
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Scenario

BACKENDS = ("tensorflow", "jax", "torch")
QUICK = replace(IMDB, batch=3, time=8)
SECONDS = 20.0
SLOW_SECONDS = 10.0  # Keras on PyTorch takes a minute or more a step: it is timed once


def cases(settings: Settings) -> list[Case]:
    scenario = QUICK if settings.quick else IMDB
    name = f"single IMDB model, batch {scenario.batch}, {scenario.time} timesteps"
    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    return [Case("backends", f"{name}, {backend}", "training", (backend, scenario)) for backend in installed]


def measure(case: Case, settings: Settings) -> list[Row]:
    backend, scenario = case.what
    times = worker.once(train, asdict(scenario), settings.budget(SECONDS), BENCHMARK_BACKEND=backend)
    facts = {"backend": backend, "padding": 1 - scenario.real_share}
    cases_of = {masked: case._replace(name=f"{case.name}{', masked' * masked}") for masked in (False, True)}
    return [cases_of[masked].row(name, seconds, **facts) for name, masked, seconds in times]


def train(scenario: dict[str, Any], seconds: float) -> list[tuple[str, bool, list[float]]]:
    """The seconds of `train_on_batch`, by contender, without and with the mask."""
    import keras

    from lstm_fast import _core
    from lstm_fast.bench.turns import take_turns
    from lstm_fast.text.models import single

    expected = os.environ["BENCHMARK_BACKEND"]
    assert keras.backend.backend() == expected, f"Keras runs on {keras.backend.backend()}, not on {expected}"
    ids, labels = ids_and_labels(Scenario(**scenario))

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
