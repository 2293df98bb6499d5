"""How much faster than Keras and PyTorch FastLSTM is, over a grid of shapes: where is it not?"""

import itertools
from collections.abc import Iterator

from benchmarks import BASELINE, FAST, FAST_XLA, ON_NUMPY, PYTORCH, XLA, results
from benchmarks.suites import Case, Settings, turns
from benchmarks.tables import cells as cells_of
from lstm_fast.bench.scenarios import Scenario

BATCHES = (1, 8, 64, 512)
TIMES = (1, 10, 100, 2000)
SIZES = ((8, 8), (32, 32), (128, 128), (1024, 1024), (8, 1024), (1024, 8))  # D, H
QUICK = tuple(Scenario(*shape) for shape in ((1, 1, 8, 8), (2, 10, 8, 16)))

# A larger cell is left out: its training step takes Keras or PyTorch several seconds.
MAX_FLOP = 60e9
# So is a cell that takes too much memory. Keras keeps about so many arrays [B, T, H] and [B, T, D] of a training step.
ARRAYS_OF_UNITS, ARRAYS_OF_FEATURES, MAX_BYTES = 24, 4, 4e9
SECONDS, AGAIN_SECONDS = 1.0, 8.0  # the second where cells are measured again


def small_enough(scenario: Scenario) -> bool:
    arrays = ARRAYS_OF_UNITS * scenario.units + ARRAYS_OF_FEATURES * scenario.features
    memory = 4 * scenario.batch * scenario.time * arrays
    return scenario.flop(training=True) <= MAX_FLOP and memory <= MAX_BYTES


def scenarios() -> Iterator[Scenario]:
    """All that are small enough; of one size after the other, so that a row of the heat map is complete early."""
    for (features, units), batch, steps in itertools.product(SIZES, BATCHES, TIMES):
        scenario = Scenario(batch, steps, features, units)
        if small_enough(scenario):
            yield scenario


def cases(settings: Settings) -> list[Case]:
    if settings.again is None:
        return turns.of_scenarios("grid", QUICK if settings.quick else list(scenarios()))
    measured = [
        row for file in results.read([settings.again]) for row in file.rows if row.suite == "grid" and row.seconds
    ]
    slower = [cell for cell in cells_of(measured) if min(cell.ratios.values()) < 1]
    found = [(Scenario(cell.batch, cell.time, cell.features, cell.units), cell.pass_) for cell in slower]
    return [Case("grid", f"{scenario}", pass_, (scenario, pass_ == "training")) for scenario, pass_ in found]


def measure(case: Case, settings: Settings) -> list[results.Row]:
    """Of each contender that can be had: within TensorFlow, and called from Python."""
    names = (BASELINE, XLA, FAST_XLA, FAST, ON_NUMPY, PYTORCH)
    return turns.side_by_side(case, names, settings.budget(AGAIN_SECONDS if settings.again else SECONDS))
