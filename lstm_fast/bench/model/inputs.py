"""What the model is given: arrays of a file, or made up from its inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from lstm_fast.errors import CommandError, in_one_line
from lstm_fast.layers import parts_of, vocabulary_of

BATCH_SIZE, TIMESTEPS = 32, 200  # of made-up inputs, where nobody says and the model leaves it free


class Batch(NamedTuple):
    """One batch.

    Attributes:
        x: as the model takes it: an array, or a structure of arrays.
        y: the targets, likewise; None if there are none.
        rows: its size.
        words: where it comes from.
        made_up: whether the inputs are random.
    """

    x: Any
    y: Any
    rows: int
    words: str
    made_up: bool


class _Input(NamedTuple):
    """An input of a model, with all names that it goes by in a file."""

    names: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str
    below: int | None  # ids for an Embedding: they are below this
    embedded: bool  # whether they go right into one


def from_file(model: Any, path: Path, batch_size: int | None) -> Batch:
    """Returns the batch of an `.npz` file.

    Args:
        model: the model, of any kind.
        path: of the file.
        batch_size: how many rows of it, the first ones; None: all.

    Raises:
        CommandError: the file cannot be read, does not fit the model, or has fewer rows.
    """
    whole = _read(path)
    arrays = {name: array[:batch_size] for name, array in whole.items()}
    structure = structure_of(model)
    targets = {"y", *_output_names(model)}
    if structure is None:
        given = {name: array for name, array in arrays.items() if name not in targets}
        if not given:
            raise CommandError(f"--data: expected an array of inputs, found {_listed(arrays)}")
        x = _without_structure(given)
        used = set(given)
    else:
        inputs = _inputs(model, structure)
        flat = {}
        for wanted in inputs:
            name = _found(wanted, arrays, alone=len(inputs) == 1, targets=targets)
            if name is None:
                raise CommandError(
                    f"--data: expected an array for each of the inputs {_listed(i.names[0] for i in inputs)}, found "
                    f"{_listed(arrays)} and so none for {wanted.names[0]!r}; it may also be called "
                    f"{' or '.join(wanted.names[1:])}"
                )
            flat[name] = arrays[name]
            _check(name, arrays[name], wanted)
        x = keras.tree.pack_sequence_as(structure, list(flat.values()))
        used = set(flat)
    y = _targets(model, arrays, used)
    if unknown := sorted(set(arrays) - used - targets):
        raise CommandError(f"--data: expected only inputs and targets of the model, found {_listed(unknown)}, too")
    rows = _rows(whole)
    if batch_size is not None:
        if batch_size > rows:
            raise CommandError(f"--batch-size: expected at most {rows}, the rows of --data, found {batch_size}")
        rows = batch_size
    return Batch(x, y, rows, f"{rows} rows of {path}", made_up=False)


def made_up(model: Any, batch_size: int | None, timesteps: int | None) -> Batch:
    """Returns random inputs, the same every time.

    Args:
        model: a model whose inputs are known.
        batch_size: None: the model's own, or 32.
        timesteps: of a free axis; None: 200.

    Raises:
        CommandError: the model does not say what it takes, or has sizes of its own where others are asked for.
    """
    structure = structure_of(model)
    if structure is None:
        raise CommandError(
            "--model: expected a model that says what its inputs are, Functional or Sequential with an Input, found "
            f"a {type(model).__name__}, which does not; give it a batch: --data batch.npz"
        )
    inputs = _inputs(model, structure)
    fixed = [one.shape[0] for one in inputs if one.shape[0] is not None]
    if batch_size is not None and set(fixed) - {batch_size}:
        raise CommandError(f"--batch-size: expected {max(fixed)}, which the model has, found {batch_size}")
    if timesteps is not None and not any(None in one.shape[1:] for one in inputs):
        shapes = ", ".join(_shape(one.shape) for one in inputs)
        raise CommandError(
            f"--timesteps: expected none for a model whose inputs have no free axis, {shapes}, found {timesteps}"
        )
    rows = max(fixed, default=batch_size or BATCH_SIZE)
    rng = np.random.default_rng(0)
    arrays, words = [], []
    for one in inputs:
        if one.shape[1:].count(None) > 1:
            raise CommandError(
                f"--model: the input {one.names[0]!r} of shape {one.shape} has several free axes; give a batch: "
                "--data batch.npz"
            )
        shape = (rows, *(size or timesteps or TIMESTEPS for size in one.shape[1:]))
        array, kind = _random(rng, one, shape)
        arrays.append(array)
        words.append(f"{one.names[0]} {list(shape)}, {kind}")
    x = keras.tree.pack_sequence_as(structure, arrays)
    return Batch(x, None, rows, f"made up: {'; '.join(words)}", made_up=True)


def structure_of(model: Any) -> Any:
    """Returns the inputs of a model as it takes them, of symbolic tensors; None if it does not tell."""
    tensors = getattr(model, "inputs", None)
    if not tensors:
        return None
    return tensors[0] if isinstance(model, keras.Sequential) else model.input


def takes_any_batch(model: Any) -> bool:
    """Whether a model says that its batch axis is free; one of a Sequential is so wherever no state has its size.

    A Sequential without Input has the size of its first call, and its file does not tell that from one asked for.
    """
    structure = structure_of(model)
    if structure is None:
        return False
    if isinstance(model, keras.Sequential):
        return not any(getattr(part, "stateful", False) for part in parts_of(model))
    return all(tensor.shape[0] is None for tensor in keras.tree.flatten(structure))


def _inputs(model: Any, structure: Any) -> list[_Input]:
    found = []
    any_batch = takes_any_batch(model)
    for place, (path, tensor) in enumerate(keras.tree.flatten_with_path(structure)):
        where = "/".join(map(str, path))
        names = dict.fromkeys(name for name in (tensor.name, where, f"arr_{place}") if name)
        below, embedded = vocabulary_of(model, tensor)
        shape = (None, *tensor.shape[1:]) if any_batch else tuple(tensor.shape)
        found.append(_Input(tuple(names), shape, str(tensor.dtype), below, embedded))
    return found


def _random(rng: np.random.Generator, one: _Input, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    whole = "int" in one.dtype
    if one.below is not None and (one.embedded or whole):
        # 0 may be padding.
        least = min(1, one.below - 1)
        ids = rng.integers(least, one.below, shape)
        return ids.astype(one.dtype), f"ids from {least} to {one.below - 1}"
    if whole:
        return rng.integers(0, 2, shape).astype(one.dtype), f"{one.dtype} 0 and 1"
    if one.dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool), "bool"
    if "float" not in one.dtype:
        raise CommandError(
            f"--model: the input {one.names[0]!r} is of dtype {one.dtype}, which cannot be made up; give a batch: "
            "--data batch.npz"
        )
    # NumPy has no bfloat16; the model casts its inputs.
    dtype = one.dtype if one.dtype in ("float16", "float32", "float64") else "float32"
    return rng.standard_normal(shape).astype(dtype), f"{dtype}, normally distributed"


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:  # the last two: an .npy file
        raise CommandError(
            f"--data: expected a file of np.savez, whose arrays are numbers, found {path}: {in_one_line(error)}"
        ) from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # of a zip file that somebody else wrote
            raise CommandError(f"--data: expected a file of np.savez, found {path}, in which {name} is no array")
        if array.dtype.kind not in "biufUS":  # of strings, for models that split them themselves
            raise CommandError(f"--data: {name}: expected numbers or strings, found an array of {array.dtype}")
        if array.ndim == 0:
            raise CommandError(f"--data: {name}: expected an array with a row for each example, found a single value")
    if not arrays:
        raise CommandError(f"--data: expected arrays, found none in {path}")
    return arrays


def _found(wanted: _Input, arrays: Mapping[str, Any], *, alone: bool, targets: set[str]) -> str | None:
    """Returns the name of the array for an input, None if there is none."""
    for name in wanted.names:
        if name in arrays:
            return name
    others = [name for name in arrays if name not in targets]
    return others[0] if alone and len(others) == 1 else None


def _check(name: str, array: np.ndarray, wanted: _Input) -> None:
    fits = array.ndim == len(wanted.shape) and all(
        size in (None, found) for size, found in zip(wanted.shape, array.shape, strict=True)
    )
    if not fits:
        raise CommandError(f"--data: {name}: expected the shape {_shape(wanted.shape)}, found {list(array.shape)}")
    if wanted.embedded and wanted.below is not None and array.size:
        least, most = array.min(), array.max()
        if least < 0 or most >= wanted.below:
            found = least if least < 0 else most
            raise CommandError(
                f"--data: {name}: expected ids from 0 to {wanted.below - 1}, as the Embedding has them, found {found}"
            )


def _without_structure(given: Mapping[str, np.ndarray]) -> Any:
    """What a subclassed model gets: an array, a list if the arrays have numbers for names, else a dict."""
    numbers = [name.removeprefix("arr_") for name in given]
    if len(given) == 1:
        return next(iter(given.values()))
    if all(number.isdecimal() for number in numbers):
        return [given[name] for name in sorted(given, key=lambda name: int(name.removeprefix("arr_")))]
    return dict(given)


def _output_names(model: Any) -> list[str]:
    names = list(getattr(model, "output_names", None) or ())
    if isinstance(model, keras.Sequential) and model.layers:
        names = [model.layers[-1].name]
    outputs = getattr(model, "output", None) if structure_of(model) is not None else None
    return [*names, *outputs] if isinstance(outputs, dict) else names


def _targets(model: Any, arrays: Mapping[str, np.ndarray], used: set[str]) -> Any:
    """Returns the targets of a file, as the model's loss takes them; None if there are none."""
    names = list(dict.fromkeys(name for name in _output_names(model) if name not in used))
    given = {name: arrays[name] for name in names if name in arrays}
    if given:
        outputs = getattr(model, "output", None)
        if isinstance(outputs, dict):
            return given
        if len(given) < len(names):
            raise CommandError(f"--data: expected targets for all of {_listed(names)}, found only {_listed(given)}")
        return list(given.values()) if len(names) > 1 else given[names[0]]
    if "y" not in arrays or "y" in used:
        return None
    if len(names) > 1:
        raise CommandError(f"--data: y: expected targets under the names of the outputs, {_listed(names)}, found 'y'")
    return arrays["y"]


def _rows(arrays: Mapping[str, np.ndarray]) -> int:
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        found = ", ".join(f"{name}: {count}" for name, count in rows.items())
        raise CommandError(f"--data: expected arrays of as many rows, at least one, found {found}")
    return next(iter(rows.values()))


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
