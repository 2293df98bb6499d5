"""The masks of a layer: one value per timestep on the way in, and a warning if they do not fit the outputs."""

import warnings
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from lstm_fast import arrays

# Keras's backends that reduce a mask [B, T, k] to one value per timestep; on the others it is an error.
_REDUCE = ("jax", "numpy")

# Whether the caller of the current layer passed `mask`, perhaps as None. If not, Keras took it from the input, and the
# next layer will take it from the output.
passed: ContextVar[bool] = ContextVar("passed", default=True)


class ReversedMaskWarning(UserWarning):
    """A layer that runs backwards passes on a mask in the order of its input, and outputs in reverse order."""


def prepared(mask: Any, sequences: Any) -> Any:
    """Returns a mask for these sequences, `[B, T]` or `[B, T, 1]`, as Keras would read it; keeps other shapes."""
    mask = unnested(mask)
    if mask is None:
        return None
    mask = tensor("mask", mask)
    if len(mask.shape) == 3 and mask.shape[-1] != 1 and keras.backend.backend() in _REDUCE:
        mask = ops.any(ops.cast(mask, "bool"), axis=-1)
    return one_for_all(mask, sequences)


def unnested(mask: Any) -> Any:
    """Returns the mask of the sequences, where Keras has it in a list with those of the states."""
    return mask[0] if isinstance(mask, (list, tuple)) else mask


def one_for_all(value: Any, sequences: Any) -> Any:
    """Repeats a tensor of one row for each of the sequences; leaves other tensors alone."""
    if len(value.shape) == 0 or value.shape[0] != 1 or sequences.shape[0] == 1:
        return value
    return ops.broadcast_to(value, (ops.shape(sequences)[0], *ops.shape(value)[1:]))


def check(mask: Any, batch: int | None, time: int | None) -> None:
    """Raises TypeError or ValueError if a mask, which may be symbolic, does not fit."""
    shape = tuple(mask.shape)
    if len(shape) == 3 and shape[-1] not in (None, 1) and keras.backend.backend() not in _REDUCE:
        raise ValueError(
            f"`mask`: expected shape (batch={batch}, time={time}) or (batch={batch}, time={time}, 1), found {shape}. "
            "TimeDistributed, for example, passes on the mask of the words, (batch, sentences, words), but the next "
            "layer needs a mask of the sentences; Keras's LSTM fails there as well on "
            f"{keras.backend.backend()}. Reduce it on the way, for example by "
            "keras.layers.Lambda(lambda y: y, mask=lambda y, mask: keras.ops.any(mask, axis=-1))"
        )
    batch = None if shape[:1] == (1,) else batch
    if len(shape) == 3 and isinstance(mask, keras.KerasTensor):
        arrays.check_shape("mask", mask, batch=batch, time=time, last=None)
    else:
        arrays.check_mask(mask, batch, time)


def tensor(name: str, value: Any) -> Any:
    """Returns an argument as a tensor of Keras's backend; raises TypeError if it cannot be one."""
    try:
        return ops.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        found = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"`{name}`: expected a boolean or numeric dtype, found {found}") from error


def warn_of_reversed(layer: Any) -> None:
    """Warns, once for a layer, that its outputs are in another order than the mask that it passes on."""
    if layer.warned_of_mask:
        return
    layer.warned_of_mask = True
    text = (
        f"{type(layer).__qualname__} '{layer.name}' has go_backwards=True and return_sequences=True: its outputs begin "
        "with the last timestep, but the mask that it passes on is in the order of the input, as in Keras. The next "
        "layer takes padding for data, and data for padding. If you want both directions, FastBidirectional turns the "
        "outputs round. Otherwise do that yourself, and give the mask to both layers: "
        "`y = keras.ops.flip(layer(x, mask=mask), axis=1)`, `next_layer(y, mask=mask)`"
    )
    warnings.warn(text, ReversedMaskWarning, stacklevel=2)
