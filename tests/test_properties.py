"""Properties for every shape, mask and option (hypothesis): agreement with the reference, and symmetries to the bit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from cases import DTYPES, RESERVE_MODES, Problem, make_problem, solve_by_kernel, solve_by_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lstm_fast import _core
from lstm_fast.functional import lstm

sizes = st.integers(1, 40)


def spread(array: np.ndarray) -> np.ndarray:
    """The array, with a NaN after each of its numbers."""
    room = np.full((*array.shape, 2), np.nan, array.dtype)
    room[..., 0] = array
    return room[..., 0]


# Copies of an array with another layout in memory.
LAYOUTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": np.copy,
    "spread": spread,
    "time first": lambda array: np.ascontiguousarray(array.swapaxes(0, 1)).swapaxes(0, 1),
    "from the end": lambda array: np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
}


@st.composite
def problems(draw: st.DrawFn, directions: Sequence[int] = (1, 2)) -> Problem:
    """A problem with any mask."""
    flags = ("bias", "states", "input_dropout", "recurrent_dropout", "go_backwards", "zero_output_for_mask")
    problem = make_problem(
        batch=draw(st.integers(0, 20)),
        time=draw(st.integers(0, 40)),
        features=draw(sizes),
        units=draw(sizes),
        directions=draw(st.sampled_from(directions)),
        dtype=draw(st.sampled_from(sorted(DTYPES))),
        return_sequences=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
        **{flag: draw(st.booleans()) for flag in flags},
    )
    return replace(problem, mask=draw(st.none() | arrays(bool, problem.x.shape[:2])))


@settings(max_examples=150)
@given(problems(), st.sampled_from(sorted(RESERVE_MODES)))
def test_agrees_with_reference(problem, reserve):
    solve_by_reference(problem).check(solve_by_kernel(problem, reserve=reserve))


@settings(max_examples=50)
@given(problems(directions=[1]))
def test_going_backwards_is_reversing_time(problem):
    mask = None if problem.mask is None else np.ascontiguousarray(problem.mask[:, ::-1])
    reversed_input = replace(
        problem, x=np.ascontiguousarray(problem.x[:, ::-1]), mask=mask, go_backwards=not problem.go_backwards
    )
    one, other = solve_by_kernel(problem, backward=False), solve_by_kernel(reversed_input, backward=False)
    np.testing.assert_array_equal(one.y, other.y)
    np.testing.assert_array_equal(one.c_n, other.c_n)


@settings(max_examples=50)
@given(problems(directions=[2]))
def test_two_directions_are_two_layers(problem):
    both = solve_by_kernel(problem, backward=False)
    for n in range(2):
        lists = ("kernels", "recurrent_kernels", "biases", "h0", "c0", "input_dropout", "recurrent_dropout")
        single = replace(problem, go_backwards=n == 1, **{name: [getattr(problem, name)[n]] for name in lists})
        alone = solve_by_kernel(single, backward=False)
        half = both.y[..., n * problem.units : (n + 1) * problem.units]
        np.testing.assert_array_equal(half[:, ::-1] if n == 1 and problem.return_sequences else half, alone.y)
        np.testing.assert_array_equal(both.c_n[n], alone.c_n[0])


@settings(max_examples=50)
@given(problems(), st.integers(0, 9))
def test_right_padding_changes_nothing_but_the_padding(problem, padding):
    batch, time, features = problem.x.shape
    mask = np.ones((batch, time), bool) if problem.mask is None else problem.mask
    padded = replace(
        problem,
        x=np.concatenate([problem.x, np.full((batch, padding, features), np.nan, problem.x.dtype)], axis=1),
        mask=np.concatenate([mask, np.zeros((batch, padding), bool)], axis=1),
        zero_output_for_mask=False,
    )
    one = solve_by_kernel(replace(problem, zero_output_for_mask=False), backward=False)
    other = solve_by_kernel(padded, backward=False)
    for n in range(len(problem.kernels)):
        np.testing.assert_array_equal(one.h_n[n], other.h_n[n])
        np.testing.assert_array_equal(one.c_n[n], other.c_n[n])
    if not problem.return_sequences:
        np.testing.assert_array_equal(one.y, other.y)


@settings(max_examples=100)
@given(problems(directions=[1]), st.sampled_from(sorted(LAYOUTS)), st.integers(0, 2**16), st.integers(1, 8))
def test_how_arrays_lie_and_which_bytes_are_true_does_not_matter(problem, layout, seed, threads):
    expected = solve_by_kernel(problem, backward=False)
    mask = None
    if problem.mask is not None:
        problem = problem.poisoned()
        true = np.random.default_rng(seed).integers(1, 256, problem.mask.shape, np.uint8)  # any byte but 0
        mask = LAYOUTS[layout](np.where(problem.mask, true, 0).astype(np.uint8).view(bool))
    before = _core.threads()
    _core.set_threads(threads)
    y, h, c = lstm(
        LAYOUTS[layout](problem.x),
        *(given[0] for given in (problem.kernels, problem.recurrent_kernels, problem.biases)),
        initial_state=None if problem.h0[0] is None else (problem.h0[0], problem.c0[0]),
        mask=mask,
        input_dropout=problem.input_dropout[0],
        recurrent_dropout=problem.recurrent_dropout[0],
        **problem.options,
    )
    _core.set_threads(before)
    np.testing.assert_array_equal(y, expected.y)
    np.testing.assert_array_equal(h, expected.h_n[0])
    np.testing.assert_array_equal(c, expected.c_n[0])
