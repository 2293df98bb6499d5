"""How much of what reaches the LSTMs of a model is padding."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.layers import RNN, Bidirectional, Embedding

from lstm_fast.layers import directions_of, has_lstm, parts_of

_MOSTLY = 0.9  # of the repeats that have to be of id 0, to call them padding


@dataclasses.dataclass(frozen=True)
class Padding:
    """What reaches an LSTM, or a Bidirectional of two.

    Attributes:
        layer: its name.
        masked: share of the timesteps that are masked; None: there is no mask.
        repeats: share of all timesteps that are not masked and repeat the one before, to the last bit.
        embedding: the name of an Embedding without `mask_zero` whose ids 0 are what repeats; empty: there is none.
    """

    layer: str
    masked: float | None
    repeats: float
    embedding: str = ""

    def __str__(self) -> str:
        if self.masked is not None:
            return f"'{self.layer}': {self.masked:.0%} of the timesteps are masked, and not computed"
        told = f"'{self.layer}': {self.repeats:.0%} of the timesteps repeat the one before"
        if self.embedding:
            told += f"; with mask_zero=True in the Embedding '{self.embedding}' they would not be computed"
        return told


def find(model: Any, x: Any) -> list[Padding]:
    """Calls a model once, eagerly, and looks at what reaches its LSTMs.

    Args:
        model: the model, with Keras's layers.
        x: what it is given.

    Returns:
        One for each LSTM that could be looked into, in the order in which they are called: not for those that the model
        calls inside of a loop or of a graph of its own.
    """
    lookups: list[tuple[Any, np.ndarray, np.ndarray]] = []  # Embedding, ids, vectors
    found: list[Padding] = []

    def looked_up(layer: Any, arguments: dict[str, Any], result: Any) -> None:
        lookups.append((layer, *map(_to_numpy, (arguments["inputs"], result))))

    def reached(layer: Any, arguments: dict[str, Any], _: Any) -> None:
        sequences, mask = _to_numpy(arguments["sequences"]), arguments.get("mask")
        found.append(_padding(layer, sequences, None if mask is None else _to_numpy(mask), lookups))

    parts = parts_of(model)
    inner = {id(part) for layer in parts if isinstance(layer, Bidirectional) for part in directions_of(layer)}
    with contextlib.ExitStack() as stack:
        for part in parts:
            if isinstance(part, Embedding):
                stack.enter_context(_watched(part, looked_up))
            elif isinstance(part, (RNN, Bidirectional)) and id(part) not in inner and has_lstm(part):
                stack.enter_context(_watched(part, reached))
        model(x, training=False)
    return found


@contextlib.contextmanager
def _watched(layer: Any, tell: Callable[[Any, dict[str, Any], Any], None]) -> Iterator[None]:
    """Tells of the first call of a layer: the layer, its arguments by name, its result."""
    call = layer.call
    told: list[bool] = []

    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if not told:
            told.append(True)
            names = ("inputs",) if isinstance(layer, Embedding) else ("sequences",)
            with contextlib.suppress(Exception):  # symbolic tensors have no values
                tell(layer, {**dict(zip(names, args, strict=False)), **kwargs}, result)
        return result

    layer.call = watched
    try:
        yield
    finally:
        del layer.call


def _padding(
    layer: Any, sequences: np.ndarray, mask: np.ndarray | None, lookups: list[tuple[Any, np.ndarray, np.ndarray]]
) -> Padding:
    batch, time = sequences.shape[:2]
    real = np.ones((batch, time), bool) if mask is None else np.reshape(mask, (batch, time)).astype(bool)
    same = np.zeros((batch, time), bool)
    same[:, 1:] = (sequences[:, 1:] == sequences[:, :-1]).all(axis=-1) & real[:, 1:] & real[:, :-1]
    masked = None if mask is None else float(1 - real.mean())
    embedding = ""
    for looked_up, ids, vectors in lookups:
        leads_here = vectors.shape == sequences.shape and np.array_equal(vectors, sequences)
        if mask is None and leads_here and not looked_up.mask_zero and same.any():
            zeros = np.reshape(ids, (batch, time)) == 0
            embedding = looked_up.name if zeros[same].mean() >= _MOSTLY else ""
    return Padding(layer.name, masked, float(same.mean()), embedding)


def _to_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))
