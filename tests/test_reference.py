"""The float64 reference against Keras in float64, against finite differences, and on problems that Keras cannot run."""

import keras
import numpy as np
import pytest
import tolerances
from cases import MASKS, Problem, Solution, differences, label, make_problem, pairwise, solve_by_reference
from keras_side import solve_by_layer

from lstm_fast import reference

OPTIONS = pairwise(
    {
        "directions": (1, 2),
        "mask": MASKS,
        "go_backwards": (False, True),
        "return_sequences": (False, True),
        "zero_output_for_mask": (False, True),
        "bias": (True, False),
        "states": (True, False),
        "input_dropout": (False, True),
        "recurrent_dropout": (False, True),
    }
)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_agrees_with_keras(options):
    problem = make_problem(4, 6, 3, 5, dtype="float64", **options)
    solve_by_reference(problem).check(solve_by_layer(problem, keras.layers.LSTM))


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_gradients_agree_with_finite_differences(options):
    problem = make_problem(2, 4, 3, 2, dtype="float64", **options)
    exact = solve_by_reference(problem).solution.named()

    def run_forward(perturbed: Problem) -> Solution:
        return Solution(*reference.forward(*perturbed.inputs, **perturbed.options))

    for name, numeric in differences(problem, run_forward).items():
        atol = tolerances.DIFFERENCE_ERROR * tolerances.largest(1.0, *exact.values())
        np.testing.assert_allclose(exact[name], numeric, rtol=0.0, atol=atol, err_msg=name)


@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_output_before_the_first_real_step_is_zero_and_later_masked_steps_repeat(zero_output_for_mask):
    problem = make_problem(1, 5, 3, 2, dtype="float64", zero_output_for_mask=zero_output_for_mask)
    mask = np.array([[False, True, False, True, False]])
    y, (h_n,), _ = reference.forward(problem.x, mask, *problem.inputs[2:], **problem.options)
    assert not y[0, 0].any()
    np.testing.assert_array_equal(y[0, 2], np.zeros(2) if zero_output_for_mask else y[0, 1])
    np.testing.assert_array_equal(y[0, 4], np.zeros(2) if zero_output_for_mask else y[0, 3])
    np.testing.assert_array_equal(h_n[0], y[0, 3])


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize(("batch", "time"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.fast
def test_no_rows_or_no_timesteps(batch, time, return_sequences):
    problem = make_problem(batch, time, 4, 5, dtype="float64", directions=2, return_sequences=return_sequences)
    solution = solve_by_reference(problem).solution
    assert solution.y.shape == problem.dy.shape
    assert not solution.y.any()
    for n in range(2):
        np.testing.assert_array_equal(solution.h_n[n], problem.h0[n])
        np.testing.assert_array_equal(solution.dc0[n], problem.dc_n[n])
        assert not solution.dkernels[n].any()


@pytest.mark.fast
def test_nothing_leaks_out_of_masked_steps():
    problem = make_problem(3, 6, 4, 5, dtype="float64", mask="masked_rows")
    clean = solve_by_reference(problem).solution.named()
    problem.x[~problem.mask] = np.nan
    for name, array in solve_by_reference(problem).solution.named().items():
        np.testing.assert_array_equal(array, clean[name], err_msg=name)


def test_two_directions_refuse_go_backwards():
    problem = make_problem(directions=2)
    with pytest.raises(ValueError, match="go_backwards"):
        reference.forward(*problem.inputs, go_backwards=True)
