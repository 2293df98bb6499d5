"""The states of stateful layers: where they are stored, and their batch size."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops
from keras.layers import StackedRNNCells

from lstm_fast import arrays, cells, functional, masks


def carried() -> bool:
    """Whether the states must be among the variables of a layer.

    Keras's trainer on JAX passes the variables of a model from step to step. Other states would lose their values.
    """
    return str(keras.backend.backend()) == "jax"


def of(layer: Any) -> list[Any]:
    """Returns the states of a stateful layer, of all its cells; an empty list for other layers."""
    return list(keras.tree.flatten(layer.states)) if layer.states is not None else []


def make(layer: Any, batch: int) -> None:
    """Makes the states of a stateful layer, for a batch of this size, as variables with different names.

    Keras gives all of them the same name, and values instead of initializers. The variables of a model may not share a
    name. A model that is built by its first batch in `fit` needs initializers.
    """

    def variable(i: int, state: Any) -> Any:
        return keras.Variable(
            lambda shape, dtype: ops.cast(ops.broadcast_to(initial()[i], shape), dtype),
            shape=tuple(state.shape),
            dtype=layer.variable_dtype,
            trainable=False,
            name=f"rnn_state_{i}" if i else "rnn_state",
        )

    def initial() -> list[Any]:
        return list(keras.tree.flatten(layer.get_initial_state(batch)))

    with keras.name_scope(layer.name, caller=layer):
        made = [variable(i, state) for i, state in enumerate(initial())]
    # Not by setattr: Keras would count the variables among the weights.
    object.__setattr__(layer, "states", keras.tree.pack_sequence_as(layer.get_initial_state(batch), made))


def are_of_keras(layer: Any) -> bool:
    """Whether Keras has made the states of a layer, not `make`: they then have the same name."""
    return bool(of(layer)) and len({state.name for state in of(layer)}) == 1


def make_anew(layer: Any) -> None:
    """Replaces the states that Keras has made by variables from `make`, with the same values."""
    with _at_hand(layer):
        values = [ops.copy(state) for state in of(layer)]
    make(layer, values[0].shape[0])
    for state, value in zip(of(layer), values, strict=True):
        state.assign(value)


def reset(layer: Any) -> None:
    """Sets the states of a layer to zero. If their values are not there, the error says what to do."""
    with _at_hand(layer):
        for state in of(layer):
            state.assign(ops.zeros_like(state.value))


@contextlib.contextmanager
def _at_hand(layer: Any) -> Iterator[None]:
    """Raises an error with the cause if the values of states are not there."""
    try:
        yield
    except TypeError as error:
        if not carried():
            raise
        # Keras's trainer takes the values of all variables for the time of an epoch, and their initializers are gone.
        raise RuntimeError(
            f"{type(layer).__qualname__} '{layer.name}': its states have no values now, because Keras's trainer on JAX "
            "has taken them. In a callback, take the layer from `self.model`, or call `model.jax_state_sync()` first"
        ) from error


def check_batch(layers: Sequence[Any], batch: int | None) -> None:
    """Raises ValueError if the size of a batch is known and is not that of the states of stateful layers."""
    for layer in layers:
        if (size := _size(layer)) is not None and batch not in (None, size):
            raise ValueError(f"{_expected(size)}, found {batch}{_advice()}")


def with_checked_batch(layers: Sequence[Any], sequences: Any) -> Any:
    """Returns sequences with the batch size of the states of stateful layers. The graph checks it when it runs."""
    size = next((size for layer in layers if (size := _size(layer)) is not None), None)
    if size is None or sequences.shape[0] is not None or keras.backend.backend() != "tensorflow":
        return sequences
    text = f"'{layers[0].name}': {_expected(size)}; found another one{_advice()}"
    return functional.with_batch(keras.backend.backend(), sequences, size, text)


def one_for_all(initial_state: Any, sequences: Any) -> Any:
    """Repeats initial states `[1, H]` for each of the sequences; leaves others alone."""
    if not isinstance(initial_state, (list, tuple)):
        return initial_state
    flat = [
        masks.one_for_all(masks.tensor(f"initial_state[{i}]", state), sequences)
        for i, state in enumerate(keras.tree.flatten(initial_state))
    ]
    return keras.tree.pack_sequence_as(initial_state, flat)


def check_initial(initial_state: Any, batch: int | None, layers: Sequence[Any]) -> None:
    """Raises TypeError or ValueError if the initial states of layers, which may be symbolic, do not fit."""
    # For a stack of cells, a list [h, c] for each cell; for one cell, h and c.
    units = [_units(layer) for layer in layers]
    expected = [size for sizes in units for size in sizes]
    kind = (
        "lists [h, c], one for each cell"
        if any(isinstance(size, list) for size in expected)
        else "tensors (h, c per layer)"
    )
    if not isinstance(initial_state, (list, tuple)):
        raise ValueError(
            f"`initial_state`: expected a list of {len(expected)} {kind}, found {_described(initial_state)}"
        )
    if len(initial_state) != len(expected):
        raise ValueError(f"`initial_state`: expected {len(expected)} {kind}, found {len(initial_state)}")
    for i, (given, size) in enumerate(zip(initial_state, expected, strict=True)):
        name = f"initial_state[{i}]"
        if not isinstance(size, list):
            _check_state(name, given, batch, size)
            continue
        if not isinstance(given, (list, tuple)) or len(given) != len(size):
            raise ValueError(f"`{name}`: expected [h, c] of a cell, found {_described(given)}")
        for k, (state, of_state) in enumerate(zip(given, size, strict=True)):
            _check_state(f"{name}[{k}]", state, batch, of_state)


def _units(layer: Any) -> list[Any]:
    """Returns the units of the states of a layer, nested as its `initial_state` is."""
    sizes = [[cell.units, cell.units] for cell in cells.of(layer)]
    return sizes if isinstance(layer.cell, StackedRNNCells) else sizes[0]


def _described(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _check_state(name: str, value: Any, batch: int | None, units: int) -> None:
    if isinstance(value, (list, tuple, dict, str)):
        raise ValueError(f"`{name}`: expected a tensor (batch, units={units}), found {_described(value)}")
    state = value if isinstance(value, keras.KerasTensor) else masks.tensor(name, value)
    rows = None if tuple(state.shape[:1]) == (1,) else batch  # one row is for the whole batch
    arrays.check_shape(name, state, batch=rows, units=units)


def _size(layer: Any) -> int | None:
    return of(layer)[0].shape[0] if layer.stateful and layer.states else None


def _expected(size: int) -> str:
    return f"a layer with stateful=True must keep its batch size: expected {size} sequences, as it was built for"


def _advice() -> str:
    text = (
        ". It goes on from the states of the batch before, row by row. Choose `batch_size` so that it divides the "
        "number of samples, or leave the last rows out, e.g. by `dataset.batch(n, drop_remainder=True)`"
    )
    if not carried():
        return text
    return (
        f"{text}. If this came from `predict` or `evaluate` after their first batch, `model.jax_state_sync()` gives "
        "the model its weights back, which Keras's trainer on JAX has taken"
    )
