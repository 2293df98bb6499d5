"""`lstm-fast train`: trains a model that tells the classes of texts apart."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_fast.commands import texts
from lstm_fast.commands.exits import INTERRUPTED
from lstm_fast.commands.heartbeat import Heartbeat
from lstm_fast.commands.start import check_training

if TYPE_CHECKING:
    from lstm_fast.distribute.group import Group
    from lstm_fast.text.batches import Data
    from lstm_fast.text.training import Run


MUCH_PADDING = 0.5  # a share of the timesteps that is worth a line


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    group: Group | None = arguments.group
    with contextlib.ExitStack() as stack:
        if group:
            print(f"distribute: process {group.rank} of {group.size}", flush=True)
            if group.rank > 0:  # the first one reports for all
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        status = _train(arguments, group, stack)
    if group and status == 0:  # after a failure the others may still be working
        group.leave()
    return status


def _train(arguments: argparse.Namespace, group: Group | None, stack: contextlib.ExitStack) -> int:
    run, data, heartbeat = _together(arguments, group, stack) if group else _prepared(arguments, stack)
    from lstm_fast.text import training

    output: Path = arguments.output
    if group:
        stack.enter_context(_interruptible(run, output))
    verbose = 1 if sys.stdout.isatty() else 2
    try:
        trained = training.train(
            run, data, output, arguments.epochs, verbose=verbose, progress=heartbeat.now, group=group
        )
    except KeyboardInterrupt:
        _say_interrupted(run, output)
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


def _say_interrupted(run: Run, output: Path) -> None:
    kept_epochs = f"{run.epochs} epochs are in {output}, --resume goes on" if run.epochs else "no epoch was finished"
    print(f"\nlstm-fast: interrupted; {kept_epochs}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _interruptible(run: Run, output: Path) -> Iterator[None]:
    """Lets Ctrl-C end this one of several processes at once.

    It does not become an exception, because JAX may swallow that.
    """

    def end(*_: object) -> None:
        _say_interrupted(run, output)
        os._exit(INTERRUPTED)

    handler = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _together(arguments: argparse.Namespace, group: Group, stack: contextlib.ExitStack) -> tuple[Run, Data, Heartbeat]:
    """Prepares the run in every process, and makes sure that it is the same."""
    from lstm_fast.distribute.group import agree

    prepared = []

    def prepare() -> dict[str, object]:
        run, data, heartbeat = _prepared(arguments, stack, writes=group.rank == 0)
        prepared.append((run, data, heartbeat))
        from lstm_fast.text import training

        return {"number of epochs": arguments.epochs, **training.identity(run, data, arguments.output)}

    agree(group, prepare)
    return prepared[0]


def _prepared(
    arguments: argparse.Namespace, stack: contextlib.ExitStack, writes: bool = True
) -> tuple[Run, Data, Heartbeat]:
    """Checks the output and loads the texts; closes with the stack."""
    check_training()
    texts.prepare("train")
    from lstm_fast.files import OutputError, output_folder
    from lstm_fast.text import training

    output: Path = arguments.output
    if writes and not arguments.resume and training.has_run(output) and not arguments.overwrite:
        raise OutputError(
            f"output: expected a folder without a run, found one in {output}; --resume goes on with it, "
            "--overwrite replaces it"
        )
    before = training.read_run(output) if arguments.resume else None
    if writes:
        stack.enter_context(output_folder(output))
    heartbeat = stack.enter_context(Heartbeat())
    run, data = _resumed(before, arguments, heartbeat) if before else _new(arguments, heartbeat)
    return run, data, heartbeat


def _resumed(run: Run, arguments: argparse.Namespace, heartbeat: Heartbeat) -> tuple[Run, Data]:
    from lstm_fast.text.saved import VOCABULARY_FILE

    options = vars(arguments)
    run.check_options(options)
    sources = {"data": run.data["source"], "vocabulary": arguments.output / VOCABULARY_FILE}
    return run, texts.load({**dataclasses.asdict(run.settings), **sources, **options}, heartbeat)


def _new(arguments: argparse.Namespace, heartbeat: Heartbeat) -> tuple[Run, Data]:
    from lstm_fast.text import training

    options = {**texts.DEFAULTS, **vars(arguments)}
    data = texts.load(options, heartbeat)
    if not options["mask"] and data.padding > MUCH_PADDING:
        print(
            f"padding: {data.padding:.0%} of the timesteps, not masked: a layer that reads it last learns little from "
            "the words; --mask leaves it out",
            flush=True,
        )
    options["learning_rate"] = texts.learning_rate(options, data)
    fields = dataclasses.fields(training.Settings)
    return training.new_run(training.Settings(**{field.name: options[field.name] for field in fields}), data), data
