"""All that a model remembers from one call to the next, taken down and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from lstm_fast import states
from lstm_fast.layers import parts_of


def of(model: Any) -> list[Any]:
    """Returns the variables of a model: weights, random numbers, states of stateful layers, those of its optimizer.

    Keras does not count these states among the variables; on JAX, the fast layers do.
    """
    carried = [state for part in parts_of(model) if isinstance(part, keras.layers.RNN) for state in states.of(part)]
    kept = {id(state) for state in carried}
    own = [variable for variable in model.variables if id(variable) not in kept]
    optimizer = getattr(model, "optimizer", None)
    return [*own, *carried, *(optimizer.variables if optimizer is not None else ())]


def values(model: Any) -> list[np.ndarray]:
    """Returns copies of the values of `of(model)`."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in of(model)]


@contextlib.contextmanager
def restored(variables: Iterable[Any]) -> Iterator[None]:
    """Gives variables the values back, in the end, that have changed."""
    before = [(variable, np.array(keras.ops.convert_to_numpy(variable))) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(keras.ops.convert_to_numpy(variable), value):
                variable.assign(value)


@contextlib.contextmanager
def undone(model: Any, seed: int = 0) -> Iterator[None]:
    """Gives all variables their values back at the end, and seeds random numbers that are in no variable before.

    So what draws random numbers inside, such as dropout, draws the same every time and in every copy of the model.
    """
    with restored(of(model)):
        keras.utils.set_random_seed(seed)
        yield
