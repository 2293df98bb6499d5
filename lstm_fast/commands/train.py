"""`lstm-fast train`: trains a model that tells the classes of texts apart."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_fast.commands import texts
from lstm_fast.commands.exits import INTERRUPTED
from lstm_fast.commands.heartbeat import Heartbeat
from lstm_fast.commands.start import check_training

if TYPE_CHECKING:
    from lstm_fast.text.batches import Data
    from lstm_fast.text.training import Run


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    check_training()
    texts.prepare("train")
    from lstm_fast.files import OutputError, output_folder
    from lstm_fast.text import training

    output: Path = arguments.output
    if not arguments.resume and training.has_run(output) and not arguments.overwrite:
        raise OutputError(
            f"output: expected a folder without a run, found one in {output}; --resume goes on with it, "
            "--overwrite replaces it"
        )
    before = training.read_run(output) if arguments.resume else None
    with output_folder(output), Heartbeat() as heartbeat:
        run, data = _resumed(before, arguments, heartbeat) if before else _new(arguments, heartbeat)
        try:
            verbose = 1 if sys.stdout.isatty() else 2
            trained = training.train(run, data, output, arguments.epochs, verbose=verbose, progress=heartbeat.now)
        except KeyboardInterrupt:
            kept_epochs = (
                f"{run.epochs} epochs are in {output}, --resume goes on" if run.epochs else "no epoch was finished"
            )
            print(f"\nlstm-fast: interrupted; {kept_epochs}", file=sys.stderr)
            return INTERRUPTED
    accuracy = f"validation accuracy {run.history['val_accuracy'][-1]:.4f}"
    if not trained:
        print(
            f"nothing to train: the run in {output} has its {run.epochs} epochs already, {accuracy}; "
            f"--epochs {run.epochs + 1} or more goes on"
        )
    else:
        print(
            f"epochs: {run.epochs}, {sum(run.training_seconds):.0f} s of training; {accuracy}; model, history and plot "
            f"in {output}"
        )
    return 0


def _resumed(run: Run, arguments: argparse.Namespace, heartbeat: Heartbeat) -> tuple[Run, Data]:
    from lstm_fast.text.saved import VOCABULARY_FILE

    given = vars(arguments)
    run.check_options(given)
    kept = {"data": run.data["source"], "vocabulary": arguments.output / VOCABULARY_FILE}
    return run, texts.load({**dataclasses.asdict(run.settings), **kept, **given}, heartbeat)


def _new(arguments: argparse.Namespace, heartbeat: Heartbeat) -> tuple[Run, Data]:
    from lstm_fast.text import training

    options = {**texts.DEFAULTS, **vars(arguments)}
    data = texts.load(options, heartbeat)
    options["learning_rate"] = texts.learning_rate(options, data)
    fields = dataclasses.fields(training.Settings)
    return training.new_run(training.Settings(**{field.name: options[field.name] for field in fields}), data), data
