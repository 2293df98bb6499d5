"""Timesteps that the CUDA kernels for few units leave out: those that repeat, and those whose gradients are zero."""

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import emulated
import numpy as np
import pytest
from cases import Problem, assert_same_bits, make_problem
from cuda_arrays import addresses, arguments, results
from cuda_side import solve_exactly

TIME = 90
LEAST_NORMAL = 2.0**-126
# Variants, and numbers of units for which they are there: in a block, and in a cluster of two.
SIZES = [("single_16", 9), ("single_64", 64), ("single_96", 75), ("single_128", 128)]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    loaded = emulated.load()
    yield loaded
    loaded.set_skips(True)
    for name in ("forward", "backward"):
        loaded.force(name)


def forgetful(problem: Problem, first: int, end: int) -> Problem:
    """The problem with one input in timesteps from `first` to `end`, and with states that come to rest in a few."""
    n, units = len(problem.h0), problem.units
    z = problem.x.reshape(*problem.x.shape[:2], n, 4, units).copy()
    z[:, first:end] = z[:, first : first + 1]
    z[:, :, :, 1] -= 6
    biases = [None if bias is None else (bias / 4).astype(bias.dtype) for bias in problem.biases]
    kernels = [(0.3 * kernel.astype(np.float64)).astype(kernel.dtype) for kernel in problem.recurrent_kernels]
    return replace(problem, x=z.reshape(problem.x.shape), biases=biases, recurrent_kernels=kernels)


class Run:
    """Both passes over a problem: all that they write, and how many barriers each took."""

    def __init__(self, module: ModuleType, problem: Problem, variant: str, *, skips: bool) -> None:
        module.set_skips(skips)
        for name in ("forward", "backward"):
            module.force(name, variant=f"{problem.x.dtype}_{variant}")
        forward, backward = arguments(module, problem)
        forward["reserve"][:] = 0
        module.take_barriers()
        module.forward(**addresses(forward))
        self.forward_barriers = module.take_barriers()
        backward["reserve"] = forward["reserve"]
        module.backward(**addresses(backward))
        self.backward_barriers = module.take_barriers()
        self.reserve, self.h_prev, self.dz = forward["reserve"], backward["h_prev"], backward["dz"]
        module.forward(**addresses({**forward, "reserve": None}))
        self.barriers_without_reserve = module.take_barriers()
        self.solution = results(problem, forward, backward)


def assert_same(found: Run, expected: Run) -> None:
    """Asserts that two runs have the same bits, but for gradients that are no normal numbers of float32."""
    assert np.array_equal(found.reserve, expected.reserve)
    matters = (found.dz != 0).any(-1)
    assert np.array_equal(found.h_prev[matters], expected.h_prev[matters], equal_nan=True)
    gradients = expected.solution.named()
    for name, values in found.solution.named().items():
        if name.startswith("d"):
            tiny = np.abs(gradients[name].astype(np.float64)) < LEAST_NORMAL
            assert np.array_equal(values[~tiny], gradients[name][~tiny], equal_nan=True), name
            assert (np.abs(values[tiny].astype(np.float64)) < LEAST_NORMAL).all(), name
        else:
            assert np.array_equal(values, gradients[name], equal_nan=True), name


def without_gradients(problem: Problem, first: int, end: int) -> Problem:
    dy = problem.dy.copy()
    dy[:, first:end] = 0
    return replace(problem, dy=dy)


OPTIONS: dict[str, dict[str, Any]] = {
    "two": {"directions": 2, "return_sequences": False},
    "masked": {"directions": 2, "mask": "right", "zero_output_for_mask": True},
    "backwards": {"go_backwards": True, "states": False},
    "carried": {"mask": "right", "directions": 2},
    "last": {"return_sequences": False, "go_backwards": True, "bias": False, "mask": "right"},
    "float16": {"directions": 2, "return_sequences": False, "dtype": "float16"},
    "bfloat16": {"go_backwards": True, "dtype": "bfloat16"},
}


@pytest.mark.parametrize(("variant", "units"), SIZES, ids=[name for name, _ in SIZES])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_skipped_timesteps_have_the_same_results(
    variant: str, units: int, options: dict[str, Any], module: ModuleType
) -> None:
    problem = make_problem(2, TIME, units=units, projected=True, **options)
    problem = forgetful(problem, 7, TIME - 6)
    if problem.mask is not None:
        problem = replace(problem, mask=np.arange(TIME) < np.array([[TIME - 2], [TIME - 17]]))
    if problem.return_sequences:
        problem = without_gradients(problem, 3, TIME - 9)
    skipping = Run(module, problem, variant, skips=True)
    every = Run(module, problem, variant, skips=False)
    assert_same(skipping, every)
    solve_exactly(problem, "exact").check(skipping.solution)
    for name in ("forward_barriers", "backward_barriers", "barriers_without_reserve"):
        assert getattr(skipping, name) < 0.85 * getattr(every, name), name
    # What the weights' gradients multiply with zeros must be finite.
    assert np.isfinite(skipping.h_prev).all()


@pytest.mark.parametrize("where", ["z", "weights", "h0", "c0"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_passed_over(where: str, value: float, module: ModuleType) -> None:
    problem = forgetful(make_problem(1, 60, units=9, projected=True, return_sequences=False), 7, 50)
    clean, every = (Run(module, problem, "single_16", skips=skips) for skips in (True, False))
    assert clean.forward_barriers < every.forward_barriers
    assert clean.backward_barriers < every.backward_barriers
    if where == "z":
        problem.x[0, 3, 5] = value
    else:
        changed = {"weights": problem.recurrent_kernels, "h0": problem.h0, "c0": problem.c0}[where]
        changed[0][0, 2] = value
    found, expected = (Run(module, problem, "single_16", skips=skips) for skips in (True, False))
    assert_same(found, expected)


@pytest.mark.parametrize("time", [16, 17, 33, 96])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("units", [9, 75])
def test_repeats_up_to_the_end(units: int, directions: int, time: int, module: ModuleType) -> None:
    """Nothing is read beyond it, neither after the last row nor before the first."""
    sizes = {"units": units, "directions": directions, "projected": True, "states": False}
    problem = forgetful(make_problem(2, time, return_sequences=False, **sizes), 0, time)
    variant = "single_16" if units == 9 else "single_96"
    found, expected = (Run(module, problem, variant, skips=skips) for skips in (True, False))
    assert_same(found, expected)
    assert time < 48 or found.forward_barriers < 0.8 * expected.forward_barriers


@pytest.mark.parametrize(("variant", "units"), SIZES[:3:2], ids=["block", "cluster"])
def test_rows_one_after_the_other(variant: str, units: int, module: ModuleType) -> None:
    """On a small device a block has several rows, of which some skip and some do not."""
    module.set_device(9, 0, 2, 232_448)
    problem = forgetful(make_problem(5, 64, units=units, directions=2, projected=True), 5, 60)
    problem.x[1::2] = np.random.default_rng(1).standard_normal(problem.x[1::2].shape)
    problem = without_gradients(problem, 2, 62)
    found, expected = (Run(module, problem, variant, skips=skips) for skips in (True, False))
    module.set_device(9, 0, 132, 232_448)
    assert_same(found, expected)
    assert found.forward_barriers < expected.forward_barriers
    assert found.backward_barriers < expected.backward_barriers


@pytest.mark.parametrize("absent", ["dy", "dh_n", "dc_n", "all"])
def test_gradients_that_are_not_given(absent: str, module: ModuleType) -> None:
    problem = forgetful(make_problem(2, 70, units=9, projected=True, return_sequences=False), 5, 70)
    none = {"dy": None, "dh_n": [None], "dc_n": [None]}
    problem = replace(problem, **(none if absent == "all" else {absent: none[absent]}))
    found, expected = (Run(module, problem, "single_16", skips=skips) for skips in (True, False))
    assert_same(found, expected)
    assert found.backward_barriers < expected.backward_barriers


def test_inputs_that_change_back(module: ModuleType) -> None:
    """A state that comes back is not enough: the inputs of the whole period have to be the same."""
    problem = forgetful(make_problem(1, 160, units=9, projected=True), 7, 150)
    for unlike in (40, 47, 48, 49, 71):
        problem.x[0, unlike, unlike % 36] += 1
    found, expected = (Run(module, problem, "single_16", skips=skips) for skips in (True, False))
    assert_same(found, expected)
    assert found.forward_barriers < expected.forward_barriers


def test_periods_of_several_timesteps(module: ModuleType) -> None:
    """A unit that swings: h changes its sign in each timestep, from a large negative weight on itself."""
    problem = forgetful(make_problem(1, 90, units=9, projected=True, states=False), 0, 90)
    problem.recurrent_kernels[0][0, 18] = -40
    found, expected = (Run(module, problem, "single_16", skips=skips) for skips in (True, False))
    assert_same(found, expected)
    y = expected.solution.y[0, 60:, 0]
    assert (y[1:] != y[:-1]).all()
    assert np.array_equal(y[2:], y[:-2])
    assert found.forward_barriers < 0.6 * expected.forward_barriers


def test_the_order_of_threads_changes_nothing(module: ModuleType) -> None:
    problem = forgetful(make_problem(2, 50, units=75, projected=True), 3, 48)
    runs = []
    for seed in (1, 2, 3):
        module.seed(seed)
        runs.append(Run(module, problem, "single_96", skips=True))
    for other in runs[1:]:
        assert_same_bits(other.solution, runs[0].solution)
        assert (other.forward_barriers, other.backward_barriers) == (
            runs[0].forward_barriers,
            runs[0].backward_barriers,
        )
