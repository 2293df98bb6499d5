"""The cells of Keras's recurrent layers. The kernel computes plain LSTMs only: this module tells which cells are."""

import sys
from collections.abc import Sequence
from typing import Any

import keras
from keras.layers import RNN, LSTMCell, StackedRNNCells

# Methods of Keras's cell that the layers call. They are not documented, so a later Keras may not have them. The layers
# then run as Keras's.
_OF_CELL = (
    "get_dropout_mask",
    "get_recurrent_dropout_mask",
    "reset_dropout_mask",
    "reset_recurrent_dropout_mask",
)
_MISSING = [name for name in _OF_CELL if not hasattr(LSTMCell, name)]

# Keras's own methods. A cell with a different one computes something else.
_METHODS = {
    cls: {name: getattr(cls, name) for name in ("call", "get_initial_state")} for cls in (LSTMCell, StackedRNNCells)
}

# Functions that are equal to Keras's activations, by module. A module that is not imported cannot be in use.
_SAME = {
    "tanh": {
        "keras.ops": ("tanh",),
        "tensorflow": ("tanh", "nn.tanh", "math.tanh"),
        "torch": ("tanh", "nn.functional.tanh"),
        "jax": ("numpy.tanh", "nn.tanh", "lax.tanh"),
    },
    "sigmoid": {
        "keras.ops": ("sigmoid",),
        "tensorflow": ("sigmoid", "nn.sigmoid", "math.sigmoid"),
        "torch": ("sigmoid", "nn.functional.sigmoid", "special.expit"),
        "jax": ("nn.sigmoid", "lax.logistic", "scipy.special.expit"),
    },
}


def of(layer: Any) -> Sequence[Any]:
    """Returns the cells of a recurrent layer, in order: one, or those of a stack."""
    cell = layer.cell
    return tuple(cell.cells) if isinstance(cell, StackedRNNCells) else (cell,)


def other_cell(layer: Any) -> str:
    """Returns why the cells of a recurrent layer are not plain LSTMs; empty if they are."""
    if type(layer.cell) is not StackedRNNCells:
        return _other(layer.cell, LSTMCell)
    if not layer.cell.cells:
        return "it has no cells"
    reasons = (_other(layer.cell, StackedRNNCells), *(_other(cell, LSTMCell) for cell in layer.cell.cells))
    return next(filter(None, reasons), "")


def _other(cell: Any, expected: type) -> str:
    cls = type(cell)
    if cls is not expected:
        return f"its cell is a {cls.__qualname__}, not a keras.layers.LSTMCell"
    for name, of_keras in _METHODS[cls].items():
        if name in vars(cell) or getattr(cls, name) is not of_keras:
            return f"{name} of its {cls.__qualname__} is not Keras's"
    return ""


def starts_from_zero(layer: Any) -> bool:
    """Whether the initial states that a layer makes are zeros. Its cells must be plain LSTMs."""
    return "get_initial_state" not in vars(layer) and type(layer).get_initial_state is RNN.get_initial_state


def unfit(layer: Any) -> str:
    """Returns why the kernel cannot compute the cells of a layer; empty if it can."""
    if reason := other_cell(layer):
        return f"{reason}: the kernel computes LSTMs"
    inner = of(layer)
    for cell in inner:
        for name, function in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
            if not _is(activation := getattr(cell, name), function):
                return f"{name}={_described(activation, function)}: the kernel computes {function}"
    if len(inner) > 1 and len({layer.cell.compute_dtype, *(cell.compute_dtype for cell in inner)}) > 1:
        return "cells of several compute dtypes: the kernel has one for all"
    return f"Keras {keras.__version__} has no LSTMCell.{_MISSING[0]}" if _MISSING else ""


def forget_dropout(layer: Any) -> None:
    """Drops the dropout masks of a call, so that none of them outlives an exception."""
    for cell in of(layer):
        if isinstance(cell, LSTMCell) and (cell.dropout or cell.recurrent_dropout) and not _MISSING:
            cell.reset_dropout_mask()
            cell.reset_recurrent_dropout_mask()


def _is(activation: Any, name: str) -> bool:
    """Whether an activation is Keras's function or the same one of a framework. The name alone does not tell."""
    if activation is getattr(keras.activations, name):
        return True
    return any(
        activation is _found(module, path)
        for module, paths in _SAME[name].items()
        if module in sys.modules
        for path in paths
    )


def _found(module: str, path: str) -> Any:
    found: Any = sys.modules[module]
    for part in path.split("."):
        found = getattr(found, part, _NOTHING)
    return found


_NOTHING = object()


def _described(activation: Any, needed: str) -> str:
    name = str(getattr(activation, "__name__", type(activation).__name__))
    return f"{name} of {activation.__module__}, another function of this name" if name == needed else name
