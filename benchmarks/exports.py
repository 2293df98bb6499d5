"""What files of an LSTM compute, by format, mask and direction: written by `lstm_fast.export`, and by Keras alone.

Usage: BENCHMARK_BACKEND=jax python -m benchmarks.exports [few]

Prints a row of a Markdown table for each (few: of the plainest and of the hardest model): the largest difference to the
model at two batch sizes and lengths, with and without padding, or the first words of the error. No times are taken.
"""

import importlib.metadata
import itertools
import pathlib
import sys
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

import lstm_fast
from lstm_fast import exports

PACKAGES = "tensorflow jax torch keras numpy onnx onnxruntime tf2onnx jax2onnx openvino ai-edge-litert litert-torch"


def make_model(*, mask: bool, both: bool) -> Any:
    """Embedding, two layers, and scores: of Keras's own layers."""
    keras.utils.set_random_seed(0)
    first = keras.layers.LSTM(16, return_sequences=True)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(100, 16, mask_zero=mask),
            keras.layers.Bidirectional(first) if both else first,
            keras.layers.LSTM(16),
            keras.layers.Dense(3),
        ]
    )
    model.layers[0].set_weights([np.random.default_rng(0).normal(size=(100, 16))])
    model(np.ones((2, 5), np.int32))  # export(format="onnx") wants a model that was called
    return model


def by_us(model: Any, path: pathlib.Path, form: str) -> Any:
    """Returns the report of `lstm_fast.export`."""
    return lstm_fast.export(model, path, form, batch_size=3 if form == "litert" else None)  # type: ignore[arg-type]


def by_keras(model: Any, path: pathlib.Path, form: str) -> Any:
    """Returns the report of a check of what `model.export` has written."""
    name = "tf_saved_model" if form == "saved_model" else form
    model.export(str(path), format=name, verbose=False)
    return exports.check(model, path, form)  # type: ignore[arg-type]


def outcome(write: Any, model: Any, form: str) -> str:
    """Returns the largest difference, or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = write(model, pathlib.Path(folder) / f"model{exports.SUFFIXES[form]}", form)
        except exports.ExportError as error:
            return f"ExportError: {str(error)[:200]}"
        except Exception as error:
            return f"raises {type(error).__name__}: {str(error)[:120]}"
        return f"{report.difference:.1e}" if report.checks else "not checked"


def main(few: bool) -> None:
    """Prints the table."""
    warnings.simplefilter("ignore")
    versions = []
    for package in PACKAGES.split():
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    print(f"Keras on {keras.backend.backend()}; {', '.join(versions)}\n")
    print("| format | masked | bidirectional | lstm_fast.export | model.export |\n|---|---|---|---|---|")
    for form, mask, both in itertools.product(exports.SUFFIXES, (False, True), (False, True)):
        if few and mask is not both:
            continue
        model = make_model(mask=mask, both=both)
        alone = " ".join(outcome(by_keras, model, form).split())
        ours = " ".join(outcome(by_us, lstm_fast.accelerate(model), form).split())
        print(f"| {form} | {mask} | {both} | {ours} | {alone} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] == ["few"])
