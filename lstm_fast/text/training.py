"""Trains a model of `lstm_fast.text.models`, and saves everything after each epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from lstm_fast.bench.environment import processor, versions
from lstm_fast.diagnosis import status
from lstm_fast.distribute.fit import fit
from lstm_fast.distribute.group import Group
from lstm_fast.files import OutputError, replace, write_json
from lstm_fast.text import plots, vocabulary
from lstm_fast.text.batches import Data
from lstm_fast.text.models import MODELS, LayerName
from lstm_fast.text.saved import HISTORY_FILE, MODEL_FILE, PLOT_FILE, RUN_FILE, VOCABULARY_FILE, load_model

STEP_LOSSES = 50  # so many first steps have their loss in the run

History = dict[str, list[float]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that decide a run's result, beside the data. The names are those of the command line."""

    model: str
    layer: LayerName
    mask: bool
    bucket: bool
    batch_size: int
    learning_rate: float
    seed: int
    limit: int | None
    text_column: str | None = None
    label_column: str | None = None
    test_share: float | None = None


@dataclasses.dataclass
class Run:
    """A run: the content of `run.json` and `history.json`.

    Attributes:
        settings: The settings at its start.
        data: The source, its columns and the names of its classes, the numbers of texts, digests of texts and
            vocabulary.
        history: Keras's history, a list with one value per epoch for each of loss, accuracy, val_loss, val_accuracy.
        training_seconds: Seconds per epoch, without validation.
        validation_seconds: Seconds per epoch.
        step_loss: The losses of the first steps of the first epoch; empty with Keras on JAX, or with several processes.
        backend: Keras's backend.
        device: The GPU or CPU that it ran on; with several processes, that of the first.
        processes: Number of processes that trained it together.
        versions: Versions of the packages.
    """

    settings: Settings
    data: dict[str, Any]
    history: History = dataclasses.field(default_factory=dict)
    training_seconds: list[float] = dataclasses.field(default_factory=list)
    validation_seconds: list[float] = dataclasses.field(default_factory=list)
    step_loss: list[float] = dataclasses.field(default_factory=list)
    backend: str = ""
    device: str = ""
    processes: int = 1
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Number of whole epochs."""
        return len(self.training_seconds)

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raises OutputError if an option of the command line contradicts the settings."""
        for name, value in dataclasses.asdict(self.settings).items():
            _check_same(name, value, options.get(name, value))

    def cut(self, epochs: int) -> None:
        """Drops all values after this number of epochs."""
        self.history = {name: values[:epochs] for name, values in self.history.items()}
        self.training_seconds = self.training_seconds[:epochs]
        self.validation_seconds = self.validation_seconds[:epochs]

    def write(self, output: Path) -> None:
        """Writes both files and the plot."""
        content = dataclasses.asdict(self)
        write_json(output / HISTORY_FILE, content.pop("history"))
        write_json(output / RUN_FILE, content)
        replace(output / PLOT_FILE, lambda part: plots.history(self.history, part))


def has_run(output: Path) -> bool:
    """Whether the folder holds a run of at least one epoch."""
    return (output / MODEL_FILE).exists()


def read_run(output: Path) -> Run:
    """Reads a run from its folder.

    Raises:
        OutputError: There is no run, or its files are damaged.
    """
    if not has_run(output):
        raise OutputError(f"resume: expected a run of at least one whole epoch, found no {MODEL_FILE} in {output}")
    try:
        content = json.loads((output / RUN_FILE).read_text(encoding="utf-8"))
        history = json.loads((output / HISTORY_FILE).read_text(encoding="utf-8"))
        return Run(**{**content, "settings": Settings(**content["settings"]), "history": history})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"resume: expected {RUN_FILE} and {HISTORY_FILE} of a run, found {error!r}") from error


def new_run(settings: Settings, data: Data) -> Run:
    """Returns a run that has not begun."""
    return Run(settings, _describe(data))


def train(
    run: Run,
    data: Data,
    output: Path,
    epochs: int,
    verbose: int | str = "auto",
    progress: Callable[[str], None] = lambda _: None,
    group: Group | None = None,
) -> int:
    """Trains and validates, and saves model, history, plot and vocabulary in `output` after every epoch.

    A resumed run ends as it would have ended without the interruption: the optimizer's state and the order of the
    texts continue from where they were.

    Args:
        run: From `new_run`, or from `read_run(output)` to resume it. The history goes into it.
        data: The texts, loaded with the settings' batch size, seed, bucketing and limit.
        output: An existing folder.
        epochs: Total number of epochs to reach.
        verbose: As for Keras.
        progress: Called after every batch, with a line about the progress.
        group: The processes that train the model together, each on its part of every batch. All of them call this; the
            first one writes the files. None: this process alone.

    Returns:
        The number of epochs that it has trained.

    Raises:
        OutputError: The data differ from those of the resumed run, or its model is damaged.
    """
    before, steps = run.epochs, 0
    with group.scope() if group else contextlib.nullcontext():
        if before == 0:
            model = _new_model(run.settings, data)
        else:
            found = _describe(data)
            for name in ("vocabulary", "reviews"):
                _check_same(name, run.data[name], found[name])
            run.data = found  # a run of an older version has no names of the classes
            model = load_model(output / MODEL_FILE, "resume")
            # The model is written last. After an interruption the history may have one epoch more than the model.
            steps = int(model.optimizer.iterations)
            run.cut(steps // data.steps_per_epoch)
    seed = run.settings.seed + (group.seed_offset if group else 0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):  # it draws once a step, and Keras's files do not store its state
            layer.seed_generator.state.assign([seed % 2**32, steps])
    run.backend = keras.backend.backend()
    run.device = ", ".join(status().gpus) or processor()
    run.processes = group.size if group else 1
    run.versions = _versions()
    before = run.epochs
    if before >= epochs:
        return 0
    first = group is None or group.rank == 0
    keeper = _Keeper(run, data, output if first else None, group.alone if group else contextlib.nullcontext)
    options: dict[str, Any] = {
        "steps_per_epoch": data.steps_per_epoch,
        "initial_epoch": before,
        "epochs": epochs,
        "verbose": verbose if first else 0,
    }
    batches, test_batches = data.train_batches(first_epoch=before), data.test_batches()
    if group:
        fit(model, group, batches, test_batches, callbacks=[keeper, _Progress(epochs, progress)], **options)
    else:
        callbacks = [_StepLoss(run), keeper, _Progress(epochs, progress)]
        # The dataset shuffles.
        model.fit(batches, validation_data=test_batches, callbacks=callbacks, shuffle=False, **options)
    return run.epochs - before


def identity(run: Run, data: Data, output: Path) -> dict[str, object]:
    """Returns by name the values that must be the same in all processes that train a model together."""
    texts = {name: value for name, value in _describe(data).items() if name != "source"}  # paths may differ by machine
    model = hashlib.sha256((output / MODEL_FILE).read_bytes()).hexdigest() if run.epochs else None
    return {
        "settings": dataclasses.asdict(run.settings),
        "texts": texts,
        "epochs so far": run.epochs,
        "model": model,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    packages = versions(("keras", keras.backend.backend(), "numpy"))
    return {"python": platform.python_version(), "lstm_fast": status().version, **packages}


def _new_model(settings: Settings, data: Data) -> keras.Model:
    return MODELS[settings.model](
        data.encoder.vocab_size,
        settings.layer,
        classes=len(data.classes),
        mask=settings.mask,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def _describe(data: Data) -> dict[str, Any]:
    return {
        "source": data.source,
        "columns": data.columns and list(data.columns),
        "classes": list(data.classes),
        "skipped": data.skipped,
        "train": len(data.train),
        "test": len(data.test),
        "vocabulary_size": data.encoder.vocab_size,
        "reviews": data.fingerprint,
        "vocabulary": vocabulary.digest(data.encoder),
    }


def _check_same(name: str, before: object, now: object) -> None:
    if now != before:
        raise OutputError(
            f"resume: expected the run's {name.replace('_', ' ')}, {before!r}, found {now!r}; "
            "train into another --output instead"
        )


class _StepLoss(keras.callbacks.Callback):  # type: ignore[misc]
    """Stores the loss of each of the first steps. Keras itself gives the mean since the start of the epoch.

    The metric is reset at each of these steps, and gets the sum back after them. Differences of Keras's means would
    lose the digits in which two layers differ.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.total = self.count = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        if keras.backend.backend() == "jax":  # its metrics have no values during an epoch
            return
        if self.run.epochs > 0 or len(self.run.step_loss) >= STEP_LOSSES:
            return
        mean = self.model.metrics[0]
        total, count = float(mean.total), float(mean.count)
        self.total += total
        self.count += count
        self.run.step_loss.append(total / count)
        mean.reset_state()
        if len(self.run.step_loss) == STEP_LOSSES or batch + 1 == self.params["steps"]:
            mean.total.assign(self.total)
            mean.count.assign(self.count)


class _Keeper(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds each epoch's history to the run, and writes the run and the model if this process has an output.

    It writes in the context `alone`, because the other processes do not write.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        output: Path | None,
        alone: Callable[[], contextlib.AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self.run = run
        self.data = data
        self.output = output
        self.alone = alone
        self.started = self.trained = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.started = time.perf_counter()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.run.training_seconds.append(self.trained - self.started)
        self.run.validation_seconds.append(time.perf_counter() - self.trained)
        for name, value in (logs or {}).items():
            self.run.history.setdefault(name, []).append(float(value))
        if self.output is None:
            return
        if self.run.epochs == 1:  # not before: the model of an earlier run stays until there is a new one
            (self.output / MODEL_FILE).unlink(missing_ok=True)
            vocabulary.save(self.data.encoder, self.output / VOCABULARY_FILE)
        self.run.write(self.output)
        with self.alone():
            replace(self.output / MODEL_FILE, self.model.save)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports the progress."""

    def __init__(self, epochs: int, progress: Callable[[str], None]) -> None:
        super().__init__()
        self.epochs = epochs
        self.progress = progress
        self.epoch = ""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.epoch = f"epoch {epoch + 1}/{self.epochs}"
        self.progress(f"{self.epoch}: first batch")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        loss = f", loss {float(logs['loss']):.4f}" if logs else ""
        self.progress(f"{self.epoch}: batch {batch + 1:,} of {self.params['steps']:,}{loss}")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        self.progress(f"{self.epoch}: validation, batch {batch + 1:,}")
