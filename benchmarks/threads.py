"""The kernels on NumPy arrays with more and more threads, without a framework.

python -m benchmarks.threads --output threads.json
"""

import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import parser, write_json
from benchmarks.scenarios import IMDB, SMOKE_SCENARIOS
from benchmarks.tables import Table, pass_name
from lstm_fast.bench import turns
from lstm_fast.bench.scenarios import Scenario, make_problem

SCENARIOS = (Scenario(64, 256, 64, 64), Scenario(64, 100, 128, 256), Scenario(1, 100, 128, 128), IMDB)
BUDGET_SECONDS = 0.5  # of a scenario, pass and number of threads


def numbers() -> list[int]:
    """Of threads: powers of two, and as many as there are processors."""
    most = len(os.sched_getaffinity(0))
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def measure(scenario: Scenario, training: bool, budget: float) -> dict[str, Any]:
    """The median milliseconds of a step, by number of threads."""
    from benchmarks.peers import numpy_kernels  # which is compiled: benchmarks.gpu begins without
    from lstm_fast import _core

    prepared = numpy_kernels.prepare(make_problem(scenario), training)
    before, ms = _core.threads(), {}
    try:
        for number in numbers():
            _core.set_threads(number)
            (times,) = turns.take_turns({"": prepared}, budget).values()
            ms[str(number)] = 1e3 * statistics.median(times)
    finally:
        _core.set_threads(before)
    return {"scenario": str(scenario), "training": training, "ms": ms}


def table(results: Sequence[dict[str, Any]]) -> Table:
    names = list(results[0]["ms"])
    rows = []
    for result in results:
        one = result["ms"]["1"]
        times = (f"{result['ms'][name]:.2f} ({one / result['ms'][name]:.1f})" for name in names)
        rows.append((f"{pass_name(result['training'])} {result['scenario']}", *times))
    note = "Median ms; in brackets, how many times as fast as one thread. lstm_fast on NumPy."
    return Table("Threads", ("pass, B,T,D,H", *names), rows, note)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("threads", __doc__)
    options.add_argument("--output", type=Path, default=Path("threads.json"), help="file to write")
    options.add_argument("--quick", action="store_true", help="one small scenario only, to see that it works")
    given = options.parse_args(arguments)
    from lstm_fast.bench.environment import environment

    scenarios, budget = (SMOKE_SCENARIOS[:1], 0.0) if given.quick else (SCENARIOS, BUDGET_SECONDS)
    results = [measure(scenario, training, budget) for scenario in scenarios for training in (False, True)]
    write_json(given.output, {"environment": environment(), "threads": results})
    print(table(results).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
