"""What files of an LSTM compute, by format, mask and direction: written by `lstm_fast.export`, and by Keras alone.

A check calls a file with two batch sizes and two lengths, with padding and without. No times are taken.
BENCHMARK_BACKEND says which backend Keras has.
"""

import itertools
import pathlib
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

import lstm_fast
from benchmarks.results import Row
from benchmarks.suites import Case, Settings
from lstm_fast import exports
from lstm_fast.bench.environment import versions

OURS, KERAS = "lstm_fast.export", "model.export"
PACKAGES = ("onnx", "tf2onnx", "jax2onnx", "openvino", "ai-edge-litert", "litert-torch")


def cases(settings: Settings) -> list[Case]:
    every = itertools.product(list(exports.SUFFIXES)[: 1 if settings.quick else None], (False, True), (False, True))
    return [
        Case(
            "exports", f"{form}, {'both' if both else 'one'}, {'masked' if mask else 'no mask'}", "", (form, mask, both)
        )
        for form, mask, both in every
    ]


def measure(case: Case, settings: Settings) -> list[Row]:  # noqa: ARG001 - nothing is timed
    form, mask, both = case.what
    facts = {"backend": keras.backend.backend(), "packages": versions(PACKAGES)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_model(mask=mask, both=both)
        alone = outcome(by_keras, model, form)
        ours = outcome(by_us, lstm_fast.accelerate(model), form)
    return [case.row(OURS, outcome=ours, **facts), case.row(KERAS, outcome=alone, **facts)]


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


def by_us(model: Any, path: pathlib.Path, form: Any) -> Any:
    """The report of `lstm_fast.export`."""
    return lstm_fast.export(model, path, form, batch_size=3 if form == "litert" else None)


def by_keras(model: Any, path: pathlib.Path, form: Any) -> Any:
    """The report of a check of what `model.export` has written."""
    name = "tf_saved_model" if form == "saved_model" else form
    model.export(str(path), format=name, verbose=False)
    return exports.check(model, path, form)


def outcome(write: Any, model: Any, form: str) -> str:
    """The largest difference to the model in a check of the file, or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = write(model, pathlib.Path(folder) / f"model{exports.SUFFIXES[form]}", form)
        except exports.ExportError as error:
            return " ".join(f"ExportError: {str(error)[:200]}".split())
        except Exception as error:
            return " ".join(f"raises {type(error).__name__}: {str(error)[:120]}".split())
        return f"{report.difference:.1e}" if report.checks else "not checked"
