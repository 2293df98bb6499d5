"""Checks of a layer's call arguments. Keras does not do them, or does them too late."""

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from lstm_fast import arrays, cells, masks, states


def check_symbolic_call(layer: Any, args: Sequence[Any], kwargs: Any, directions: Sequence[Any]) -> None:
    """Checks the arguments of a symbolic call as far as they are known.

    Keras's trainer on JAX takes the values out of the variables of a model. After an error in the first step of `fit`,
    `evaluate` or `predict` they would have none. An error here comes before that.
    """
    arguments = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    if "sequences" in arguments:  # a subclass may have other ones
        mask = masks.unnested(arguments.get("mask"))
        _check_call(layer, arguments["sequences"], arguments.get("initial_state"), mask, directions)


def checked_call(
    layer: Any, sequences: Any, initial_state: Any, mask: Any, directions: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """Checks the arguments of a call and returns them. A mask or a state of one row is repeated for the whole batch."""
    with _named(layer):
        if not hasattr(sequences, "shape"):
            raise TypeError(f"`sequences`: expected a tensor, found {type(sequences).__name__}")
        mask = masks.prepared(mask, sequences)
        initial_state = states.one_for_all(initial_state, sequences)
    _check_call(layer, sequences, initial_state, mask, directions)
    return states.with_checked_batch(directions, sequences), initial_state, mask


def _check_call(layer: Any, sequences: Any, initial_state: Any, mask: Any, directions: Sequence[Any]) -> None:
    """Checks the call arguments that Keras does not."""
    with _named(layer):
        _refuse_keras_2(sequences)
        _refuse_complex(sequences)
        if any(cells.other_cell(direction) for direction in directions):  # another cell may take other shapes
            return
        features = _features(directions)
        batch, time, _ = arrays.check_shape("sequences", sequences, batch=None, time=None, features=features)
        states.check_batch(directions, batch)
        if mask is not None:
            masks.check(mask, batch, time)
        if initial_state is not None:
            states.check_initial(initial_state, batch, directions)


def _features(directions: Sequence[Any]) -> int | None:
    """Returns the number of features that layers were built for, None if they are not built."""
    first = cells.of(directions[0])[0]
    return int(first.kernel.shape[0]) if first.built else None


@contextlib.contextmanager
def _named(layer: Any) -> Iterator[None]:
    """Puts the name of the layer into the message of a TypeError or ValueError."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{type(layer).__qualname__} '{layer.name}': {error}") from None


def _refuse_keras_2(sequences: Any) -> None:
    """Raises TypeError for the symbolic tensors of tf_keras.

    Many functions of TensorFlow take them, so a layer would run. But the model would not know the weights of the layer,
    and would not train them.
    """
    if of_keras_2(sequences):
        raise TypeError(
            f"`sequences`: expected a tensor of Keras 3, found {of_keras_2(sequences)}, which is of Keras 2. Make the "
            "model with the package `keras`, not with `tf_keras`, nor with `tf.keras` while TF_USE_LEGACY_KERAS=1 is "
            "set. `new.set_weights(old.get_weights())` copies the weights"
        )


def _refuse_complex(sequences: Any) -> None:
    """Raises TypeError for complex numbers: the cast to a real dtype would drop the imaginary parts."""
    dtype = keras.backend.standardize_dtype(sequences.dtype)
    if dtype.startswith("complex"):
        raise TypeError(f"`sequences`: expected a real dtype, found {dtype}")


def of_keras_2(value: Any) -> str:
    """Returns the name of the Keras 2 class of a value; empty if it has none."""
    modules = ("tf_keras", "keras.src.engine", "keras.engine", "tensorflow.python.keras")
    for cls in type(value).__mro__:
        if any(cls.__module__ == module or cls.__module__.startswith(f"{module}.") for module in modules):
            return f"{cls.__module__}.{cls.__qualname__}"
    return ""
