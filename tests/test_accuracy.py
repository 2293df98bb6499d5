"""Float32 error against the float64 reference over long sequences, ours and Keras's. `pytest -s` prints the table."""

from collections.abc import Mapping

import keras
import numpy as np
import tolerances
from cases import make_problem, solve_by_reference
from keras_side import fused, solve_by_layer
from numpy.typing import NDArray

from lstm_fast import FastLSTM

LONG = 2000
MASKS = ("none", "right", "none", "right")  # one problem for each entry


def relative_squares(found: Mapping[str, NDArray], exact: Mapping[str, NDArray]) -> dict[str, float]:
    """Mean square error of every array, in units of its largest value squared."""
    return {
        name: float(np.mean((found[name] - array) ** 2)) / tolerances.largest(array) ** 2
        for name, array in exact.items()
    }


def test_error_is_no_larger_than_that_of_keras():
    errors = []
    for seed, mask in enumerate(MASKS):
        problem = make_problem(4, LONG, 16, 24, mask=mask, seed=seed)
        exact = solve_by_reference(problem).solution.named()
        with fused(forward=1, backward=1):
            ours = solve_by_layer(problem, FastLSTM, "graph").named()
        theirs = solve_by_layer(problem, keras.layers.LSTM, "graph").named()
        errors.append((relative_squares(ours, exact), relative_squares(theirs, exact)))

    print(f"\nroot-mean-square error relative to the largest value; T={LONG}, {len(errors)} problems")
    print(f"{'':24}{'FastLSTM':>12}{'keras LSTM':>12}{'ratio':>8}")
    too_large = []
    for name in exact:
        error, error_of_keras = (np.sqrt(np.mean([pair[side][name] for pair in errors])) for side in range(2))
        print(f"{name:24}{error:12.2e}{error_of_keras:12.2e}{error / error_of_keras:8.2f}")
        if error > tolerances.KERAS_ERROR_RATIO * error_of_keras:
            too_large.append(name)
    assert not too_large
