"""The common part of the tests of the GPU path: the expected results, the proof that its kernels ran, and the checks
that every framework must pass. `module` has the interface of `lstm_fast._cuda`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import tolerances
from cases import (
    DTYPES,
    KINDS,
    MASKS,
    RESERVE_MODES,
    Expected,
    Problem,
    Solution,
    assert_same_bits,
    make_problem,
    pairwise,
    solve_by_reference,
    with_other_bytes,
)

from lstm_fast import FastLSTM, _core
from lstm_fast.backends import PRECISIONS

# Options that say how a problem is solved. They go by name to the function that solves it; the others make the problem.
HOW: Mapping[str, Any] = {"reserve": tuple(RESERVE_MODES), "precision": PRECISIONS}
MORE = ("jit", "mode", "open_sizes")  # options of some frameworks
# Small sizes, because the emulated device is slow.
SMALL: Mapping[str, Any] = {
    "units": (1, 7, 8, 24, 33),
    "features": (1, 3, 4),
    "batch": (1, 3, 9),
    "time": (1, 2, 6),
    **HOW,
    "projected": (False, True),
    **KINDS,
}
LAYER: Mapping[str, Any] = {"directions": (1, 2), "mask": MASKS, "dtype": tuple(DTYPES)}
LAYERS = pairwise(LAYER)


def check_agreement(
    solve: Callable[..., Solution], options: Mapping[str, Any], module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asserts that `solve` agrees with the reference, for a problem with these options, and options of HOW and MORE."""
    how = {name: options[name] for name in (*HOW, *MORE) if name in options}
    problem = make_problem(**{name: value for name, value in options.items() if name not in how})
    precision = how.pop("precision")
    monkeypatch.setenv("LSTM_FAST_PRECISION", precision)
    with ran(module, forward=1 if how["reserve"] == "gates" else 2, backward=1):
        found = solve(problem, **how)
    solve_exactly(problem, precision).check(found)
    assert {array.dtype for array in found.named().values()} == {problem.x.dtype}


def check_bytes_of_mask(solve: Callable[..., Solution], module: ModuleType, **how: Any) -> None:
    """Asserts that every byte but 0 of a mask makes a timestep real, in both passes and in the copied outputs."""
    for options in ({}, {"return_sequences": False}, {"zero_output_for_mask": True, "go_backwards": True}):
        problem = make_problem(9, 6, 3, 7, mask="holes", **options)
        with ran(module, forward=2, backward=2):
            other, one = (solve(each, **how) for each in (with_other_bytes(problem), problem))
        assert_same_bits(other, one)


def with_dropout_in_one_direction(field: str, without: int) -> Problem:
    """A problem in which only one direction has multipliers in this field of `Problem`."""
    problem = make_problem(directions=2, input_dropout=True, recurrent_dropout=True, mask="holes")
    multipliers = [None if n == without else value for n, value in enumerate(getattr(problem, field))]
    return replace(problem, **{field: multipliers})


def check_layer(problem: Problem, module: ModuleType, **how: Any) -> None:
    """Asserts that a layer runs on the GPU, one call for each direction, and agrees with the reference.

    `how` are the options of `solve_by_layer`: the mode of Keras's backend.
    """
    from keras_side import expected_of_layer, fused, solve_by_layer  # not at the top: it needs Keras's backend

    passes = len(problem.kernels)
    with fused(0), ran(module, forward=passes, backward=passes):
        found = solve_by_layer(problem, FastLSTM, **how)
    loosened(expected_of_layer(problem), problem.x.dtype.name).check(found)


def solve_exactly(problem: Problem, precision: str = "exact") -> Expected:
    """The exact solution, and how far the GPU path may be off with products of float32 in this precision."""
    return loosened(solve_by_reference(problem), problem.x.dtype.name, precision)


def loosened(expected: Expected, dtype: str, precision: str = "exact") -> Expected:
    """The same solution, with the tolerance for the GPU path."""
    slack = tolerances.STORED_BETWEEN.get(dtype, 1.0)
    if dtype == "float32" and precision == "tf32":
        slack *= tolerances.ROUNDOFF["tf32"] / tolerances.ROUNDOFF["float32"]
    of_stored_dz = expected.of_stored_dz if dtype in tolerances.STORED_BETWEEN else {}
    allowance = {name: slack * value + of_stored_dz.get(name, 0.0) for name, value in expected.allowance.items()}
    return replace(expected, allowance=allowance)


@contextlib.contextmanager
def ran(module: ModuleType, forward: int, backward: int = 0) -> Iterator[None]:
    """Asserts that exactly so many passes run inside the block, and none on the CPU."""
    before, before_on_cpu = module.fused_calls(), _core.fused_calls()
    yield
    after = module.fused_calls()
    assert {name: after[name] - before[name] for name in after} == {"forward": forward, "backward": backward}
    assert _core.fused_calls() == before_on_cpu
