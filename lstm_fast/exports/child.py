"""Writes a `.keras` file to a file of another format: for a process that has Keras on TensorFlow.

Usage: KERAS_BACKEND=tensorflow python -m lstm_fast.exports.child FOLDER

Reads `job.json` from the folder, see `processes.write`. If the job fails, writes `error.txt`.
"""

import importlib
import json
import pathlib
import sys
from typing import Any

import keras

from lstm_fast.exports import copies, writers


def main(folder: pathlib.Path) -> None:
    """Does the job in a folder."""
    job = json.loads((folder / "job.json").read_text())
    try:
        for name in job["imports"]:
            importlib.import_module(name)
        model = copies.load(pathlib.Path(job["model"]))
        writers.WRITERS[job["format"]](model, pathlib.Path(job["path"]), _specs(job["signature"]))
    except Exception as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}")


def _specs(found: Any) -> Any:
    """Returns a structure with a spec in the place of each [shape, dtype, name]."""
    if isinstance(found, dict):
        return {key: _specs(value) for key, value in found.items()}
    if len(found) == 3 and isinstance(found[1], str):
        shape, dtype, name = found
        return keras.InputSpec(shape=shape, dtype=dtype, name=name)
    return [_specs(value) for value in found]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
