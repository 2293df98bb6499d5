"""Why there is no file, and what to do about it."""

import re

# ONNX Runtime's error for an LSTM in float64; the names of TensorFlow's operations for random numbers.
_NO_FLOAT64, _RANDOM = "not support double", re.compile("Random(Uniform|StandardNormal|Normal|Get)")


class ExportError(RuntimeError):
    """No file was written: writing failed, or the file would compute something else than the model."""


def advice(reason: str) -> str:
    """Returns advice for an error of a file that cannot be written or does not run; empty if there is none."""
    if _NO_FLOAT64 in reason:
        return "; give dtype='float32'"
    if _RANDOM.search(reason):
        return "; the model draws random numbers where it should not: call no layer in it with training=True"
    return ""
