"""The worked example on reviews: FastLSTM beside Keras's own layer, time and memory, in a process for each.

The model is trained before: what repeats in the padding depends on its weights.
"""

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import FAST, KERAS_LAYER
from benchmarks.results import Row
from benchmarks.suites import Case, Settings
from benchmarks.worker import TREE, Worker, working
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.turns import MIN_ROUNDS, take_turns
from lstm_fast.text import data, models

MODELS = ("single", "stacked")
SECONDS = 60.0  # for one pass of all
LAP = 4  # batches of a step: some are padded more than others


def cases(settings: Settings) -> list[Case]:
    return [Case("reviews", f"{model} model", "", model) for model in MODELS[: 1 if settings.quick else None]]


def measure(case: Case, settings: Settings) -> list[Row]:
    layers = {FAST: "fast", KERAS_LAYER: "keras"}
    with tempfile.TemporaryDirectory() as folder, working(dict.fromkeys(layers, TREE)) as workers:
        question = trained(case.what, settings, Path(folder))
        for name, layer in layers.items():
            workers[name].ask("model", layer=layer, **question)
        return by_turns(case, workers, settings.budget(SECONDS))


def trained(model: str, settings: Settings, folder: Path) -> dict[str, Any]:
    """What a worker is asked for: a model of the worked example, its weights after some steps, and batches."""
    loaded = data.load(settings.data, vocabulary=settings.vocabulary)
    made = models.MODELS[model](loaded.encoder.vocab_size, "fast", seed=0)  # type: ignore[index]
    batches = iter(loaded.train_batches())
    for ids, labels in itertools.islice(batches, 1 if settings.quick else settings.steps):
        made.train_on_batch(ids, labels)
    made.save_weights(folder / "model.weights.h5")
    lap = np.empty((1 if settings.quick else LAP, 2), object)
    for n, batch in enumerate(itertools.islice(batches, len(lap))):
        lap[n] = [np.asarray(part) for part in batch]
    np.save(folder / "lap.npy", lap, allow_pickle=True)
    paths = {"weights": str(folder / "model.weights.h5"), "batches": str(folder / "lap.npy")}
    return {"name": model, "vocabulary": loaded.encoder.vocab_size, **paths}


def by_turns(case: Case, workers: Mapping[str, Worker], seconds: float, min_rounds: int = MIN_ROUNDS) -> list[Row]:
    """Rows of workers that have a model, for each pass; those of training know the memory of a step, too."""
    peaks = {name: worker.ask("peak") for name, worker in workers.items()}
    rows = []
    for pass_ in ("training", "inference"):
        for worker in workers.values():
            worker.ask("select", pass_=pass_)
        steps = {name: stepping(worker) for name, worker in workers.items()}
        for name, times in take_turns(steps, seconds, min_rounds=min_rounds).items():
            facts = {"peak_bytes": peaks[name]} if pass_ == "training" else {}
            rows.append(case._replace(pass_=pass_).row(name, times, **facts))
    return rows


def stepping(worker: Worker) -> Prepared:
    """Steps of a worker, which counts their seconds itself."""
    total = 0.0

    def step() -> None:
        nonlocal total
        total += worker.ask("step")

    return Prepared(step, results=lambda _: (), clock=lambda: total)
