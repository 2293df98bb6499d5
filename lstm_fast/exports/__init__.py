"""Writes models to files that run without this package, then runs each file and compares it with the model."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from lstm_fast.exports import arguments, comparison, report, signatures, targets, writing
from lstm_fast.exports.errors import ExportError
from lstm_fast.exports.formats import SUFFIXES, DType, Format
from lstm_fast.exports.report import Check, Report

__all__ = ["SUFFIXES", "Check", "DType", "ExportError", "Format", "Report", "check", "export"]


def export(
    model: Any,
    path: str | os.PathLike[str],
    format: Format = "saved_model",
    dtype: DType = "float32",
    *,
    batch_size: int | None = None,
    input_signature: Sequence[Any] | None = None,
    examples: Any = None,
    imports: Sequence[str] = (),
    tolerance: float | None = None,
) -> Report:
    """Writes a model to a file that runs without this package, runs the file, and compares it with the model.

    The file runs in another process, at two batch sizes and lengths, with and without padding, as far as the inputs
    allow that. If the file computes something else than the model, that is an error, and no file is left.

    The model stays as it is. It may run on TensorFlow, JAX or PyTorch, and have fast layers or not. TensorFlow must be
    installed, because it writes all formats. A model on JAX or PyTorch goes to it through a `.keras` file.

    Args:
        model: A model of Keras 3.
        path: The file to write, `.onnx`, `.tflite` (litert) or `.xml` (openvino, which writes a `.bin` beside it), or
            the folder (saved_model). A file, or a folder with a SavedModel and nothing else in it, is replaced.
        format: What to write.
        dtype: The dtype in which the file computes. If the model has another one, such as `mixed_float16`, a copy of it
            is written.
        batch_size: The number of rows that the file takes; by default any. LiteRT needs it.
        input_signature: As for `model.export`: a list with a `keras.InputSpec`, or a structure of them, for each
            argument of a call. It is for models whose inputs are not known, as subclassed ones, or to fix an axis.
        examples: Inputs to check the file with, as for `model.predict`; by default they are made up.
        imports: Modules that register your own layers by `keras.saving.register_keras_serializable`. The process of
            TensorFlow imports them before it loads a copy of the model.
        tolerance: How far an output may be off, relative to its largest value. Default: 1e-4, in float64 1e-9.

    Returns:
        A `Report`: print it.

    Raises:
        TypeError, ValueError: An argument is wrong, or does not fit the model or the format; or the folder of `path`
            cannot be written.
        ImportError: A package that writes the format is not installed.
        ExportError: The file cannot be written, does not run, or computes something else than the model.

    Example:
    >>> print(lstm_fast.export(model, "model.onnx", format="onnx"))
    """
    path = pathlib.Path(path)
    batch_size = arguments.check_call("export", model, format, batch_size, tolerance)
    arguments.check_dtype(dtype)
    target = targets.checked(path, format)
    arguments.check_packages(format)
    signature = signatures.of("export", model, input_signature, batch_size, dtype)
    arguments.check_fits(model, format, dtype, signature)
    with targets.temporary_folder(target.parent) as name:
        folder = pathlib.Path(name)
        cases = signatures.cases("export", model, signature, examples)
        expected = comparison.answers("export", model, signature, cases)
        notes = []
        source, copy = writing.prepare(model, folder, dtype)
        if copy is not None:
            of_copy = comparison.answers("export", copy, signature, cases)
            notes.append(comparison.compare_dtypes(model, expected, of_copy, dtype))
            expected = of_copy
        written = folder / f"model{SUFFIXES[format]}"
        writing.write(model, source, copy, written, format, signature, imports)
        checks, more = comparison.compare_file(written, format, signature, cases, expected, tolerance)
        targets.move(written, target)
    return Report(path, format, checks, (*notes, *report.notes_for_users(model, format, signature), *more))


def check(
    model: Any,
    path: str | os.PathLike[str],
    format: Format = "saved_model",
    *,
    batch_size: int | None = None,
    input_signature: Sequence[Any] | None = None,
    examples: Any = None,
    tolerance: float | None = None,
) -> Report:
    """Runs a file that was written before, and compares it with the model, as `export` does.

    Args:
        model: The model.
        path: The file.
        format: Its format.
        batch_size: As for `export`.
        input_signature: As for `export`.
        examples: As for `export`.
        tolerance: As for `export`.

    Returns:
        A `Report`.

    Raises:
        TypeError, ValueError: An argument is wrong, or does not fit the model.
        ExportError: The file does not run, or computes something else than the model.
    """
    path = pathlib.Path(path)
    batch_size = arguments.check_call("check", model, format, batch_size, tolerance)
    signature = signatures.of("check", model, input_signature, batch_size, model.compute_dtype)
    cases = signatures.cases("check", model, signature, examples)
    expected = comparison.answers("check", model, signature, cases)
    return Report(path, format, *comparison.compare_file(path, format, signature, cases, expected, tolerance))
