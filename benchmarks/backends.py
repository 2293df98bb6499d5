"""Training steps of the single IMDB model with each of Keras's backends, in a fresh process per backend.

python -m benchmarks.backends --output backends.json
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

import benchmarks  # noqa: F401 - the environment, before Keras is imported
from benchmarks.command import parser, write_json
from lstm_fast.bench.scenarios import IMDB_PADDING, Scenario

BACKENDS = ("tensorflow", "jax", "torch")
VOCABULARY = 8185  # the entries of `subwords8k`
SCENARIO = Scenario(64, 1354, 64, 64, bidirectional=True, padding=IMDB_PADDING)  # the longest review of an IMDB batch
BUDGET_SECONDS = 20.0  # for both contenders, with and without the mask
MIN_ROUNDS, MAX_ROUNDS = 1, 15  # Keras on PyTorch takes a minute or more a step


def measure(scenario: Scenario) -> dict[str, dict[str, float]]:
    """Returns the median milliseconds of `train_on_batch`, by contender, without and with the mask."""
    import keras
    import numpy as np

    from lstm_fast import _core
    from lstm_fast.text.models import single

    expected = os.environ["BENCHMARK_BACKEND"]
    assert keras.backend.backend() == expected, f"Keras runs on {keras.backend.backend()}, not on {expected}"
    rng = np.random.default_rng(0)
    ids = rng.integers(1, VOCABULARY, (scenario.batch, scenario.time))  # 0 is padding
    ids[np.arange(scenario.time) >= scenario.lengths[:, None]] = 0
    labels = rng.integers(0, 2, (scenario.batch, 1))

    def step(layer: str, mask: bool) -> Callable[[], Any]:
        model = single(VOCABULARY, layer, mask=mask, seed=0)  # type: ignore[arg-type]

        def train() -> None:
            before = _core.fused_calls()
            model.train_on_batch(ids, labels)
            done = {name: count - before[name] for name, count in _core.fused_calls().items()}
            assert done == dict.fromkeys(("forward", "backward"), int(layer == "fast")), done

        model.train_on_batch(ids, labels)  # builds, traces and compiles
        return train

    steps = {(layer, mask): step(layer, mask) for mask in (False, True) for layer in ("keras", "fast")}
    times: dict[tuple[str, bool], list[float]] = {key: [] for key in steps}
    start = time.perf_counter()
    for n in range(MAX_ROUNDS):
        if n >= MIN_ROUNDS and time.perf_counter() - start > BUDGET_SECONDS:
            break
        for key, train in steps.items():  # by turns, so that whatever slows the machine slows all
            begin = time.perf_counter()
            train()
            times[key].append(time.perf_counter() - begin)
    return {
        name: {label: 1e3 * statistics.median(times[layer, mask]) for label, mask in (("all", False), ("real", True))}
        for name, layer in (("keras.layers.LSTM", "keras"), ("FastLSTM", "fast"))
    }


def in_fresh_process(backend: str, scenario: Scenario) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.backends", "--measure", str(scenario.batch), str(scenario.time)]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "BENCHMARK_BACKEND": backend}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)
    if finished.returncode:
        raise RuntimeError(f"{backend}: {finished.stderr}")
    result: dict[str, dict[str, float]] = json.loads(finished.stdout.splitlines()[-1])
    return result


def run(scenario: Scenario = SCENARIO) -> dict[str, Any]:
    from benchmarks.environment import environment

    installed = [backend for backend in BACKENDS if importlib.util.find_spec(backend)]
    rows = {backend: in_fresh_process(backend, scenario) for backend in track(installed, description="backends")}
    about = {"batch": scenario.batch, "time": scenario.time, "padding": 1 - scenario.real_share}
    return {"environment": environment(), "backends": {**about, "ms": rows}}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("backends", __doc__)
    options.add_argument("--output", type=Path, default=Path("backends.json"), help="file to write")
    options.add_argument(
        "--measure",
        nargs=2,
        type=int,
        metavar=("BATCH", "TIME"),
        help="in this process, which BENCHMARK_BACKEND tells; print it",
    )
    given = options.parse_args(arguments)
    if given.measure and "BENCHMARK_BACKEND" not in os.environ:
        options.error("--measure: expected a backend of Keras in BENCHMARK_BACKEND; found none")
    if given.measure:
        batch, steps = given.measure
        print(json.dumps(measure(Scenario(batch, steps, 64, 64, bidirectional=True, padding=IMDB_PADDING))))
    else:
        write_json(given.output, run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
