"""Peak memory of training steps, each model in a process of its own: what one has freed, the other would use again."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import keras

from lstm_fast.bench import memory
from lstm_fast.bench.model import inputs, load, training
from lstm_fast.bench.model.inputs import Batch
from lstm_fast.bench.model.training import Training
from lstm_fast.errors import in_one_line

STEPS = 3  # the allocator has then seen everything that it will use again
_FEW = 2  # rows that a process trains on before


class Asked(NamedTuple):
    """What the other process needs.

    Attributes:
        model: path of the model.
        imports: modules to import before.
        fast: whether the accelerated one is trained.
        batch: what it is given.
        how: how it is trained.
    """

    model: str
    imports: tuple[str, ...]
    fast: bool
    batch: Batch
    how: Training


def in_fresh_process(asked: Asked) -> int:
    """Returns by how many bytes training steps raise the resident size.

    Raises:
        RuntimeError: it cannot be measured here; the message is what the other process said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        question, result = Path(folder) / "asked", Path(folder) / "bytes"
        # It finds the same modules as this process: `-c` alone would look into the current folder first.
        same = f"import sys; sys.path[:] = {sys.path!r}"
        script = f"{same}; from lstm_fast.bench.model import peak; peak.main(*sys.argv[1:])"
        try:
            question.write_bytes(pickle.dumps(asked))
            finished = subprocess.run(
                [sys.executable, "-c", script, str(question), str(result)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
            )
            if not finished.returncode:
                return int(result.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # such as a full disk, or a module that ends the process
            raise RuntimeError(in_one_line(error)) from error
    raise RuntimeError(next(reversed(finished.stderr.splitlines()), f"exit status {finished.returncode}"))


def main(question: str, result: str) -> None:
    """Writes what `in_fresh_process` returns into a file: its side in the other process.

    Not to stdout, where the modules of a user may print as well.
    """
    asked: Asked = pickle.loads(Path(question).read_bytes())  # of a folder that only its own user can write in
    pair = load.load(Path(asked.model), load.import_modules(asked.imports))
    model = pair.fast if asked.fast else pair.plain
    if inputs.takes_any_batch(model):
        few = asked.batch._replace(x=_first_rows(asked.batch.x))
        training.step(model, few, asked.how._replace(y=_first_rows(asked.how.y)))()
    before = memory.resident_bytes()
    step = training.step(model, asked.batch, asked.how)
    step()  # it may be compiled for this batch; what that takes is not of a step
    memory.reset_peak()
    for _ in range(STEPS):
        step()
    Path(result).write_text(str(memory.peak_bytes() - before), encoding="utf-8")


def _first_rows(structure: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[:_FEW], structure)
