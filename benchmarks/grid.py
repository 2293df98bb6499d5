"""How much faster than Keras and PyTorch FastLSTM is, over a grid of shapes: where is it not?

python -m benchmarks.grid --output grid.json
"""

import itertools
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks import BASELINE, FAST, ON_NUMPY, PYTORCH, XLA, parity
from benchmarks.command import parser, write_json
from benchmarks.contenders import BY_NAME
from benchmarks.environment import environment
from benchmarks.scenarios import Scenario

BATCHES = (1, 8, 64, 512)
TIMES = (1, 10, 100, 2000)
SIZES = ((8, 8), (32, 32), (128, 128), (1024, 1024), (8, 1024), (1024, 8))  # D, H
QUICK = tuple(Scenario(*shape) for shape in ((1, 1, 8, 8), (2, 10, 8, 16)))

# A larger cell is left out: its training step takes Keras or PyTorch several seconds.
MAX_FLOP = 60e9
# Likewise: Keras keeps about this many arrays [B, T, H] and [B, T, D] of a training step, the kernel's products apart.
ARRAYS_OF_UNITS, ARRAYS_OF_FEATURES, MAX_BYTES = 24, 4, 4e9
# XLA takes seconds to compile and is slower for long sequences, so it competes in short ones.
MAX_TIME_XLA = 100

BLOCK_SECONDS = 0.01  # calls in a row; what ran before may still be spinning, so the first call of a block is not timed
MAX_BLOCK_CALLS = 50
BUDGET_SECONDS = 1.0  # for all contenders of a cell
MIN_ROUNDS, MAX_ROUNDS = 3, 15


def small_enough(scenario: Scenario) -> bool:
    arrays = ARRAYS_OF_UNITS * scenario.units + ARRAYS_OF_FEATURES * scenario.features
    memory = 4 * scenario.batch * scenario.time * arrays
    return scenario.flop(training=True) <= MAX_FLOP and memory <= MAX_BYTES


def cells() -> Iterator[Scenario]:
    """All that are small enough; of one size after the other, so that a row of the heat map is complete early."""
    for (features, units), batch, steps in itertools.product(SIZES, BATCHES, TIMES):
        scenario = Scenario(batch, steps, features, units)
        if small_enough(scenario):
            yield scenario


def interleaved(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Returns the median seconds of each step. They take turns, so that whatever slows the machine slows all."""
    blocks = {}
    for name, step in steps.items():
        seconds = _seconds(step)
        blocks[name] = max(1, min(MAX_BLOCK_CALLS, int(BLOCK_SECONDS / seconds)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for n in range(MAX_ROUNDS):
        if n >= MIN_ROUNDS and time.perf_counter() - start > BUDGET_SECONDS:
            break
        for name, step in steps.items():
            if blocks[name] > 1:
                step()
            times[name] += [_seconds(step) for _ in range(blocks[name])]
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(scenario: Scenario, training: bool) -> dict[str, Any]:
    """Returns the milliseconds of each contender that can be had: within TensorFlow, and called from Python."""
    names = [BASELINE, FAST, ON_NUMPY, PYTORCH]
    if scenario.time <= MAX_TIME_XLA:
        names.insert(1, XLA)
    available = [BY_NAME[name] for name in names if not BY_NAME[name].unavailable(scenario, training)]
    steps = {contender.name: parity.prepare(contender, scenario, training).step for contender in available}
    seconds = interleaved(steps)
    return {
        "batch": scenario.batch,
        "time": scenario.time,
        "features": scenario.features,
        "units": scenario.units,
        "training": training,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("grid", __doc__)
    options.add_argument("--output", type=Path, default=Path("grid.json"), help="file to write")
    options.add_argument("--quick", action="store_true", help="two small cells only, to see that it works")
    given = options.parse_args(arguments)
    # Every cell has a graph of its own, which TensorFlow takes for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    scenarios = QUICK if given.quick else tuple(cells())
    work = list(itertools.product(scenarios, (False, True)))
    content = {"environment": environment(), "grid": [measure(*cell) for cell in track(work, description="grid")]}
    write_json(given.output, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
