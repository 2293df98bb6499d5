"""The inputs of a written file: the specs of a model's inputs, and arrays that fit them, to check the file with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from lstm_fast import layers

# The sizes of the made-up inputs: two batches and two lengths. Exporters make up inputs of size 1, so 1 proves nothing.
_BATCHES, _LENGTHS = (2, 5), (7, 12)


class Case(NamedTuple):
    """Inputs of one call.

    Attributes:
        name: Their description in the report.
        arrays: One array for each input, in the order of `keras.tree.flatten`.
    """

    name: str
    arrays: list[Any]


def of(who: str, model: Any, given: Any, batch_size: int | None, dtype: str) -> list[Any]:
    """Returns the specs of the arguments of a call of the model: a list of structures of `keras.InputSpec`.

    Args:
        who: The function that the user has called.
        model: A model.
        given: The user's `input_signature`, or None.
        batch_size: The size of the first axis of each input. None: it stays as the user has fixed it, else free.
        dtype: The dtype for inputs of floating-point numbers.

    Raises:
        ValueError: The inputs are not known.
        TypeError: `given` is something else.
    """
    if given is None:
        sequential = isinstance(model, keras.Sequential)
        if not getattr(model, "inputs", None):
            way_out = "Begin it with a keras.Input, call it once, or give" if sequential else "Give"
            raise ValueError(
                f"{who}: `input_signature`: the model '{model.name}' does not tell its inputs. {way_out} them, e.g. "
                "input_signature=[keras.InputSpec(shape=(None, None), dtype='int32')]: one for each argument of a call"
            )
        # `input` of a Functional model may be a dict. A Sequential has no `input` before it was called.
        given = model.inputs if sequential else [model.input]
        any_batch = _built_by_a_call(model)
    else:
        any_batch = False
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"{who}: `input_signature`: expected a list with an entry for each argument, found {given!r}")
    names = _names(keras.tree.flatten(list(given)))

    def spec(found: Any) -> Any:
        if getattr(found, "shape", None) is None or getattr(found, "dtype", None) is None:
            raise TypeError(
                f"{who}: `input_signature`: expected keras.InputSpec with `shape` and `dtype`, found {found!r}"
            )
        shape = tuple(found.shape)
        if any_batch:
            shape = (None, *shape[1:])
        if shape and batch_size is not None:
            if shape[0] not in (None, batch_size):
                raise ValueError(f"{who}: `batch_size`: found {batch_size}, but the model takes {shape[0]} only")
            shape = (batch_size, *shape[1:])
        kind = keras.backend.standardize_dtype(found.dtype)
        return keras.InputSpec(shape=shape, dtype=dtype if "float" in kind else kind, name=next(names))

    return [keras.tree.map_structure(spec, argument) for argument in given]


def _names(inputs: Sequence[Any]) -> Iterator[str]:
    """Yields a name for each input. Every format accepts these names."""
    used: set[str] = set()
    for i, found in enumerate(inputs):
        name = wanted = re.sub(r"\W", "_", getattr(found, "name", None) or f"input_{i}")
        number = i
        while name in used:
            name = f"{wanted}_{number}"
            number += 1
        used.add(name)
        yield name


def _built_by_a_call(model: Any) -> bool:
    """Whether a Sequential has taken its input from its first call. The number of rows of that call means nothing."""
    if not isinstance(model, keras.Sequential):
        return False
    if any(isinstance(part, keras.layers.RNN) and part.stateful for part in layers.parts_of(model)):
        return False
    # Keras makes such an Input with a `batch_shape`, the dtype of the layer after it, and nothing else. An Input of the
    # user may look the same, also one from a file. The file then takes any number of rows, also the user's. If a later
    # Keras lacks these names, the number of rows stays fixed, and the report says so.
    first = next(iter(getattr(model, "_layers", ())), None)
    made_with = getattr(getattr(first, "_auto_config", None), "config", {})
    arguments = {name: value for name, value in made_with.items() if value not in (None, False)}
    return set(arguments) == {"batch_shape", "dtype"} and arguments["dtype"] == model.layers[0].compute_dtype


def cases(who: str, model: Any, signature: Any, examples: Any) -> list[Case]:
    """Returns inputs to check a file with.

    They have two batch sizes and lengths, if the signature leaves these free, with and without padding. Padding is an
    id of 0, `False`, or the `mask_value` of a `Masking` layer in the model.
    """
    specs = keras.tree.flatten(signature)
    if examples is not None:
        return _of_examples(who, specs, examples)
    if odd := next((spec for spec in specs if not _can_be_made_up(spec)), None):
        raise ValueError(
            f"{who}: `examples`: no inputs can be made up for '{odd.name}', {odd.dtype} of shape {odd.shape}. Give "
            "some, as for model.predict"
        )
    tensors = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if len(tensors) != len(specs):  # the user has given another signature
        tensors = [None] * len(specs)
    ids = [_ids(spec, *layers.vocabulary_of(model, tensor)) for spec, tensor in zip(specs, tensors, strict=True)]
    masked = [float(part.mask_value) for part in layers.parts_of(model) if isinstance(part, keras.layers.Masking)]
    made, seen = [], set()
    rng = np.random.default_rng(0)
    free = any(None in spec.shape[1:] for spec in specs)
    for batch, length in zip(_BATCHES, _LENGTHS, strict=True):
        rows = fixed_batch(specs) or batch
        for padded in (False, True):
            arrays = [
                _made_up(spec, rows, length, padded, top, next(iter(masked), 0.0), rng)
                for spec, top in zip(specs, ids, strict=True)
            ]
            shapes = tuple(array.shape for array in arrays)
            # If all sizes are fixed, the second case equals the first.
            if (shapes, padded) not in seen:
                seen.add((shapes, padded))
                size = f"batch {rows}, length {length}" if free else f"batch {rows}"
                made.append(Case(f"{size}, {'with' if padded else 'no'} padding", arrays))
    return made


def fixed_batch(specs: Sequence[Any]) -> int | None:
    """Returns the number of rows that a file takes, None if it takes any."""
    return next((spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None), None)


def _can_be_made_up(spec: Any) -> bool:
    return len(spec.shape) > 0 and (spec.dtype == "bool" or "int" in spec.dtype or "float" in spec.dtype)


def _ids(spec: Any, below: int | None, embedded: bool) -> int | None:
    """Returns the upper limit of the ids of an input; None if its numbers are not ids."""
    if "int" in spec.dtype:
        return min(2 if below is None else below, np.iinfo(spec.dtype).max)
    # Ids may have a float dtype: it is the default of keras.Input.
    return below if embedded else None


def _made_up(
    spec: Any, rows: int, length: int, padded: bool, ids: int | None, mask_value: float, rng: np.random.Generator
) -> Any:
    shape = (rows, *(length if axis is None else axis for axis in spec.shape[1:]))
    padding: float
    if spec.dtype == "bool":
        array, padding = np.ones(shape, bool), 0
    elif ids is not None:
        array, padding = rng.integers(min(1, ids - 1), ids, shape).astype(spec.dtype), 0
    else:
        array, padding = rng.normal(size=shape).astype(spec.dtype), mask_value
    if padded and len(shape) > 1 and (len(shape) > 2 or ids is not None or spec.dtype == "bool"):
        for row in range(rows):
            array[row, _padding(row, shape[1])] = padding
    return array


def _padding(row: int, time: int) -> slice:
    """Returns the padding of a row, in turn: on the right, on the left, everywhere, none."""
    return (slice(time - time // 3, None), slice(0, time // 2), slice(0, None), slice(0, 0))[row % 4]


def _of_examples(who: str, specs: Sequence[Any], examples: Any) -> list[Case]:
    """Returns the user's inputs, and a case with half of their rows and timesteps if these are free."""
    arrays = [keras.ops.convert_to_numpy(array) for array in keras.tree.flatten(examples)]
    if len(arrays) != len(specs):
        raise ValueError(f"{who}: `examples`: expected {len(specs)} arrays, as for model.predict, found {len(arrays)}")
    for spec, array in zip(specs, arrays, strict=True):
        fits = array.ndim == len(spec.shape) and all(
            axis in (None, size) for axis, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if not fits or not array.size:
            raise ValueError(f"{who}: `examples`: '{spec.name}': expected shape {spec.shape}, found {array.shape}")

    arrays = [_in_dtype(who, spec, array) for spec, array in zip(specs, arrays, strict=True)]

    def part(spec: Any, array: Any, divisor: int) -> Any:
        rows = spec.shape[0] or max(1, len(array) // divisor)
        array = array[np.arange(rows) % len(array)]
        for axis, size in enumerate(spec.shape[1:], start=1):
            if size is None:
                array = array.take(np.arange(max(1, array.shape[axis] // divisor)), axis)
        return array

    return [
        Case(name, [part(spec, array, divisor) for spec, array in zip(specs, arrays, strict=True)])
        for name, divisor in (("the examples", 1), ("half of the examples", 2))
    ]


def _in_dtype(who: str, spec: Any, array: Any) -> Any:
    """Returns the user's inputs in the dtype of a spec. Strings may be objects, as in pandas and TensorFlow."""
    if spec.dtype != "string":
        try:
            return array.astype(spec.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{who}: `examples`: '{spec.name}': expected values of {spec.dtype}, found {array.dtype} ({error}); "
                "convert them first"
            ) from error
    if array.dtype.kind not in "OT":
        return array
    for kind in (str, bytes):
        if all(isinstance(item, kind) for item in array.flat):
            return array.astype(kind)
    odd = next(item for item in array.flat if not isinstance(item, str))
    raise ValueError(
        f"{who}: `examples`: '{spec.name}': expected strings only, found {odd!r} ({type(odd).__name__}); leave such "
        "rows out"
    )
