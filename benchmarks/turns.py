"""FastLSTM beside the fastest peers where they take turns, with a matrix product among them; a noisy machine slows all.

python -m benchmarks.turns --output turns.json
"""

import itertools
import logging
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import BASELINE, FAST, ON_NUMPY, PYTORCH, XLA, parity
from benchmarks.command import parser, write_json
from benchmarks.contenders import BY_NAME
from benchmarks.environment import environment
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS, Scenario

ONNX_RUNTIME = "ONNX Runtime"
PRODUCT = "matrix product"  # of float32 by NumPy's OpenBLAS: what the machine can do
PRODUCT_SIZE = 2048

# Before a turn. OpenBLAS's threads spin for 2^26 cycles, some 27 ms, after a product: on two cores, whoever ran next
# had one and a bit. FastLSTM's share at 64,256,64,64 was 39 % without the pause, 70 % with it.
PAUSE_SECONDS = 0.05
BLOCK_SECONDS = 0.01  # calls in a row, of which the first, after the pause, is not timed
MAX_BLOCK_CALLS = 50
BUDGET_SECONDS = 12.0  # for all contenders of a scenario
MIN_ROUNDS, MAX_ROUNDS = 3, 15

# XLA takes seconds to compile and to train long sequences.
MAX_TIME_XLA = 100


def take_turns(steps: Mapping[str, Callable[[], Any]], budget_seconds: float) -> dict[str, list[float]]:
    """Returns the seconds of each step, a median for every round, in which all have their turn."""
    blocks = {}
    for name, step in steps.items():
        seconds = _seconds(step)
        blocks[name] = max(1, min(MAX_BLOCK_CALLS, int(BLOCK_SECONDS / seconds)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for n in range(MAX_ROUNDS):
        if n >= MIN_ROUNDS and time.perf_counter() - start > budget_seconds:
            break
        for name, step in steps.items():
            time.sleep(PAUSE_SECONDS)
            if blocks[name] > 1:
                step()
            times[name].append(statistics.median(_seconds(step) for _ in range(blocks[name])))
    return times


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(scenario: Scenario, training: bool) -> dict[str, Any]:
    """Returns the milliseconds of each contender by round, and what the scenario computes."""
    names = [BASELINE, FAST, ON_NUMPY, PYTORCH, ONNX_RUNTIME]
    if not training or scenario.time <= MAX_TIME_XLA:
        names.append(XLA)
    available = [BY_NAME[name] for name in names if not BY_NAME[name].unavailable(scenario, training)]
    steps = {contender.name: parity.prepare(contender, scenario, training).step for contender in available}
    a, b = np.random.default_rng(0).standard_normal((2, PRODUCT_SIZE, PRODUCT_SIZE), np.float32)
    steps[PRODUCT] = lambda: np.matmul(a, b)
    rounds = take_turns(steps, BUDGET_SECONDS)
    milliseconds = {name: [1e3 * value for value in seconds] for name, seconds in rounds.items()}
    return {"scenario": str(scenario), "training": training, "flop": scenario.flop(training), "ms": milliseconds}


def ratio(result: dict[str, Any], names: Sequence[str]) -> float | None:
    """How many times as fast as the faster of these contenders FastLSTM is: the median of all rounds."""
    peers = [result["ms"][name] for name in names if name in result["ms"]]
    if not peers:
        return None
    return statistics.median(min(others) / own for own, *others in zip(result["ms"][FAST], *peers, strict=True))


def share(result: dict[str, Any], name: str) -> float:
    """The rate of a contender as a share of the matrix product's: the median of all rounds."""
    work = result["flop"] / (2 * PRODUCT_SIZE**3)
    pairs = zip(result["ms"][name], result["ms"][PRODUCT], strict=True)
    return statistics.median(work * product / own for own, product in pairs)


def table(results: Sequence[dict[str, Any]]) -> Table:
    drawn = Table(title="FastLSTM: times as fast, and its share of the rate of a matrix product")
    for heading in ("B,T,D,H", "pass", "Keras", "PyTorch", "ONNX Runtime", "share", "share on NumPy", "ms"):
        drawn.add_column(heading, justify="left" if heading in ("B,T,D,H", "pass") else "right")
    for result in results:
        ratios = [ratio(result, names) for names in ((BASELINE, XLA), (PYTORCH,), (ONNX_RUNTIME,))]
        drawn.add_row(
            result["scenario"],
            "training" if result["training"] else "inference",
            *("" if value is None else f"{value:.2f}" for value in ratios),
            *(f"{share(result, name):.0%}" for name in (FAST, ON_NUMPY)),
            f"{statistics.median(result['ms'][FAST]):.2f}",
        )
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("turns", __doc__)
    options.add_argument("--output", type=Path, default=Path("turns.json"), help="file to write")
    options.add_argument("--quick", action="store_true", help="one small scenario only, to see that it works")
    given = options.parse_args(arguments)
    # Every scenario has a graph of its own, which TensorFlow takes for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    scenarios = SMOKE_SCENARIOS[:1] if given.quick else [s for s in SCENARIOS if not (s.bidirectional or s.padded)]
    work = list(itertools.product(scenarios, (True, False)))
    results = [measure(*one) for one in track(work, description="turns")]
    write_json(given.output, {"environment": environment(), "turns": results})
    Console(width=120).print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
