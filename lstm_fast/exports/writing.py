"""Writes a model to a file: the model itself or a copy of it, in this process or in one with Keras on TensorFlow."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from lstm_fast import convert, layers
from lstm_fast.exports import copies, processes, writers
from lstm_fast.exports.errors import ExportError, advice


def prepare(model: Any, folder: pathlib.Path, dtype: str) -> tuple[pathlib.Path | None, Any]:
    """Makes what has to be there before a file is written.

    Returns:
        The model as a `.keras` file in `dtype`, None if none is needed; and a model in `dtype` from that file, None if
        the model itself has this dtype.

    Raises:
        ExportError: The model cannot be saved as a `.keras` file, or not be loaded from it.
    """
    has_other_dtype = copies.needed(model, dtype)
    if not has_other_dtype and _on_tensorflow():
        return None, None
    source = folder / "model.keras"
    _save(model, source, dtype)
    return source, _load(source, model) if has_other_dtype else None


def write(
    model: Any,
    source: pathlib.Path | None,
    copy: Any,
    path: pathlib.Path,
    format: str,
    signature: Any,
    imports: Sequence[str],
) -> None:
    """Writes a model to a file; raises ExportError if that fails.

    Args:
        model: The model.
        source: The first result of `prepare`.
        copy: The second one.
        path: The file.
        format: Its format.
        signature: The result of `signatures.of`.
        imports: As for `export`.
    """
    try:
        if source is not None and not _on_tensorflow():
            processes.write(format, source, path, signature, imports)
        elif copy is not None:
            writers.WRITERS[format](copy, path, signature)
        else:
            with convert.as_keras(model), _without_cudnn(model):
                writers.WRITERS[format](model, path, signature)
    except Exception as error:
        raise _not_written(model, format, error) from error


def _on_tensorflow() -> bool:
    return bool(keras.backend.backend() == "tensorflow")


def _save(model: Any, source: pathlib.Path, dtype: str) -> None:
    try:
        copies.save(model, source, dtype)
    except Exception as error:
        raise ExportError(
            f"'{model.name}' cannot be saved as a .keras file. Export needs one to make a copy: "
            f"{type(error).__name__}: {error}"
        ) from error


def _load(source: pathlib.Path, model: Any) -> Any:
    try:
        return copies.load(source, copies.own_classes(model))
    except Exception as error:
        raise ExportError(
            f"no copy of '{model.name}' in another dtype can be made, because it cannot be loaded from a .keras file: "
            f"{type(error).__name__}: {error}"
        ) from error


@contextlib.contextmanager
def _without_cudnn(model: Any) -> Iterator[None]:
    """Turns cuDNN off in Keras's layers: a machine without a GPU does not have its operations."""
    parts = [part for part in layers.parts_of(model) if vars(part).get("use_cudnn")]
    before = [part.use_cudnn for part in parts]
    try:
        for part in parts:
            part.use_cudnn = False
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.use_cudnn = value


def _not_written(model: Any, format: str, error: Exception) -> ExportError:
    text = str(error) if isinstance(error, processes.ProcessError) else f"{type(error).__name__}: {error}"
    text = f"'{model.name}' cannot be written as {format}: {text[:1500]}{advice(text)}"
    own = copies.own_classes(model)
    if isinstance(error, processes.ProcessError) and own:
        names = ", ".join(cls.__qualname__ for cls in own)
        text += (
            f". It is written by another process, which has Keras on TensorFlow, and which has to know {names}: "
            "register such classes with keras.saving.register_keras_serializable in a module of their own, not in the "
            "program itself, give imports=['that_module'], and write them with keras.ops"
        )
    return ExportError(text)
