"""The command `lstm-fast`: train the IMDB models, compare FastLSTM with Keras's LSTM, measure it, show the status."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lstm_fast.bench.measure import Measurement
    from lstm_fast.bench.scenarios import Scenario
    from lstm_fast.imdb.compare import Comparison
    from lstm_fast.imdb.data import Data

from lstm_fast.errors import CommandError

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
        The exit status: 0; 1 where a comparison or a contender failed; 2 for arguments, data or folders that cannot be
        used; 130 where it was interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except CommandError as error:
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

    bench = commands.add_parser(
        "bench",
        help="measure FastLSTM on this machine",
        description="Measures FastLSTM beside keras.layers.LSTM, as it is and through XLA, and PyTorch's nn.LSTM, "
        "whichever are there, with the backend that Keras runs on (KERAS_BACKEND) and on the device that it finds. Who "
        "computes anything else than Keras does is not timed. Leaves bench.json and bench.svg in the output folder.",
    )
    shapes = bench.add_mutually_exclusive_group()
    shapes.add_argument(
        "--grid", choices=("short", "full"), default="short", help="5 shapes, a minute or two (default), or 12"
    )
    shapes.add_argument(
        "--shape",
        type=_shape,
        action="append",
        metavar="B,T,D,H",
        help="batch, timesteps, features and units, in the place of the grid; may be repeated",
    )
    bench.add_argument(
        "--dtype", choices=("float32", "mixed_float16", "mixed_bfloat16"), default="float32", help="default: float32"
    )
    bench.add_argument("--bidirectional", action="store_true", help="all shapes in both directions")
    bench.add_argument(
        "--padding", type=_padding, metavar="X", help="mask this share of the timesteps, from 0 to 0.99, of all shapes"
    )
    bench.add_argument("--output", type=Path, default=Path("bench"), metavar="DIR", help="default: bench")
    bench.set_defaults(command=_bench)

    status = commands.add_parser("status", help="show what is compiled in, what runs and what falls back")
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(command=_status)
    return parser


def _number(text: str, number: type, holds: Callable[[Any], bool], expected: str) -> Any:
    try:
        value = number(text)
    except ValueError:
        value = None
    if value is None or not holds(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return value


def _positive_int(text: str) -> Any:
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def _natural_int(text: str) -> Any:
    return _number(text, int, lambda value: 0 <= value < 2**32, "a whole number from 0 to 2**32 - 1")


def _positive_float(text: str) -> Any:
    return _number(text, float, lambda value: 0 < value < math.inf, "a positive number")


def _shape(text: str) -> Scenario:
    from lstm_fast.bench.scenarios import Scenario

    words = text.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() and int(word) >= 1 for word in words):
        raise argparse.ArgumentTypeError(f"expected B,T,D,H, four numbers of at least 1, found {text!r}")
    batch, time, features, units = map(int, words)
    return Scenario(batch, time, features, units)


def _padding(text: str) -> Any:
    return _number(text, float, lambda value: 0 <= value <= 0.99, "a number from 0 to 0.99")


def _train(arguments: argparse.Namespace) -> int:
    from lstm_fast.files import OutputError, prepare_folder
    from lstm_fast.imdb import training

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
    from absl import logging as absl_logging

    from lstm_fast.imdb.data import load

    absl_logging.set_verbosity(absl_logging.ERROR)  # TFDS warns about its own encoders
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

    from lstm_fast.files import prepare_folder, replace, write_json
    from lstm_fast.imdb import plots
    from lstm_fast.imdb.compare import compare, total_work

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

    speed.caption = f"FastLSTM: {result.computed:.0%} of the timesteps computed, the rest copied"

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


def _bench(arguments: argparse.Namespace) -> int:
    for package in ("rich", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise CommandError(f"bench: expected the package {package}, found none; run pip install 'lstm_fast[cli]'")
    # Frameworks that share a GPU; read when they first use it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # a graph for every scenario, which it takes for a mistake
    import keras
    from rich.console import Console
    from rich.progress import Progress

    import lstm_fast
    from lstm_fast.bench import measure, scenarios, tables
    from lstm_fast.bench.environment import driver, environment
    from lstm_fast.files import prepare_folder, write_json

    output: Path = arguments.output
    backends = ("tensorflow", "jax", "torch")
    if keras.backend.backend() not in backends:
        raise CommandError(f"KERAS_BACKEND: expected one of {', '.join(backends)}, found {keras.backend.backend()!r}")
    prepare_folder(output)
    grid = arguments.shape or (scenarios.FULL if arguments.grid == "full" else scenarios.SHORT)
    changes = {"bidirectional": True} if arguments.bidirectional else {}
    changes |= {} if arguments.padding is None else {"padding": arguments.padding}
    chosen = dict.fromkeys(dataclasses.replace(scenario, **changes) for scenario in grid)
    cases = list(itertools.product(chosen, (True, False)))
    where = measure.place(arguments.dtype)
    around = {**environment(), **({"gpu": where.device, "driver": driver()} if where.device else {})}
    console = Console()
    console.print(*tables.about(around, where), sep="\n", highlight=False, soft_wrap=True)
    results: list[Measurement] = []
    interrupted = False
    try:
        with Progress(console=console, transient=True) as bar:
            work = measure.total_work(where)
            task = bar.add_task("", total=work * len(cases))

            def progress(what_comes: str) -> None:
                bar.update(task, description=what_comes, advance=1)

            for n, (scenario, training) in enumerate(cases, start=1):
                results.append(measure.measure(scenario, training, where, progress))
                bar.update(task, completed=n * work)
                write_json(
                    output / "bench.json",
                    {
                        "environment": around,
                        "where": dataclasses.asdict(where),
                        "floor": where.product,
                        "complete": n == len(cases),
                        "measurements": [result.as_dict() for result in results],
                        "status": lstm_fast.status().as_dict(),
                    },
                )
    except KeyboardInterrupt:
        interrupted = True
    _show(results, output, console)
    if interrupted:
        print(f"\nlstm-fast: interrupted after {len(results)} of {len(cases)} measurements", file=sys.stderr)
        return INTERRUPTED
    return FAILED if any(result.failures for result in results) else 0


def _show(results: list[Measurement], output: Path, console: Console) -> None:
    """Prints what was measured, and draws it."""
    from lstm_fast.bench import plots, tables
    from lstm_fast.files import replace

    panels: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        if result.ratios:
            panels.setdefault("training" if result.training else "inference", {})[str(result.scenario)] = result.ratios
    written = ["bench.json"] if results else []
    if results:
        console.print(tables.speed(results))
        console.print(*tables.caption(results), sep="\n", highlight=False, soft_wrap=True)
    if panels:
        replace(output / "bench.svg", lambda part: plots.bars(panels, part))
        written.append("bench.svg")
    if written:
        print(" and ".join(str(output / name) for name in written), "written")
    for result in results:
        for name, problem in result.failures.items():
            print(f"lstm-fast: bench failed: {result}: {name}: {problem}", file=sys.stderr)


def _status(arguments: argparse.Namespace) -> int:
    import lstm_fast

    status = lstm_fast.status()
    if arguments.json:
        print(json.dumps(status.as_dict(), indent=2))
        return 0
    print(status)
    print("\nThis command runs no model. For calls, timesteps and fallbacks, print lstm_fast.status() in your program.")
    return 0
