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
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_fast import _core

every_isa = pytest.mark.usefixtures("isa")

TIME = 330
# Where a row repeats its input, as fractions of the sequence.
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
    """The problem with inputs that repeat, a bit later in every row, and with weights that let states come to rest."""
    x = problem.x.copy()
    batch, time, _ = x.shape
    for row, (begin, end) in itertools.product(range(batch), runs):
        first, last = min(int(begin * time) + row % 7, time - 1), int(end * time)
        x[row, first:last] = x[row, first]
    kernels = [(weight * kernel.astype(np.float64)).astype(kernel.dtype) for kernel in problem.recurrent_kernels]
    return replace(problem, x=x, recurrent_kernels=kernels)


def solve(problem: Problem, *, skips: bool, **options: Any) -> tuple[Solution, int]:
    """The kernels' results, and the number of timesteps that both passes left out."""
    _core.set_skips_repeats(skips)
    before = _core.timesteps()
    solution = solve_by_kernel(problem, **options)
    after = _core.timesteps()
    there, computed = (after[name] - before[name] for name in ("given", "computed"))
    return solution, there - computed


def forward(solution: Solution) -> Solution:
    return Solution(solution.y, solution.h_n, solution.c_n)


def assert_skipped(problem: Problem, reserve: str, least: float = 0.3) -> None:
    """Asserts that the solution is right, takes fewer steps, and has the same bits as if all steps were computed."""
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


def rotating(period: int, batch: int = 3) -> Problem:
    """States that rotate: each unit takes nearly the last state of the unit before it, and forgets its own."""
    problem = make_problem(batch, TIME, 4, period, dtype="float32")
    kernel, recurrent_kernel = np.zeros((4, 4 * period), np.float32), np.zeros((period, 4 * period), np.float32)
    bias = np.zeros(4 * period, np.float32)
    for unit in range(period):
        recurrent_kernel[unit - 1, 2 * period + unit] = 6.0
    bias[:period] = bias[3 * period :] = 5.0
    bias[period : 2 * period] = -5.0
    state = np.full((batch, period), -0.7, np.float32)
    state[:, 0] = 0.7
    return with_runs(
        replace(problem, kernels=[kernel], recurrent_kernels=[recurrent_kernel], biases=[bias], h0=[state], c0=[state]),
        RUNS["end"],
        weight=1.0,
    )


@pytest.mark.parametrize("period", range(1, 9))
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@every_isa
def test_every_period(period: int, reserve: str) -> None:
    problem = rotating(period)
    states = solve_by_kernel(problem, backward=False).y[0, -2 * period :]
    assert len(np.unique(states, axis=0)) == period
    assert_skipped(problem, reserve, least=0.5)


@pytest.mark.parametrize("reserve", RESERVE_MODES)
def test_longer_periods_are_computed(reserve: str) -> None:
    problem = rotating(11)
    found, skipped = solve(problem, skips=True, reserve=reserve)
    assert skipped == 0
    solve_by_reference(problem).check(found)


@pytest.mark.parametrize("reserve", RESERVE_MODES)
def test_states_that_come_to_no_rest(reserve: str) -> None:
    problem = with_runs(make_problem(4, TIME, 6, 40, bias=False), RUNS["end"], weight=4.0)
    found, skipped = solve(problem, skips=True, reserve=reserve)
    every, _ = solve(problem, skips=False, reserve=reserve)
    assert skipped == 0
    assert_same_bits(forward(found), forward(every))


@pytest.mark.parametrize("start", range(56, 64))
@pytest.mark.usefixtures("threads")
@every_isa
def test_units_of_one_thread_at_rest_while_those_of_another_move(start: int) -> None:
    """A 1 goes round all units. A thread's own units rest for some steps, but never in all steps."""
    units, wide = 128, 100.0
    problem = make_problem(1, 200, 4, units)
    kernel, bias = np.zeros((4, 4 * units), np.float32), np.zeros(4 * units, np.float32)
    recurrent_kernel = np.zeros((units, 4 * units), np.float32)
    bias[:units] = bias[3 * units :] = wide
    bias[units : 2 * units] = -wide
    recurrent_kernel[range(units), [2 * units + (unit + 1) % units for unit in range(units)]] = wide
    state = np.eye(1, units, start, dtype=np.float32)
    problem = replace(
        problem,
        x=np.ones_like(problem.x),
        kernels=[kernel],
        recurrent_kernels=[recurrent_kernel],
        biases=[bias],
        h0=[state],
        c0=[0 * state],
    )
    _core.set_threads(1)
    alone, skipped = solve(problem, skips=True)
    assert skipped == 0
    for count in (2, 3, 4, 8):
        _core.set_threads(count)
        together, skipped = solve(problem, skips=True)
        assert skipped == 0
        assert_same_bits(together, alone)


@pytest.mark.parametrize("where", ["in_the_run", "before_it"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_isa
def test_numbers_that_are_not_finite(value: float, where: str) -> None:
    problem = with_runs(make_problem(3, 2 * TIME, 5, 6), RUNS["middle"])
    x = problem.x.copy()
    steps = slice(80, 520) if where == "in_the_run" else 20
    x[1, steps, 2] = value
    problem = replace(problem, x=x)
    found, skipped = solve(problem, skips=True)
    every, _ = solve(problem, skips=False)
    assert skipped > 0
    assert_same_bits(forward(found), forward(every))
    for name, array in every.named().items():
        np.testing.assert_array_equal(np.isfinite(found.named()[name]), np.isfinite(array), err_msg=name)


@pytest.mark.fast
def test_zeros_that_flow_back_meet_infinite_weights() -> None:
    """Timesteps without a gradient are skipped, but not if zero times a weight is not zero."""
    problem = with_runs(make_problem(2, 4 * TIME, 3, 4, return_sequences=False), RUNS["end"], weight=0.1)
    kernel = problem.kernels[0].copy()
    kernel[1, 2] = np.inf
    x = problem.x.copy()
    x[..., 1] = np.abs(x[..., 1]) + 1.0
    for kernels in (problem.kernels, [kernel]):
        spoiled = replace(problem, x=x, kernels=kernels)
        found, skipped = solve(spoiled, skips=True)
        every, _ = solve(spoiled, skips=False)
        assert skipped > 0
        assert_same_bits(forward(found), forward(every))
        np.testing.assert_array_equal(np.isfinite(found.dx), np.isfinite(every.dx))


@given(
    shape=st.tuples(st.integers(1, 20), st.integers(60, 400), st.integers(1, 20), st.integers(1, 80)),
    runs=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple), max_size=3),
    weight=st.sampled_from([0.1, 0.4, 1.0]),
    mask=st.sampled_from(["none", "right", "left", "holes", "masked_rows"]),
    directions=st.integers(1, 2),
    reserve=st.sampled_from(list(RESERVE_MODES)),
    threads=st.integers(1, 5),
    seed=st.integers(0, 99),
    flags=st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("go_backwards", "return_sequences", "zero_output_for_mask", "states", "projected")
        }
    ),
)
@settings(max_examples=60)
def test_any_problem(
    shape: tuple[int, int, int, int],
    runs: list[tuple[float, float]],
    weight: float,
    mask: str,
    directions: int,
    reserve: str,
    threads: int,
    seed: int,
    flags: dict[str, bool],
) -> None:
    problem = make_problem(*shape, mask=mask, directions=directions, seed=seed, **flags)
    problem = with_runs(problem, runs, weight=weight)
    before = _core.threads()
    try:
        _core.set_threads(threads)
        found, _ = solve(problem, skips=True, reserve=reserve)
        _core.set_threads(1)
        alone, _ = solve(problem, skips=True, reserve=reserve)
        every, _ = solve(problem, skips=False, reserve=reserve)
    finally:
        _core.set_threads(before)
    assert_same_bits(found, alone)
    assert_same_bits(forward(found), forward(every))
    solve_by_reference(problem).check(found)
