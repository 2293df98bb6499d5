"""Compares the outputs of a written file, or of a copy in another dtype, with those of the model."""

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from lstm_fast import convert, layers, states, variables
from lstm_fast.environment import is_installed
from lstm_fast.exports import processes, signatures
from lstm_fast.exports.errors import ExportError, advice
from lstm_fast.exports.formats import RUN_BY
from lstm_fast.exports.report import Check

# How far an output may be off, relative to its largest value. Runtimes sum in other orders, and GPUs may round.
_TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
# Smaller outputs are measured as if they were this large: a difference of larger numbers has their error.
_LEAST = 0.01
# How far a model in half precision may be from the same one in float32: more than this is not rounding.
_OF_DTYPE = {"float16": 0.05, "bfloat16": 0.3}


def answers(who: str, model: Any, signature: Any, cases: Sequence[signatures.Case]) -> list[list[Any]]:
    """Returns the outputs of a model for each case, in order."""
    found = []
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
            found.append([np.array(keras.ops.convert_to_numpy(output)) for output in outputs])
    return found


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


def compare_dtypes(model: Any, expected: list[list[Any]], found: list[list[Any]], dtype: str) -> str:
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


def compare_file(
    path: pathlib.Path,
    format: str,
    signature: Any,
    cases: Sequence[signatures.Case],
    expected: Sequence[Sequence[Any]],
    tolerance: float | None,
) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Runs a file; returns the checks, and notes about them; raises ExportError if one fails."""
    if not is_installed(runtime := RUN_BY[format]):
        return (), (f"not checked: install {runtime}",)
    names = [spec.name for spec in keras.tree.flatten(signature)]
    try:
        results = processes.run(format, path, names, [case.arrays for case in cases])
    except processes.ProcessError as error:
        raise ExportError(
            f"the file that was written as {format} does not run: {str(error)[:1500]}{advice(str(error))}"
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
