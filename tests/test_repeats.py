"""Timesteps that repeat others of their row are not computed: the results are the same, bit for bit."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import (
    DTYPES,
    RESERVE_MODES,
    Problem,
    Solution,
    assert_same_bits,
    make_problem,
    solve_by_kernel,
    solve_by_reference,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_fast import _core

every_isa = pytest.mark.usefixtures("isa")

TIME = 330
# Where a row repeats its input, in parts of the sequence.
RUNS: dict[str, list[tuple[float, float]]] = {
    "end": [(0.1, 1.0)],
    "beginning": [(0.0, 0.9)],
    "middle": [(0.1, 0.8)],
    "two": [(0.0, 0.45), (0.5, 1.0)],
    "everywhere": [(0.0, 1.0)],
}


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    before = _core.skips_repeats()
    yield
    _core.set_skips_repeats(before)


def with_runs(problem: Problem, runs: list[tuple[float, float]], *, weight: float = 0.4) -> Problem:
    """The problem with inputs that repeat, in every row a bit later, and with weights that let states come to rest."""
    x = problem.x.copy()
    batch, time, _ = x.shape
    for row, (begin, end) in itertools.product(range(batch), runs):
        first, last = int(begin * time) + row % 7, int(end * time)
        x[row, first:last] = x[row, first]
    kernels = [(weight * kernel.astype(np.float64)).astype(kernel.dtype) for kernel in problem.recurrent_kernels]
    return replace(problem, x=x, recurrent_kernels=kernels)


def solve(problem: Problem, *, skips: bool, **options: Any) -> tuple[Solution, int]:
    """What the kernels compute, and how many timesteps they left out in both passes together."""
    _core.set_skips_repeats(skips)
    before = _core.timesteps()
    solution = solve_by_kernel(problem, **options)
    after = _core.timesteps()
    given, computed = (after[name] - before[name] for name in ("given", "computed"))
    return solution, given - computed


def forward(solution: Solution) -> Solution:
    return Solution(solution.y, solution.h_n, solution.c_n)


def assert_skipped(problem: Problem, reserve: str, least: float = 0.3) -> None:
    """Asserts that the problem is solved right, in fewer steps, with the bits that it has when all are computed."""
    found, skipped = solve(problem, skips=True, reserve=reserve)
    every, none = solve(problem, skips=False, reserve=reserve)
    assert none == 0
    passes = 2 if reserve == "none" else 1  # the backward pass computes the forward pass again
    real = problem.x.shape[0] * problem.x.shape[1] if problem.mask is None else int(problem.mask.sum())
    assert skipped > least * passes * real * len(problem.kernels)
    assert_same_bits(forward(found), forward(every))
    solve_by_reference(problem).check(found)


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("runs", RUNS)
@every_isa
def test_same_results(runs: str, reserve: str) -> None:
    assert_skipped(with_runs(make_problem(9, TIME, 7, 5, directions=2), RUNS[runs]), reserve)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runs", ["end", "middle"])
@every_isa
def test_every_dtype(runs: str, dtype: str) -> None:
    time = 4 * TIME if dtype == "float64" else TIME  # twice the digits
    assert_skipped(with_runs(make_problem(3, time, 9, 17, dtype=dtype), RUNS[runs], weight=0.1), "gates", least=0.2)


@pytest.mark.parametrize(
    "options",
    [
        {"go_backwards": True},
        {"return_sequences": False},
        {"return_sequences": False, "directions": 2},
        {"input_dropout": True},
        {"recurrent_dropout": True},
        {"states": False, "bias": False},
        {"projected": True, "directions": 2},
        {"mask": "holes", "directions": 2},
        {"mask": "holes", "zero_output_for_mask": True, "directions": 2},
        {"mask": "right", "directions": 2},
        {"mask": "left", "go_backwards": True},
        {"mask": "masked_rows", "return_sequences": False},
    ],
    ids=lambda options: ",".join(f"{name}={value}" for name, value in options.items()),
)
@pytest.mark.parametrize("reserve", RESERVE_MODES)
def test_every_option(options: dict[str, Any], reserve: str) -> None:
    problem = with_runs(make_problem(6, TIME, 5, 6, **options), RUNS["end"])
    assert_skipped(problem, reserve, least=0.1)
