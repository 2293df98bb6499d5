"""What `export` and `check` return: the checks of a file, and notes for its user."""

import pathlib
from typing import Any, NamedTuple

import keras

from lstm_fast import layers
from lstm_fast.exports import signatures
from lstm_fast.exports.formats import Format


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


def notes_for_users(model: Any, format: str, signature: Any) -> list[str]:
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
