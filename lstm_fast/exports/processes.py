"""Two other processes: one writes a file with Keras on TensorFlow, one runs a file without Keras and this package."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from lstm_fast.exports import serve


class ProcessError(RuntimeError):
    """The error of another process."""


def write(format: str, model: pathlib.Path, path: pathlib.Path, signature: list[Any], imports: Sequence[str]) -> None:
    """Writes a `.keras` file to a file of a format, with Keras on TensorFlow, in another process.

    Args:
        format: One of `writers.WRITERS`.
        model: The `.keras` file.
        path: The file to write.
        signature: The result of `signatures.of`.
        imports: Modules to import before the model is loaded.

    Raises:
        ProcessError: The file cannot be written.
    """
    specs = keras.tree.map_structure(lambda spec: [list(spec.shape), spec.dtype, spec.name], signature)
    job = {"format": format, "model": str(model), "path": str(path), "signature": specs, "imports": list(imports)}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        _run(["-m", "lstm_fast.exports.child", name], folder, "TensorFlow", KERAS_BACKEND="tensorflow")


def run(format: str, path: pathlib.Path, inputs: Sequence[str], cases: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Runs a file in a process in which neither this package nor Keras can be imported.

    Args:
        format: One of `writers.WRITERS`.
        path: The file.
        inputs: The names of the inputs, in the order of `keras.tree.flatten`.
        cases: For each call an array for each input.

    Returns:
        For each call an array for each output.

    Raises:
        ProcessError: The file does not run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job = {"format": format, "path": str(path), "inputs": list(inputs), "cases": len(cases)}
        (folder / "job.json").write_text(json.dumps(job))
        arrays = {f"{n}/{i}": array for n, case in enumerate(cases) for i, array in enumerate(case)}
        np.savez(folder / "inputs.npz", **arrays)
        _run([serve.__file__, name], folder, "the runtime")
        with np.load(folder / "outputs.npz") as file:
            found = dict(file)
    results: list[list[Any]] = [[] for _ in cases]
    for key, array in found.items():
        results[int(key.split("/")[0])].append(array)
    return results


def _run(arguments: list[str], folder: pathlib.Path, who: str, **environment: str) -> None:
    """Runs Python; raises ProcessError with the content of `error.txt`, or else with its last lines of output."""
    # It finds the same modules as this process. It does not use GPUs: this process may have taken their memory.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **quiet, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    error = folder / "error.txt"
    if error.exists():
        raise ProcessError(error.read_text())
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-3:])
        raise ProcessError(f"the process of {who} ended with status {done.returncode}: {last}")
