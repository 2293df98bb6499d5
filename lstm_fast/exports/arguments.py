"""What `export` and `check` accept: their arguments, the installed packages, and the models that a format can hold."""

import math
import numbers
from typing import Any

import keras

from lstm_fast import convert, layers
from lstm_fast.construction import integer
from lstm_fast.environment import is_installed
from lstm_fast.exports import copies
from lstm_fast.exports.formats import DTYPES, KERAS, SUFFIXES, WRITTEN_BY


def check_call(who: str, model: Any, format: Any, batch_size: Any, tolerance: Any) -> int | None:
    """Raises an error of the function `who` for wrong arguments; returns the batch size."""
    convert.check_model(who, model)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"{who}: `model`: expected a keras.Model, found the layer '{model.name}'; put it into a "
            "keras.Sequential with a keras.Input"
        )
    if not isinstance(format, str) or format not in SUFFIXES:
        raise ValueError(f"{who}: `format`: expected one of {', '.join(SUFFIXES)}, found {format!r}")
    rows = None if batch_size is None else integer(batch_size)
    if batch_size is not None and (rows is None or rows < 1):
        raise ValueError(f"{who}: `batch_size`: expected a positive integer or None, found {batch_size!r}")
    is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and 0 < tolerance < math.inf):
        raise ValueError(f"{who}: `tolerance`: expected a positive number or None, found {tolerance!r}")
    return rows


def check_dtype(dtype: Any) -> None:
    """Raises ValueError for a dtype in which no file computes."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"export: `dtype`: expected one of {', '.join(DTYPES)}, found {dtype!r}. For half precision, write "
            "float32 and convert the file with the tools of its runtime"
        )


def check_packages(format: str) -> None:
    """Raises ImportError if a package that writes the format is not installed."""
    if missing := [pip for name, pip in WRITTEN_BY[format].items() if not is_installed(name)]:
        raise ImportError(
            f"export: `format`: {format} is written with {' and '.join(missing)}, not installed: run pip install "
            + " ".join(missing)
        )
    least = KERAS.get(format, (3, 0))
    if tuple(map(int, keras.__version__.split(".")[:2])) < least:
        raise ImportError(
            f"export: `format`: expected Keras {least[0]}.{least[1]} or later for {format}, found {keras.__version__}: "
            "run pip install --upgrade keras"
        )


def check_fits(model: Any, format: str, dtype: str, signature: Any) -> None:
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
