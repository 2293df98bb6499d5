"""What must hold for any shape, mask and option (hypothesis): the reference, and symmetries to the bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from cases import DTYPES, RESERVE_MODES, Problem, make_problem, solve_by_kernel, solve_by_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

sizes = st.integers(1, 40)


@st.composite
def problems(draw: st.DrawFn, directions: Sequence[int] = (1, 2)) -> Problem:
    """A problem with any mask whatever."""
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
