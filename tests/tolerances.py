"""Every tolerance of the test suite. No test has its own number.

An error is measured in units of the dtype's unit roundoff times a norm of the operands: by Cauchy-Schwarz a dot product
of x and w is at most |x| |w|, and its rounding error is a small multiple of `ROUNDOFF * |x| |w|`. The cell state keeps
the error of each timestep, and independent errors add up like the square root of their number.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

ROUNDOFF: Mapping[str, float] = MappingProxyType(
    {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
)

# Multiples of the unit roundoff that are allowed for the products below.
FORWARD = 0.5
GRADIENT = 1.0

# On a GPU z, its gradient and h are rounded to 16 bits between the matrix products. This factor allows for it.
STORED_BETWEEN: Mapping[str, float] = MappingProxyType({"float16": 4.0, "bfloat16": 4.0})

# Two layers in one dtype against each other, gradients too: both have errors.
LAYERS = 8.0

# The error of central differences with step h is h^2 (truncation) + roundoff / h (cancellation), least at
# h = cbrt(roundoff).
DIFFERENCE_STEP = float(np.cbrt(ROUNDOFF["float64"]))
DIFFERENCE_ERROR = 32.0 * DIFFERENCE_STEP**2

# Greatest error of the activation functions, in units in the last place of the exact result.
SIGMOID_ULP: Mapping[str, float] = MappingProxyType({"float32": 3.0, "float64": 4.0})
TANH_ULP: Mapping[str, float] = MappingProxyType({"float32": 3.0, "float64": 4.0})

# How much larger than Keras's error ours may be, both against the float64 reference. The two round in different orders,
# so either may be smaller. Keras's own error varies by as much from one set of problems to the next.
KERAS_ERROR_RATIO = 1.25

# Training from the same weights: by how many roundings the losses of two implementations move apart at every step.
DRIFT_PER_STEP = 64.0

# Final accuracy of two runs that differ by rounding only, as a share of the test set.
ACCURACY_BAND = 0.03

# Share of the test set that a trained classifier must get right: a comparison of worse ones would prove nothing.
JAPANESE_VOWELS_ACCURACY = 0.9


def between_layers(dtype: str, terms: int, expected: ArrayLike) -> float:
    """How far apart two layers may be, if their results are sums of `terms` products."""
    return LAYERS * ROUNDOFF[dtype] * float(np.sqrt(terms)) * max(1.0, largest(expected))


def between_trainings(dtype: str, steps: int, expected: ArrayLike) -> float:
    """How far apart weights may be after `steps` updates, if the batches were summed in another order."""
    return between_layers(dtype, steps, expected)


def norm_of_rows(array: ArrayLike) -> float:
    """The greatest Euclidean norm of a vector along the last axis; 0 for an empty array."""
    values = np.asarray(array).astype(np.float64)
    return float(np.linalg.norm(values, axis=-1).max()) if values.size else 0.0


def norm_of_columns(array: ArrayLike) -> float:
    """The greatest norm of a column, all other axes taken together."""
    values = np.asarray(array).astype(np.float64)
    return norm_of_rows(values.reshape(-1, values.shape[-1]).T) if values.size else 0.0


def largest(*arrays: ArrayLike | None) -> float:
    """The greatest magnitude in any of the arrays; 0 if there are none."""
    sizes = [
        np.abs(np.asarray(array).astype(np.float64)).max() for array in arrays if array is not None and np.size(array)
    ]
    return float(max(sizes, default=0.0))


def assert_close(found: ArrayLike, expected: ArrayLike, atol: float, err_msg: str = "") -> None:
    """np.testing.assert_allclose(strict=True), which NumPy 1.26 does not have: shapes and dtypes are compared, too."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), err_msg
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=atol, err_msg=err_msg)
