"""Writes models to files that run without this package, then runs each file and compares it with the model."""

import contextlib
import itertools
import math
import numbers
import operator
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from lstm_fast import convert, layers, states, variables
from lstm_fast.environment import is_installed
from lstm_fast.exports import copies, processes, signatures, writers

Format = Literal["saved_model", "onnx", "litert", "openvino"]
DType = Literal["float32", "float64"]

SUFFIXES = {"saved_model": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}

# How saved_model.pb begins: the version of its schema, which has never changed.
_SAVED_MODEL = b"\x08\x01"

# The packages that write a format, by Python's name and pip's, and the package that runs it.
_WRITTEN_BY = {
    "saved_model": {"tensorflow": "tensorflow"},
    "onnx": {"tensorflow": "tensorflow", "tf2onnx": "tf2onnx", "onnx": "onnx"},
    "litert": {"tensorflow": "tensorflow"},
    "openvino": {"tensorflow": "tensorflow", "openvino": "openvino"},
}
_RUN_BY = {"saved_model": "tensorflow", "onnx": "onnxruntime", "litert": "tensorflow", "openvino": "openvino"}

# How far an output may be off, relative to its largest value. Runtimes sum in other orders, and GPUs may round.
_TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
# Smaller outputs are measured as if they were this large: a difference of larger numbers has their error.
_LEAST = 0.01
# How far a model in half precision may be from the same one in float32: more than this is not rounding.
_OF_DTYPE = {"float16": 0.05, "bfloat16": 0.3}

# ONNX Runtime's error for an LSTM in float64; the names of TensorFlow's operations for random numbers.
_NO_FLOAT64, _RANDOM = "not support double", re.compile("Random(Uniform|StandardNormal|Normal|Get)")


class ExportError(RuntimeError):
    """No file was written: writing failed, or the file would compute something else than the model."""


class Check(NamedTuple):
    """A call of a written file, compared with the model.

    Attributes:
        inputs: A description of the inputs.
        difference: The largest absolute difference between an output and the model's.
        allowed: The largest difference that is allowed for this output.
    """

    inputs: str
    difference: float
    allowed: float

    def __str__(self) -> str:
        return f"{self.inputs}: largest difference {self.difference:.1e}"


class Report(NamedTuple):
    """What `export` has written, and how it was checked. As text it has a line for each check and note.

    Attributes:
        path: The file or folder.
        format: Its format.
        checks: The calls that were compared. Empty if the runtime is not installed; a note then says so.
        notes: What a user of the file should know.
    """

    path: pathlib.Path
    format: Format
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """The largest difference to the model in all checks; None without a check."""
        return max((check.difference for check in self.checks), default=None)

    def __str__(self) -> str:
        return "\n".join([f"{self.path} ({self.format})", *(f"  {line}" for line in (*self.checks, *self.notes))])


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
    batch_size = _check_arguments("export", model, format, batch_size, tolerance)
    if not isinstance(dtype, str) or dtype not in _TOLERANCES:
        raise ValueError(
            f"export: `dtype`: expected one of {', '.join(_TOLERANCES)}, found {dtype!r}. For half precision, write "
            "float32 and convert the file with the tools of its runtime"
        )
    target = _target(path, format)
    _check_packages(format)
    signature = signatures.of("export", model, input_signature, batch_size, dtype)
    _check_fits(model, format, dtype, signature)
    with _workshop(target.parent) as name:
        folder = pathlib.Path(name)
        cases = signatures.cases("export", model, signature, examples)
        expected = _answers("export", model, signature, cases)
        notes = []
        source, copied = folder / "model.keras", copies.needed(model, dtype)
        in_this_process = keras.backend.backend() == "tensorflow"
        if copied or not in_this_process:
            _save(model, source, dtype)
        plain: Any = None
        if copied:
            plain = _load(source, model)
            notes.append(
                _compare_dtypes(model, expected, of_copy := _answers("export", plain, signature, cases), dtype)
            )
            expected = of_copy
        written = folder / f"model{SUFFIXES[format]}"
        try:
            if not in_this_process:
                processes.write(format, source, written, signature, imports)
            elif copied:
                writers.WRITERS[format](plain, written, signature)
            else:
                with convert.as_keras(model), _without_cudnn(model):
                    writers.WRITERS[format](model, written, signature)
        except Exception as error:
            raise _not_written(model, format, error) from error
        checks, more = _check(written, format, signature, cases, expected, tolerance)
        _move(written, target)
    return Report(path, format, checks, (*notes, *_known(model, format, signature), *more))


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
    batch_size = _check_arguments("check", model, format, batch_size, tolerance)
    signature = signatures.of("check", model, input_signature, batch_size, model.compute_dtype)
    cases = signatures.cases("check", model, signature, examples)
    expected = _answers("check", model, signature, cases)
    return Report(path, format, *_check(path, format, signature, cases, expected, tolerance))


def _check_arguments(who: str, model: Any, format: Any, batch_size: Any, tolerance: Any) -> int | None:
    """Raises an error of the function `who` for wrong arguments; returns the batch size."""
    convert.check_model(who, model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{who}: `model`: expected a keras.Model, found the layer '{model.name}'; put it into a "
            "keras.Sequential with a keras.Input"
        )
    if not isinstance(format, str) or format not in SUFFIXES:
        raise ValueError(f"{who}: `format`: expected one of {', '.join(SUFFIXES)}, found {format!r}")
    rows = None if batch_size is None else _positive(batch_size)
    if rows is None and batch_size is not None:
        raise ValueError(f"{who}: `batch_size`: expected a positive integer or None, found {batch_size!r}")
    is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and 0 < tolerance < math.inf):
        raise ValueError(f"{who}: `tolerance`: expected a positive number or None, found {tolerance!r}")
    return rows


def _positive(number: Any) -> int | None:
    """Returns a positive integer of any library as Python's; None if it is something else, such as `True`."""
    try:
        found = 0 if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None
    return found if found > 0 else None


def _target(path: pathlib.Path, format: str) -> pathlib.Path:
    """Returns where to write. Raises ValueError rather than replace something that the user may need."""
    if path.suffix != SUFFIXES[format] and (SUFFIXES[format] or path.suffix in (*SUFFIXES.values(), ".keras")):
        found = next((name for name, suffix in SUFFIXES.items() if suffix and suffix == path.suffix), None)
        expected = f"a name that ends in {SUFFIXES[format]}" if SUFFIXES[format] else "the name of a folder"
        raise ValueError(
            f"export: `path`: expected {expected} for the format {format}, found {str(path)!r}"
            + (f"; did you mean format={found!r}?" if found else "")
        )
    if not path.parent.is_dir():
        raise ValueError(f"export: `path`: there is no folder {str(path.parent)!r}: make it first")
    target = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if SUFFIXES[format]:
        if path.is_dir():
            raise ValueError(f"export: `path`: expected the name of a file, found the folder {str(path)!r}")
        beside = path.with_suffix(".bin")
        if format == "openvino" and beside.is_dir():
            raise ValueError(
                f"export: `path`: expected no folder where the weights go, found {str(beside)!r}: choose another name"
            )
        if format == "openvino" and beside.exists() and not _is_of_openvino(path):
            raise ValueError(
                f"export: `path`: {str(beside)!r}, which would be replaced, is not of an OpenVINO file: choose another "
                "name"
            )
        return target
    if path.is_symlink():
        raise ValueError(
            f"export: `path`: expected the name of a folder, found the link {str(path)!r}: name its target"
        )
    if path.is_file():
        raise ValueError(f"export: `path`: expected the name of a folder, found the file {str(path)!r}")
    if target in (here := pathlib.Path.cwd(), *here.parents):
        raise ValueError(
            f"export: `path`: {str(path)!r} is the current folder, or one around it: give the name of a folder in it"
        )
    if path.is_dir() and (odd := _beside_a_saved_model(path)) is not None:
        raise ValueError(
            f"export: `path`: {str(path)!r} is a folder with other things in it, such as {odd!r}: choose another name"
        )
    return target


def _is_of_openvino(path: pathlib.Path) -> bool:
    """Whether a file is the `.xml` of a model. Then the `.bin` beside it is the model's, too."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"<net" in file.read(1000)


def _beside_a_saved_model(folder: pathlib.Path) -> str | None:
    """Returns the first thing in a folder that does not belong to a SavedModel; None if there is nothing else.

    `assets.extra` does not belong to it, because users fill it. Neither does `keras_metadata.pb`, because Keras 2 can
    go on training such a model.
    """
    graph = folder / "saved_model.pb"
    content = graph.read_bytes() if graph.is_file() else b""

    def is_known(path: pathlib.Path) -> bool:
        match path.relative_to(folder).parts:
            case ("saved_model.pb" | "fingerprint.pb",):
                return path.is_file()
            case ("variables" | "assets",):
                return path.is_dir()
            case ("variables", name):
                return path.is_file() and name.startswith("variables.")
            case ("assets", name):  # The graph lists assets: by the second field of a message, of less than 128 bytes.
                told = os.fsencode(name)
                return path.is_file() and len(told) < 128 and bytes([0x12, len(told)]) + told in content
        return False

    inner = (path for name in ("variables", "assets") for path in sorted((folder / name).glob("*")))
    every = itertools.chain(sorted(folder.iterdir()), inner)
    is_model = content.startswith(_SAVED_MODEL)
    odd = next((path for path in every if not (is_model and is_known(path))), None)
    return None if odd is None else odd.relative_to(folder).as_posix()


def _workshop(folder: pathlib.Path) -> tempfile.TemporaryDirectory[str]:
    """Returns a temporary folder inside another one, so that files can be moved there at once."""
    try:
        return tempfile.TemporaryDirectory(prefix=".lstm_fast-", dir=folder)
    except OSError as error:
        raise ValueError(
            f"export: `path`: expected a folder that can be written, found {str(folder)!r} ({error.strerror}): choose "
            "another one"
        ) from error


def _check_packages(format: str) -> None:
    if missing := [pip for name, pip in _WRITTEN_BY[format].items() if not is_installed(name)]:
        raise ImportError(
            f"export: `format`: {format} is written with {' and '.join(missing)}, not installed: run pip install "
            + " ".join(missing)
        )


def _check_fits(model: Any, format: str, dtype: str, signature: Any) -> None:
    """Raises ValueError for a model that the format cannot express."""
    if keep := [part.name for part in layers.parts_of(model) if isinstance(part, keras.layers.RNN) and part.stateful]:
        names = ", ".join(f"'{name}'" for name in keep)
        explicit = (
            "Make the states inputs and outputs of the model, by `initial_state` and `return_state` of a layer without "
            "`stateful`"
        )
        if format in ("onnx", "openvino"):
            raise ValueError(
                f"export: `model`: stateful layers ({names}) keep their states from call to call, but a file of the "
                f"format {format} does not. {explicit}, or export to saved_model"
            )
        if keras.backend.backend() != "tensorflow" or copies.needed(model, dtype):
            raise ValueError(
                f"export: `model`: stateful layers ({names}) can be exported only from TensorFlow, and only in the "
                "dtype that they have: a .keras file does not keep states. Save the model, load it in a program with "
                f"KERAS_BACKEND=tensorflow, export it there: it begins with states of zero. {explicit}, to export it "
                "from here"
            )
    if dtype == "float64" and format in ("litert", "openvino"):
        raise ValueError(f"export: `dtype`: {format} does not compute an LSTM in float64: give dtype='float32'")
    if format == "litert" and any(spec.shape and spec.shape[0] is None for spec in keras.tree.flatten(signature)):
        raise ValueError(
            "export: `batch_size`: the loop of an LSTM has LiteRT's own operations only if the number of rows is "
            "known: give batch_size=1, or the number of rows of your calls. The number of timesteps stays free"
        )


@contextlib.contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Restores what a call of a model changes: states of stateful layers, and counters of random numbers."""
    convert.sync(model)
    trained = {id(variable) for variable in model.trainable_variables}
    changing = {id(variable): variable for variable in model.variables if id(variable) not in trained}
    rnns = [part for part in layers.parts_of(model) if isinstance(part, keras.layers.RNN)]
    changing |= {id(state): state for rnn in rnns for state in states.of(rnn) if isinstance(state, keras.Variable)}
    with variables.restored(changing.values()):
        yield


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


def _answers(who: str, model: Any, signature: Any, cases: Sequence[signatures.Case]) -> list[list[Any]]:
    """Returns the outputs of a model for each case, in order."""
    answers = []
    with _as_it_was(model):
        for case in cases:
            try:
                arguments = keras.tree.pack_sequence_as(signature, map(keras.ops.convert_to_tensor, case.arrays))
                outputs = keras.tree.flatten(model(*arguments, training=False))
            except Exception as error:
                raise ValueError(
                    f"{who}: `examples`: the model does not take {case.name} ({type(error).__name__}: {error}). Give "
                    "inputs that it takes, as for model.predict"
                ) from error
            answers.append([np.array(keras.ops.convert_to_numpy(output)) for output in outputs])
    return answers


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


def _not_written(model: Any, format: str, error: Exception) -> ExportError:
    text = str(error) if isinstance(error, processes.ProcessError) else f"{type(error).__name__}: {error}"
    text = f"'{model.name}' cannot be written as {format}: {text[:1500]}{_advice(text)}"
    own = copies.own_classes(model)
    if isinstance(error, processes.ProcessError) and own:
        names = ", ".join(cls.__qualname__ for cls in own)
        text += (
            f". It is written by another process, which has Keras on TensorFlow, and which has to know {names}: "
            "register such classes with keras.saving.register_keras_serializable in a module of their own, not in the "
            "program itself, give imports=['that_module'], and write them with keras.ops"
        )
    return ExportError(text)


def _advice(reason: str) -> str:
    """Returns advice for an error of a file that cannot be written or does not run; empty if there is none."""
    if _NO_FLOAT64 in reason:
        return "; give dtype='float32'"
    if _RANDOM.search(reason):
        return "; the model draws random numbers where it should not: call no layer in it with training=True"
    return ""


def _compare_dtypes(model: Any, expected: list[list[Any]], found: list[list[Any]], dtype: str) -> str:
    """Returns a note on how far another dtype changes the outputs; raises ExportError if that cannot be rounding."""
    parts = layers.parts_of(model)
    dtypes = {part.compute_dtype for part in parts}
    policies = dict.fromkeys(part.dtype_policy.name for part in parts if part.dtype_policy.name != dtype)
    allowed = max((_OF_DTYPE[name] for name in dtypes if name in _OF_DTYPE), default=1e-3)
    largest = scale = 0.0
    for was, now in zip(expected, found, strict=True):
        for a, b in zip(was, now, strict=True):
            largest = max(largest, _difference(a, b))
            scale = max(scale, _LEAST, _largest(a))
    policy = ", ".join(policies)
    if not largest <= allowed * scale:
        raise ExportError(
            f"a copy of '{model.name}' in {dtype} differs from the model, of {policy}, by {largest:.1e}: more than "
            "rounding can explain"
        )
    return f"{dtype} in the place of {policy} changes the outputs by up to {largest:.1e}"


def _check(
    path: pathlib.Path,
    format: str,
    signature: Any,
    cases: Sequence[signatures.Case],
    expected: Sequence[Sequence[Any]],
    tolerance: float | None,
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Runs a file; returns the checks, and notes about them; raises ExportError if one fails."""
    if not is_installed(runtime := _RUN_BY[format]):
        return (), (f"not checked: install {runtime}",)
    names = [spec.name for spec in keras.tree.flatten(signature)]
    try:
        results = processes.run(format, path, names, [case.arrays for case in cases])
    except processes.ProcessError as error:
        raise ExportError(
            f"the file that was written as {format} does not run: {str(error)[:1500]}{_advice(str(error))}"
        ) from error
    outputs = list(zip(*expected, strict=True))
    allowed = [
        (_TOLERANCES.get(output[0].dtype.name, _TOLERANCES["float32"]) if tolerance is None else tolerance)
        * max(_LEAST, *map(_largest, output))
        for output in outputs
    ]
    checks, wrong = [], []
    for case, was, now in zip(cases, expected, results, strict=True):
        if [array.shape for array in was] != [array.shape for array in now]:
            shapes = f"{[array.shape for array in was]}, found {[array.shape for array in now]}"
            wrong.append(f"{case.name}: expected outputs of the shapes {shapes}")
            continue
        differences = [_difference(a, b) for a, b in zip(was, now, strict=True)]
        worst = max(range(len(was)), key=lambda i: differences[i] / allowed[i])
        found = Check(case.name, differences[worst], allowed[worst])
        checks.append(found)
        if not found.difference <= found.allowed:
            output = f" of output {worst}" if len(was) > 1 else ""
            wrong.append(f"{found}{output}, allowed {found.allowed:.1e}")
    if wrong:
        raise ExportError(
            f"the file of the format {format} does not compute what the model does: {'; '.join(wrong)}. (Where the "
            "model runs on a GPU in TF32, give tolerance=1e-2)"
        )
    little = all(_spread(output) <= 10 * most for output, most in zip(outputs, allowed, strict=True))
    note = "the checks say little: the model answers all inputs with nearly the same; give `examples`"
    return tuple(checks), (note,) if little else ()


def _difference(a: Any, b: Any) -> float:
    """Returns the largest absolute difference; infinity if one is NaN where the other is not."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.where(np.isnan(off), np.inf, off).max(initial=0.0))


def _largest(array: Any) -> float:
    """Returns the largest finite absolute value. Relative to infinity, every error would be small."""
    values = np.abs(np.asarray(array, np.float64))
    return float(values.max(initial=0.0, where=np.isfinite(values)))


def _spread(output: Sequence[Any]) -> float:
    """Returns by how much the finite values of an output vary over all rows, timesteps and cases."""
    widths = {array.shape[-1] if array.ndim > 1 else 1 for array in output}
    # If the last axis is the time, its size differs between the cases. Its values are then all of one kind.
    width = widths.pop() if len(widths) == 1 else 1
    if not sum(array.size for array in output):
        return 0.0
    rows = np.concatenate([np.asarray(array, np.float64).reshape(-1, width) for array in output])
    finite = np.isfinite(rows)
    most, least = (
        np.max(rows, axis=0, initial=-np.inf, where=finite),
        np.min(rows, axis=0, initial=np.inf, where=finite),
    )
    return float((most - least).max(initial=0.0))


def _known(model: Any, format: str, signature: Any) -> list[str]:
    """Returns notes for the user of the file."""
    notes = []
    if any(isinstance(part, keras.layers.RNN) and part.stateful for part in layers.parts_of(model)):
        notes.append("stateful: the file begins with the states that the model had, and goes on from call to call")
    if format == "openvino":
        notes.append("OpenVINO computes in bfloat16 on many processors: set INFERENCE_PRECISION_HINT to f32")
    specs = keras.tree.flatten(signature)
    if (rows := signatures.fixed_batch(specs)) is not None:
        notes.append(f"the file takes {rows} row{'s' if rows > 1 else ''} a call")
    for spec in specs:
        fixed = [f"axis {axis} is {size}" for axis, size in enumerate(spec.shape[1:], start=1) if size is not None]
        if fixed:
            notes.append(f"fixed in the file: of '{spec.name}' {', '.join(fixed)}")
    return notes


def _move(written: pathlib.Path, path: pathlib.Path) -> None:
    """Moves the checked file or folder to its place."""
    if path.is_dir():
        # The old folder goes into the temporary folder, and is removed with it.
        old = written.with_name("old")
        os.replace(path, old)
        try:
            os.replace(written, path)
        except OSError:
            os.replace(old, path)
            raise
        return
    if (beside := written.with_suffix(".bin")).exists():  # of OpenVINO
        os.replace(beside, path.with_suffix(".bin"))
    os.replace(written, path)
