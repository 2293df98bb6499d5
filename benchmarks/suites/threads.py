"""The kernels on NumPy arrays with more and more threads, without a framework."""

import os

from benchmarks import ON_NUMPY
from benchmarks.peers import numpy_kernels
from benchmarks.results import Row
from benchmarks.scenarios import IMDB, SMOKE_SCENARIOS
from benchmarks.suites import Case, Settings, turns
from lstm_fast import _core
from lstm_fast.bench.scenarios import Scenario, make_problem
from lstm_fast.bench.turns import take_turns

SCENARIOS = (Scenario(64, 256, 64, 64), Scenario(64, 100, 128, 256), Scenario(1, 100, 128, 128), IMDB)
SECONDS = 0.5  # of a number of threads


def numbers() -> list[int]:
    """Of threads: powers of two, and as many as there are processors."""
    most = len(os.sched_getaffinity(0))
    return [*(2**n for n in range(most.bit_length()) if 2**n < most), most]


def cases(settings: Settings) -> list[Case]:
    return turns.of_scenarios("threads", SMOKE_SCENARIOS[:1] if settings.quick else SCENARIOS)


def measure(case: Case, settings: Settings) -> list[Row]:
    scenario, training = case.what
    prepared = numpy_kernels.prepare(make_problem(scenario), training)
    before, rows = _core.threads(), []
    try:
        for number in numbers():
            _core.set_threads(number)
            (times,) = take_turns({"": prepared}, settings.budget(SECONDS)).values()
            rows.append(case.row(ON_NUMPY, times, threads=number, flop=scenario.flop(training)))
    finally:
        _core.set_threads(before)
    return rows
