"""The command `lstm-fast`: train the IMDB models, compare FastLSTM with keras.layers.LSTM, show the status."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from lstm_fast.imdb.compare import Comparison
    from lstm_fast.imdb.data import Data

FAILED, USAGE, INTERRUPTED = 1, 2, 130

# What a new run takes where the command line says nothing; a resumed one takes its own. The learning rate depends on
# the data.
DEFAULTS: dict[str, Any] = {
    "model": "single",
    "layer": "fast",
    "data": "auto",
    "vocabulary": None,
    "mask": False,
    "bucket": False,
    "batch_size": 64,
    "limit": None,
    "seed": 0,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: its arguments; default: those of the process.

    Returns:
        The exit status: 0; 1 where a comparison failed; 2 for arguments, data or folders that cannot be used; 130
        where it was interrupted.
    """
    arguments = _parser().parse_args(argv)
    from absl import logging as absl_logging

    from lstm_fast.imdb.data import DataError
    from lstm_fast.imdb.files import OutputError

    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns about its own encoders
    try:
        status: int = arguments.command(arguments)
    except (DataError, OutputError) as error:
        print(f"lstm-fast: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nlstm-fast: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lstm-fast", description="Keras LSTMs on fused kernels, and sentiment of film reviews as an example."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--model", choices=("single", "stacked"), help="default: single")
    shared.add_argument(
        "--data",
        metavar="auto|sample|tfds|PATH",
        help="sample: a corpus that this command makes; tfds: imdb_reviews of TensorFlow Datasets; PATH: a folder or "
        ".tar.gz in aclImdb's layout; auto (default): tfds where it is already on this machine, else sample",
    )
    shared.add_argument("--data-dir", metavar="DIR", help="the folder of TensorFlow Datasets")
    shared.add_argument(
        "--vocabulary", metavar="FILE", help="a .subwords file; default: the data's own, built if it has none"
    )
    shared.add_argument("--batch-size", type=_positive_int, metavar="N", help="default: 64")
    shared.add_argument("--limit", type=_positive_int, metavar="N", help="use so many reviews of each split")
    shared.add_argument("--mask", action=argparse.BooleanOptionalAction, help="mask the padding (mask_zero)")
    shared.add_argument("--bucket", action=argparse.BooleanOptionalAction, help="batch reviews of like length")
    shared.add_argument("--seed", type=_natural_int, metavar="N", help="of weights and order; default: 0")
    shared.add_argument(
        "--learning-rate", type=_positive_float, metavar="X", help="of Adam; default: 1e-4, for the sample 5e-3"
    )

    train = commands.add_parser(
        "train",
        parents=[shared],
        help="train a sentiment model",
        description="Trains a sentiment model. Every epoch leaves model.keras, history.json, history.png, run.json and "
        "vocabulary.subwords in the output folder.",
    )
    train.add_argument("--layer", choices=("fast", "keras"), default=argparse.SUPPRESS, help="default: fast")
    train.add_argument("--epochs", type=_positive_int, default=10, metavar="N", help="in total; default: 10")
    train.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR", help="default: runs/train")
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in DIR, with its settings")
    existing.add_argument("--overwrite", action="store_true", help="start anew where DIR holds a run")
    train.set_defaults(command=_train)

    compare = commands.add_parser(
        "compare",
        parents=[shared],
        help="compare FastLSTM with keras.layers.LSTM",
        description="Trains FastLSTM and keras.layers.LSTM side by side, on the same weights and batches; shows how "
        "far they differ and how long they take; leaves compare.png and compare.json in the output folder.",
    )
    compare.add_argument("--steps", type=_positive_int, default=20, metavar="N", help="measured steps; default: 20")
    compare.add_argument(
        "--output", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: runs/compare"
    )
    compare.set_defaults(command=_compare)

    status = commands.add_parser("status", help="show what is compiled in, what runs and what falls back")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(command=_status)
    return parser


def _positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def _natural_int(text: str) -> int:
    if not 0 <= (value := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"expected 0 to 2**32 - 1, found {value}")
    return value


def _positive_float(text: str) -> float:
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, found {text}")
    return value


def _train(arguments: argparse.Namespace) -> int:
    from lstm_fast.imdb import training
    from lstm_fast.imdb.files import OutputError, prepare_folder

    output: Path = arguments.output
    given = vars(arguments)
    if arguments.resume:
        run = training.read_run(output)
        run.check_options(given)
        prepare_folder(output)
        kept = {"data": run.data["source"], "vocabulary": output / training.VOCABULARY_FILE}
        data = _load({**dataclasses.asdict(run.settings), **kept, **given})
    else:
        if training.has_run(output) and not arguments.overwrite:
            raise OutputError(
                f"output: expected a folder without a run, found one in {output}; --resume goes on with it, "
                "--overwrite replaces it"
            )
        prepare_folder(output)
        options = {**DEFAULTS, **given}
        data = _load(options)
        options["learning_rate"] = _learning_rate(options, data)
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


def _load(options: dict[str, Any]) -> Data:
    from lstm_fast.imdb.data import load

    data = load(
        options["data"],
        vocabulary=options["vocabulary"],
        data_dir=options.get("data_dir"),
        batch_size=options["batch_size"],
        seed=options["seed"],
        bucket=options["bucket"],
        limit=options["limit"],
        report=print,
    )
    print(
        f"data: {data.source}, {len(data.train):,} reviews for training and {len(data.test):,} for testing, "
        f"vocabulary of {data.encoder.vocab_size:,}",
        flush=True,
    )
    return data


def _learning_rate(options: dict[str, Any], data: Data) -> float:
    from lstm_fast.imdb import models, sample

    default = sample.LEARNING_RATE if data.source == "sample" else models.LEARNING_RATE
    rate: float = options.get("learning_rate", default)
    return rate


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from lstm_fast.imdb import plots
    from lstm_fast.imdb.compare import compare, total_work
    from lstm_fast.imdb.files import prepare_folder, replace, write_json

    output: Path = arguments.output
    prepare_folder(output)
    options = {**DEFAULTS, **vars(arguments)}
    data = _load(options)
    console = Console()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("FastLSTM and keras.layers.LSTM in turn", total=total_work(arguments.steps))
        result = compare(
            data,
            model=options["model"],
            mask=options["mask"],
            learning_rate=_learning_rate(options, data),
            seed=options["seed"],
            steps=arguments.steps,
            progress=lambda: bar.advance(task),
        )
    write_json(output / "compare.json", result.as_dict())
    replace(output / "compare.png", lambda part: plots.comparison(result, part))
    console.print(
        f"{result.model} model, batch {result.batch_size}, {result.timesteps:,.0f} timesteps, "
        f"{result.padding:.0%} padding{', masked' if result.mask else ''}"
    )
    console.print(*_comparison_tables(result))
    print(f"{output / 'compare.png'} and {output / 'compare.json'} written")
    for problem in result.problems:
        print(f"lstm-fast: compare failed: {problem}", file=sys.stderr)
    return FAILED if result.problems else 0


def _comparison_tables(result: Comparison) -> tuple[Table, Table]:
    from rich.table import Table

    from lstm_fast.imdb import compare

    speed = Table("median ms per batch")
    for heading in ("FastLSTM", "keras.layers.LSTM", "ratio"):
        speed.add_column(heading, justify="right")
    for name, times in (("training step", result.train_ms), ("prediction", result.predict_ms)):
        slow, fast = times.median("keras"), times.median("fast")
        speed.add_row(name, f"{fast:.1f}", f"{slow:.1f}", f"[bold]{times.ratio:.2f} x[/bold]")

    parity = Table("parity, same weights and batches")
    for heading in ("difference", "allowed"):
        parity.add_column(heading, justify="right")
    weights, steps = len(result.gradient_differences), len(result.losses["fast"])
    for name, difference, tolerance in (
        ("logits", result.logits_difference, compare.LOGITS_TOLERANCE),
        (f"gradients of {weights} weights", result.gradient_difference, compare.GRADIENT_TOLERANCE),
        (f"loss over {steps} training steps", result.loss_difference, compare.LOSS_TOLERANCE),
    ):
        colour = "green" if difference <= tolerance else "red"
        parity.add_row(name, f"[{colour}]{difference:.1e}[/{colour}]", f"{tolerance:.0e}")
    for name, count in result.fused_calls.items():
        expected = result.expected_calls[name]
        colour = "green" if count >= expected else "red"
        parity.add_row(f"fused {name} calls", f"[{colour}]{count}[/{colour}]", f"{expected} or more")
    return speed, parity


def _status(arguments: argparse.Namespace) -> int:
    import lstm_fast

    status = lstm_fast.status()
    print(json.dumps(status.as_dict(), indent=2) if arguments.json else status)
    return 0
