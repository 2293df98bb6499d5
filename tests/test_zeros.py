"""Timesteps in which all gradients are zero are passed over by the backward pass: the results are the same."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, RESERVE_MODES, Problem, Solution, make_problem, solve_by_kernel, solve_by_reference

from lstm_fast import _core

every_isa = pytest.mark.usefixtures("isa")

TIME = 200


@pytest.fixture(autouse=True)
def setting() -> Iterator[None]:
    before = _core.skips_repeats()
    yield
    _core.set_skips_repeats(before)


def forgetful(problem: Problem, *, wanted: Sequence[int] = (-1,)) -> Problem:
    """The problem with states that forget, and with gradients of the outputs at the wanted timesteps alone."""
    units = problem.units
    biases = [np.zeros(4 * units, problem.x.dtype) if bias is None else bias.copy() for bias in problem.biases]
    for bias in biases:
        bias[units : 2 * units] -= 8
    if problem.return_sequences:
        dy = np.zeros_like(problem.dy)
        dy[:, wanted] = problem.dy[:, wanted]
    else:
        dy = problem.dy
    kernels = [(0.01 * kernel.astype(np.float64)).astype(kernel.dtype) for kernel in problem.recurrent_kernels]
    return replace(problem, biases=biases, dy=dy, recurrent_kernels=kernels)


def solve(problem: Problem, *, passes: bool, **options: Any) -> tuple[Solution, int]:
    """The kernels' results, and the number of timesteps that the backward pass passed over."""
    _core.set_skips_repeats(passes)
    before = _core.timesteps()["without_gradient"]
    solution = solve_by_kernel(problem, **options)
    return solution, _core.timesteps()["without_gradient"] - before


def assert_same(found: Solution, expected: Solution) -> None:
    """Asserts that results are equal, but for gradients below the least normal number."""
    for name, array in expected.named().items():
        least = 2.0**-1022 if array.dtype == np.float64 else 2.0**-126
        a, b = found.named()[name].astype(np.float64), array.astype(np.float64)
        np.testing.assert_array_equal(
            np.where(np.abs(a) < least, 0, a), np.where(np.abs(b) < least, 0, b), err_msg=name
        )


def assert_passed(problem: Problem, reserve: str = "gates", least: float = 0.3) -> None:
    found, passed = solve(problem, passes=True, reserve=reserve)
    every, none = solve(problem, passes=False, reserve=reserve)
    assert none == 0
    real = problem.x.shape[0] * problem.x.shape[1] if problem.mask is None else int(problem.mask.sum())
    assert passed > least * real * len(problem.kernels)
    solve_by_reference(problem).check(found)
    for name in ("y", "h_n", "c_n", "dx", "dh0", "dc0"):
        assert_same(
            Solution(**{**EMPTY, name: getattr(found, name)}), Solution(**{**EMPTY, name: getattr(every, name)})
        )


EMPTY: dict[str, Any] = {"y": np.empty(0), "h_n": (), "c_n": ()}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_sequences": False},
    {"return_sequences": False, "directions": 2},
    {"go_backwards": True},
    {"input_dropout": True, "directions": 2},
    {"recurrent_dropout": True},
    {"states": False, "bias": False},
    {"projected": True, "directions": 2},
    {"mask": "holes", "zero_output_for_mask": True, "directions": 2},
    {"mask": "holes", "return_sequences": False},
    {"mask": "left", "go_backwards": True, "return_sequences": False},
    {"mask": "masked_rows", "return_sequences": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(f"{n}={v}" for n, v in options.items()))
@pytest.mark.parametrize("reserve", RESERVE_MODES)
def test_same_results(options: dict[str, Any], reserve: str) -> None:
    assert_passed(forgetful(make_problem(18, TIME, 7, 33, **options)), reserve, least=0.1)


@pytest.mark.parametrize("dtype", DTYPES)
@every_isa
def test_every_dtype(dtype: str) -> None:
    time = 3 * TIME if dtype == "float64" else TIME  # gradients can be smaller
    assert_passed(forgetful(make_problem(12, time, 9, 40, dtype=dtype, directions=2, return_sequences=False)))


@pytest.mark.parametrize("reserve", RESERVE_MODES)
@every_isa
def test_gradients_of_outputs_in_between(reserve: str) -> None:
    """Each of them begins anew what has come to nothing."""
    assert_passed(forgetful(make_problem(15, 2 * TIME, 3, 33), wanted=(70, 71, 190, 250)), reserve)


@pytest.mark.fast
def test_what_repeats_and_what_does_not() -> None:
    """Padding without a mask, behind the text and before it: timesteps that were copied, then others."""
    problem = make_problem(6, 3 * TIME, 5, 33, directions=2, return_sequences=False)
    x = problem.x.copy()
    x[:, TIME:] = x[0, 0]
    problem = forgetful(replace(problem, x=x))
    before = _core.timesteps()
    found, passed = solve(problem, passes=True)
    timesteps = 6 * 3 * TIME * 2
    assert _core.timesteps()["computed"] - before["computed"] < 0.5 * timesteps
    assert passed > 0.8 * timesteps
    solve_by_reference(problem).check(found)


def test_gradients_that_last_are_not_passed_over() -> None:
    problem = make_problem(4, TIME, 5, 6, return_sequences=False)
    biases = [bias + np.repeat([0, 9, 0, 0], 6).astype(bias.dtype) for bias in problem.biases]
    _, passed = solve(replace(problem, biases=biases), passes=True)
    assert passed == 0


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(f"{n}={v}" for n, v in options.items()))
@pytest.mark.usefixtures("threads")
def test_the_number_of_threads_changes_no_bit(options: dict[str, Any]) -> None:
    problem = forgetful(make_problem(37, TIME, 7, 33, **options), wanted=(-1, 20))
    _core.set_threads(1)
    alone, passed = solve(problem, passes=True)
    assert passed > 0
    for count in (2, 3, 8, 64):
        _core.set_threads(count)
        together, others = solve(problem, passes=True)
        for name, array in alone.named().items():
            assert together.named()[name].tobytes() == array.tobytes(), name
        assert others > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "where", ["x", "last_x", "kernels", "recurrent_kernels", "h0", "c0", "input_dropout", "recurrent_dropout", "dy"]
)
@pytest.mark.parametrize("reserve", RESERVE_MODES)
@pytest.mark.parametrize("units", [32, 33])
@every_isa
def test_numbers_that_are_not_finite(where: str, value: float, units: int, reserve: str) -> None:
    """Zero times such a number is NaN, in gradients of rows and of weights."""
    dropout = {name: where == name for name in ("input_dropout", "recurrent_dropout")}
    problem = forgetful(make_problem(16, TIME, 5, units, **dropout))
    clean, passed = solve(problem, passes=True, reserve=reserve)
    assert passed > 0
    assert all(np.isfinite(array).all() for array in clean.named().values())
    if where in ("x", "last_x", "dy"):
        array = problem.dy if where == "dy" else problem.x
        array[1, -2 if where == "last_x" else 40, 2] = value
    else:
        array = getattr(problem, where)[0]
        array[(2, 1, 3) if array.ndim == 3 else (1, 2)] = value
    found, _ = solve(problem, passes=True, reserve=reserve)
    every, _ = solve(problem, passes=False, reserve=reserve)
    for name, expected in every.named().items():
        np.testing.assert_array_equal(np.isfinite(found.named()[name]), np.isfinite(expected), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_with_multipliers_that_are_not_finite(dtype: str) -> None:
    """Neither the input nor its multiplier is infinite."""
    problem = forgetful(make_problem(16, 2 * TIME, 5, 32, dtype=dtype, input_dropout=True))
    problem.x[1, 40, 2], problem.input_dropout[0][:, 1, 2] = 3e38, 2
    found, passed = solve(problem, passes=True)
    every, _ = solve(problem, passes=False)
    assert passed > 0
    for name, expected in every.named().items():
        np.testing.assert_array_equal(
            np.isfinite(found.named()[name].astype(np.float64)),
            np.isfinite(expected.astype(np.float64)),
            err_msg=name,
        )
    assert not np.isfinite(found.dkernels[0][2].astype(np.float64)).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.usefixtures("threads")
def test_a_leader_that_looks_for_zeros_disturbs_nobody(dtype: str) -> None:
    """The others of its team may still compute the products of the chunk before."""
    problem = make_problem(16, 800, 200, 33, dtype=dtype)
    dy = problem.dy.copy()
    problem = forgetful(problem, wanted=range(0, 800, 50))
    problem.dy[0] = dy[0]
    _core.set_threads(1)
    alone, _ = solve(problem, passes=True)
    _core.set_threads(3)
    for _ in range(20):
        together, passed = solve(problem, passes=True)
        assert passed > 0
        for name, array in alone.named().items():
            assert together.named()[name].tobytes() == array.tobytes(), name
