"""Error of the vectorised activation functions over their whole range, in units in the last place."""

from collections.abc import Callable

import numpy as np
import pytest
import tolerances
from numpy.typing import NDArray

from lstm_fast import _core

pytestmark = pytest.mark.usefixtures("isa")

POINTS = 400_000


def exact_sigmoid(x: NDArray[np.longdouble]) -> NDArray[np.longdouble]:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, np.longdouble(1), e) / (1 + e)


def error_in_ulp(function: Callable, exact: Callable, x: NDArray[np.floating]) -> float:
    expected = exact(x.astype(np.longdouble))
    spacing = np.spacing(np.abs(expected.astype(x.dtype))).astype(np.longdouble)
    return float(np.max(np.abs(function(x).astype(np.longdouble) - expected) / spacing))


def grid(dtype: str, low: float, high: float) -> NDArray[np.floating]:
    """Evenly and logarithmically spaced points of both signs, and the neighbours of every power of two."""
    powers = np.ldexp(np.ones(1, dtype), np.arange(-60, 10))
    near_powers = np.concatenate([powers, np.nextafter(powers, 0), np.nextafter(powers, np.inf)])
    tiny = np.geomspace(1e-30, high, POINTS)
    points = np.concatenate([np.linspace(low, high, POINTS), tiny, -tiny, near_powers, -near_powers]).astype(dtype)
    return points[(points >= low) & (points <= high)]


# Below, sigmoid is subnormal; above, both functions round to one.
LOWEST_NORMAL = {"float32": -87.0, "float64": -708.0}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid(dtype):
    x = grid(dtype, LOWEST_NORMAL[dtype], 100.0)
    assert error_in_ulp(_core._sigmoid, exact_sigmoid, x) <= tolerances.SIGMOID_ULP[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh(dtype):
    x = grid(dtype, -100.0, 100.0)
    assert error_in_ulp(_core._tanh, np.tanh, x) <= tolerances.TANH_ULP[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.fast
def test_special_values(dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).min], dtype)
    np.testing.assert_array_equal(_core._tanh(x), np.array([0, 0, 1, -1, np.nan, 1, -1], dtype))
    sigmoid = _core._sigmoid(x)
    np.testing.assert_array_equal(sigmoid[[0, 1, 2, 4, 5]], np.array([0.5, 0.5, 1, np.nan, 1], dtype))
    # Below the smallest normal number the only promise is that the result is not negative.
    assert (sigmoid[[3, 6]] >= 0).all()
    assert (sigmoid[[3, 6]] <= np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lengths_that_do_not_fill_a_vector(dtype):
    x = np.linspace(-3, 3, 70, dtype=dtype)
    for length in range(len(x)):
        np.testing.assert_array_equal(_core._tanh(x[:length].copy()), _core._tanh(x)[:length])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounded(dtype):
    x = grid(dtype, -1000.0, 1000.0)
    assert (np.abs(_core._tanh(x)) <= 1).all()
    sigmoid = _core._sigmoid(x)
    assert ((sigmoid >= 0) & (sigmoid <= 1)).all()
