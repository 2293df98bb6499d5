"""`lstm-fast train`: trains a sentiment model."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from lstm_fast.commands.exits import INTERRUPTED
from lstm_fast.commands.packages import require
from lstm_fast.commands.reviews import DEFAULTS, learning_rate, load


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    require("train", "tensorflow", "matplotlib")
    from lstm_fast.files import OutputError, prepare_folder
    from lstm_fast.imdb import training

    output: Path = arguments.output
    given = vars(arguments)
    if arguments.resume:
        run = training.read_run(output)
        run.check_options(given)
        prepare_folder(output)
        kept = {"data": run.data["source"], "vocabulary": output / training.VOCABULARY_FILE}
        data = load({**dataclasses.asdict(run.settings), **kept, **given})
    else:
        if training.has_run(output) and not arguments.overwrite:
            raise OutputError(
                f"output: expected a folder without a run, found one in {output}; --resume goes on with it, "
                "--overwrite replaces it"
            )
        prepare_folder(output)
        options = {**DEFAULTS, **given}
        data = load(options)
        options["learning_rate"] = learning_rate(options, data)
        fields = dataclasses.fields(training.Settings)
        run = training.new_run(training.Settings(**{field.name: options[field.name] for field in fields}), data)
    try:
        training.train(run, data, output, arguments.epochs, verbose=1 if sys.stdout.isatty() else 2)
    except KeyboardInterrupt:
        kept_epochs = (
            f"{run.epochs} epochs are in {output}, --resume goes on" if run.epochs else "no epoch was finished"
        )
        print(f"\nlstm-fast: interrupted; {kept_epochs}", file=sys.stderr)
        return INTERRUPTED
    print(
        f"epochs: {run.epochs}, {sum(run.training_seconds):.0f} s of training; validation accuracy "
        f"{run.history['val_accuracy'][-1]:.4f}; model, history and plot in {output}"
    )
    return 0
