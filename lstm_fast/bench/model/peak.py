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
        path = Path(folder) / "asked"
        path.write_bytes(pickle.dumps(asked))
        script = "import sys; from lstm_fast.bench.model import peak; peak.main(sys.argv[1])"
        finished = subprocess.run(
            [sys.executable, "-c", script, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        )
    if finished.returncode:
        raise RuntimeError(next(reversed(finished.stderr.splitlines()), f"exit status {finished.returncode}"))
    return int(finished.stdout.splitlines()[-1])


def main(path: str) -> None:
    """Prints what `in_fresh_process` returns: its side in the other process."""
    asked: Asked = pickle.loads(Path(path).read_bytes())  # of a folder that only its own user can write in
    pair = load.load(Path(asked.model), load.import_modules(asked.imports))
    model = pair.fast if asked.fast else pair.plain
    if _takes_any_batch(model):
        few = asked.batch._replace(x=_first_rows(asked.batch.x))
        training.step(model, few, asked.how._replace(y=_first_rows(asked.how.y)))()
    before = memory.resident_bytes()
    step = training.step(model, asked.batch, asked.how)
    step()  # it may be compiled for this batch; what that takes is not of a step
    memory.reset_peak()
    for _ in range(STEPS):
        step()
    print(memory.peak_bytes() - before)


def _takes_any_batch(model: Any) -> bool:
    structure = inputs.structure_of(model)
    return structure is not None and all(tensor.shape[0] is None for tensor in keras.tree.flatten(structure))


def _first_rows(structure: Any) -> Any:
    return keras.tree.map_structure(lambda array: array[:_FEW], structure)
