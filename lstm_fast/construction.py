"""Checks of the arguments that a layer is made with, where Keras has none, or one that says little."""

import inspect
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from keras.layers import LSTM, Bidirectional, Layer

_OF_RECURRENT_LAYERS = ("go_backwards", "return_sequences", "return_state", "stateful")
_ROUNDING = 1e-6  # of a share that was computed


def checked_units(units: Any) -> int:
    """Returns the argument `units`; raises TypeError or ValueError if it is no positive integer."""
    found = integer(units)
    if found is None:
        raise TypeError(f"`units`: expected a positive integer, found {units!r}")
    if found < 1:
        raise ValueError(f"`units`: expected a positive integer, found {found}")
    return found


def check_dropout(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for shares that are none. The arguments are those of an LSTM after `units`.

    Keras takes 1 for all that is more, as for 20 instead of 0.2. Its cells then drop nothing, and its faster path on
    PyTorch, for sequences without a mask, drops the whole input. 1 itself is allowed, because files that Keras has
    written may have it.
    """
    given = inspect.signature(LSTM.__init__).bind_partial(None, None, *args, **kwargs).arguments
    for name in ("dropout", "recurrent_dropout"):
        share = given.get(name, 0.0)
        if not isinstance(share, numbers.Real) or isinstance(share, bool):
            raise TypeError(f"`{name}`: expected a number from 0 to 1, found {share!r}")
        if not -_ROUNDING <= float(share) <= 1 + _ROUNDING:
            raise ValueError(f"`{name}`: expected a number from 0 to 1, found {share}")


def check_wrapped(layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises TypeError for layers that have no direction. The arguments are those of a Bidirectional."""
    given = inspect.signature(Bidirectional.__init__).bind_partial(None, layer, *args, **kwargs).arguments
    for name in ("layer", "backward_layer"):
        inner = given.get(name)
        if isinstance(inner, Layer) and not all(hasattr(inner, attribute) for attribute in _OF_RECURRENT_LAYERS):
            raise TypeError(f"`{name}`: expected a recurrent layer, such as FastLSTM, found {inner!r}")


def checked_recompute(recompute: Any) -> bool:
    """Returns the argument `recompute`; raises TypeError if it is no boolean."""
    if not isinstance(recompute, bool):
        raise TypeError(f"`recompute`: expected True or False, found {recompute!r}")
    return recompute


def integer(number: Any) -> int | None:
    """Returns an integer of any library as Python's; None if it is something else, such as `True`."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None
