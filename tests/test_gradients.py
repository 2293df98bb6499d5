"""The kernels' gradients against finite differences of the kernels' own forward pass, in float64."""

import numpy as np
import pytest
import tolerances
from cases import MASKS, RESERVE_MODES, differences, label, make_problem, pairwise, solve_by_kernel

OPTIONS = pairwise(
    {
        "directions": (1, 2),
        "mask": MASKS,
        "reserve": tuple(RESERVE_MODES),
        "go_backwards": (False, True),
        "return_sequences": (True, False),
        "zero_output_for_mask": (False, True),
        "bias": (True, False),
        "states": (True, False),
        "input_dropout": (False, True),
        "recurrent_dropout": (False, True),
        "projected": (False, True),
    }
)


@pytest.mark.parametrize("options", OPTIONS, ids=label)
def test_gradients(options):
    reserve = options["reserve"]
    problem = make_problem(
        3, 19, 3, 5, dtype="float64", **{name: value for name, value in options.items() if name != "reserve"}
    )
    found = solve_by_kernel(problem, reserve=reserve).named()
    atol = tolerances.DIFFERENCE_ERROR * tolerances.largest(1.0, *found.values())
    for name, numeric in differences(problem, lambda perturbed: solve_by_kernel(perturbed, backward=False)).items():
        np.testing.assert_allclose(found[name], numeric, rtol=0.0, atol=atol, err_msg=name)
