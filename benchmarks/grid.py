"""How much faster than Keras and PyTorch FastLSTM is, over a grid of shapes: where is it not?

python -m benchmarks.grid --output grid.json
"""

import itertools
import logging
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks import BASELINE, FAST, FAST_XLA, ON_NUMPY, PYTORCH, XLA, parity, results
from benchmarks.command import parser, write_json
from benchmarks.contenders import BY_NAME
from benchmarks.environment import environment
from benchmarks.turns import MAX_TIME_XLA
from lstm_fast.bench.scenarios import Scenario
from lstm_fast.bench.turns import take_turns

BATCHES = (1, 8, 64, 512)
TIMES = (1, 10, 100, 2000)
SIZES = ((8, 8), (32, 32), (128, 128), (1024, 1024), (8, 1024), (1024, 8))  # D, H
PASSES = (False, True)  # training
QUICK = tuple(Scenario(*shape) for shape in ((1, 1, 8, 8), (2, 10, 8, 16)))

# A larger cell is left out: its training step takes Keras or PyTorch several seconds.
MAX_FLOP = 60e9
# Likewise: Keras keeps about this many arrays [B, T, H] and [B, T, D] of a training step, the kernel's products apart.
ARRAYS_OF_UNITS, ARRAYS_OF_FEATURES, MAX_BYTES = 24, 4, 4e9
BUDGET_SECONDS, AGAIN_SECONDS = 1.0, 8.0  # for all contenders of a cell; the second where cells are measured again


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


def slower(path: Path) -> list[tuple[Scenario, bool]]:
    """Returns the cells of earlier results, with their passes, in which FastLSTM was not the fastest.

    Raises:
        OSError, ValueError: as `results.read`.
    """
    read = results.read([path]).cells
    return [(Scenario(c.batch, c.time, c.features, c.units), c.training) for c in read if min(c.ratios.values()) < 1]


def measure(scenario: Scenario, training: bool, seconds: float = BUDGET_SECONDS) -> dict[str, Any]:
    """Returns the milliseconds of each contender that can be had: within TensorFlow, and called from Python."""
    names = [BASELINE, FAST, ON_NUMPY, PYTORCH]
    if scenario.time <= MAX_TIME_XLA:
        names[1:1] = [XLA, FAST_XLA]
    available = [BY_NAME[name] for name in names if not BY_NAME[name].unavailable(scenario, training)]
    prepared = {contender.name: parity.prepare(contender, scenario, training) for contender in available}
    rounds = take_turns(prepared, seconds)
    return {
        "batch": scenario.batch,
        "time": scenario.time,
        "features": scenario.features,
        "units": scenario.units,
        "training": training,
        "ms": {name: 1e3 * statistics.median(seconds) for name, seconds in rounds.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("grid", __doc__)
    options.add_argument("--output", type=Path, default=Path("grid.json"), help="file to write")
    which = options.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help="two small cells only, to see that it works")
    which.add_argument(
        "--again", type=Path, metavar="FILE", help="only cells that were slower in FILE, in longer rounds"
    )
    given = options.parse_args(arguments)
    # Every cell has a graph of its own, which TensorFlow takes for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        work = (
            slower(given.again) if given.again else list(itertools.product(QUICK if given.quick else cells(), PASSES))
        )
    except (OSError, ValueError) as error:
        options.error(str(error))
    seconds = AGAIN_SECONDS if given.again else BUDGET_SECONDS
    measured = [measure(*cell, seconds) for cell in track(work, description="grid")]
    write_json(given.output, {"environment": environment(), "grid": measured})
    return 0


if __name__ == "__main__":
    sys.exit(main())
