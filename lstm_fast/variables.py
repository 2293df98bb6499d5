"""All variables of a model, with its states and its optimizer's: listed, copied and restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from lstm_fast import states
from lstm_fast.layers import parts_of


def of(model: Any) -> list[Any]:
    """Returns the variables of a model: weights, seeds, states of stateful layers, and those of its optimizer.

    Keras does not count the states among the variables of a model. On JAX, the fast layers do.
    """
    of_layers = [state for part in parts_of(model) if isinstance(part, keras.layers.RNN) for state in states.of(part)]
    ids = {id(state) for state in of_layers}
    others = [variable for variable in model.variables if id(variable) not in ids]
    optimizer = getattr(model, "optimizer", None)
    return [*others, *of_layers, *(optimizer.variables if optimizer is not None else ())]


def values(model: Any) -> list[np.ndarray]:
    """Returns copies of the values of `of(model)`."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in of(model)]


@contextlib.contextmanager
def restored(variables: Iterable[Any]) -> Iterator[None]:
    """Restores at the end the variables whose values have changed."""
    before = [(variable, np.array(keras.ops.convert_to_numpy(variable))) for variable in variables]
    try:
        yield
    finally:
        for variable, value in before:
            if not np.array_equal(keras.ops.convert_to_numpy(variable), value):
                variable.assign(value)


@contextlib.contextmanager
def undone(model: Any, seed: int = 0) -> Iterator[None]:
    """Restores all variables at the end. At the beginning it seeds the random numbers that no variable holds.

    So dropout and the like draw the same random numbers every time, and in every copy of the model.
    """
    with restored(of(model)):
        keras.utils.set_random_seed(seed)
        yield
