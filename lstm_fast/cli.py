"""The command `lstm-fast`: its arguments. What each command does is in `lstm_fast.commands`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lstm_fast
from lstm_fast.commands.exits import FAILED, INTERRUPTED, USAGE
from lstm_fast.commands.start import check_settings, start
from lstm_fast.errors import CommandError

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; default: those of the process.

    Returns:
        The exit status: 0; 1 if a comparison or a contender failed, or `status` found a problem; 2 for arguments, data
        or folders that cannot be used; 130 if it was interrupted.
    """
    arguments = _parsed(argv)
    arguments.group = None
    try:
        status = _run(arguments)
    except Exception:
        if arguments.group is None:
            raise
        traceback.print_exc()
        status = FAILED
    if arguments.group and status != 0:
        # At the end of a process, the backend waits for the other processes. They may wait for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        distribute = getattr(arguments, "distribute", False)
        if arguments.command != "status" and not distribute:  # status reports bad settings itself
            check_settings()  # does not wait for Keras
        arguments.group = start(distribute)
        if distribute:
            check_settings()  # the other processes would wait for one that has not joined them
        command = importlib.import_module(f"lstm_fast.commands.{arguments.command}")
        status: int = command.run(arguments)
        sys.stdout.flush()  # here, because a BrokenPipeError is handled below
    except CommandError as error:
        print(f"lstm-fast: error: {_as_option(str(error), arguments)}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return FAILED
    except KeyboardInterrupt:
        print("\nlstm-fast: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _as_option(message: str, arguments: argparse.Namespace) -> str:
    """Returns the message with the name of an argument as the user types it: functions call it `data_dir`."""
    name, colon, rest = message.partition(":")
    is_option = name in vars(arguments) and name not in ("command", "texts")
    return f"--{name.replace('_', '-')}{colon}{rest}" if is_option else message


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="lstm-fast",
        description="Keras LSTMs on fused kernels: train a classifier of texts, compare, measure.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lstm_fast {lstm_fast.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    shared = _shared()
    _add_train(commands, shared)
    _add_compare(commands, shared)
    _add_predict(commands)
    _add_bench(commands)
    _add_status(commands)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        command = commands.choices[arguments.command]
        command.error(f"unrecognized arguments: {' '.join(unknown)}{_similar(unknown, parser, command)}")
    return arguments


def _similar(unknown: Sequence[str], *parsers: argparse.ArgumentParser) -> str:
    """Returns a question that names the option most like the first unknown one; empty if none is like it."""
    names = [word.partition("=")[0] for word in unknown if word.startswith("--") and word != "--"]
    options = [option for parser in parsers for option in re.findall(r"--[\w-]+", parser.format_usage())]
    if not names:
        return ""
    longer = [option for option in options if option.startswith(names[0])]
    close = longer or difflib.get_close_matches(names[0], options, 1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _shared() -> argparse.ArgumentParser:
    """Returns the arguments of the commands that train."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    shared.add_argument("--model", choices=("single", "stacked"), help="default: single")
    shared.add_argument(
        "--data",
        metavar="auto|sample|tfds|PATH",
        help="PATH: a .csv, .tsv, .jsonl or .parquet file (the text ones perhaps with .gz), a folder of such files, or "
        "a folder or .tar.gz with a sub-folder of .txt files for each class (aclImdb); sample: a corpus that this "
        "command makes; tfds: imdb_reviews of TensorFlow Datasets; auto (default): tfds where it is already on this "
        "machine, else sample",
    )
    shared.add_argument("--text-column", metavar="NAME", help="of the data; default: guessed by the usual names")
    shared.add_argument("--label-column", metavar="NAME", help="of the data; default: guessed by the usual names")
    shared.add_argument(
        "--test-share", type=_share, metavar="X", help="of the texts, where there is no test set; default: 0.2"
    )
    shared.add_argument("--data-dir", metavar="DIR", help="the folder of TensorFlow Datasets")
    shared.add_argument(
        "--vocabulary", metavar="FILE", help="a .subwords file; default: the data's own, built if it has none"
    )
    shared.add_argument("--batch-size", type=_positive_int, metavar="N", help="default: 64")
    shared.add_argument("--limit", type=_positive_int, metavar="N", help="use N texts for training and N for testing")
    shared.add_argument("--mask", action=argparse.BooleanOptionalAction, help="mask the padding (mask_zero)")
    shared.add_argument("--bucket", action=argparse.BooleanOptionalAction, help="batch texts of similar length")
    shared.add_argument("--seed", type=_natural_int, metavar="N", help="of weights and order; default: 0")
    shared.add_argument(
        "--learning-rate", type=_positive_float, metavar="X", help="of Adam; default: 1e-3, for the sample 5e-3"
    )
    return shared


def _add_train(commands: _Commands, shared: argparse.ArgumentParser) -> None:
    train = commands.add_parser(
        "train",
        parents=[shared],
        allow_abbrev=False,
        help="train a model that tells the classes of texts apart",
        description="Trains a model on texts, such as film reviews, and their classes, such as negative and positive. "
        "Every epoch leaves model.keras, history.json, history.png, run.json and vocabulary.subwords in the output "
        "folder.",
    )
    train.add_argument("--layer", choices=("fast", "keras"), default=argparse.SUPPRESS, help="default: fast")
    train.add_argument("--epochs", type=_positive_int, default=10, metavar="N", help="in total; default: 10")
    train.add_argument("--output", type=Path, default=Path("runs/train"), metavar="DIR", help="default: runs/train")
    train.add_argument(
        "--distribute",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train together with other processes, which a launcher has started, each on its part of every batch",
    )
    existing = train.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in DIR, with its data and settings")
    existing.add_argument("--overwrite", action="store_true", help="start anew where DIR holds a run")


def _add_compare(commands: _Commands, shared: argparse.ArgumentParser) -> None:
    compare = commands.add_parser(
        "compare",
        parents=[shared],
        allow_abbrev=False,
        help="compare FastLSTM with keras.layers.LSTM",
        description="Trains FastLSTM and keras.layers.LSTM side by side, on the same weights and batches; shows how "
        "far they differ and how long they take; leaves compare.png and compare.json in the output folder.",
    )
    compare.add_argument("--steps", type=_positive_int, default=20, metavar="N", help="measured steps; default: 20")
    compare.add_argument(
        "--output", type=Path, default=Path("runs/compare"), metavar="DIR", help="default: runs/compare"
    )


def _add_predict(commands: _Commands) -> None:
    predict = commands.add_parser(
        "predict",
        allow_abbrev=False,
        help="tell the classes of texts",
        description="Tells the classes of texts by a model that train has left: as a table of probabilities on a "
        "terminal, else as CSV.",
    )
    predict.add_argument(
        "texts",
        metavar="FILE|-",
        help="a .txt file with one text per line; - for stdin, always one text per line; or a table: .csv, .tsv, "
        ".jsonl, .parquet",
    )
    predict.add_argument(
        "--model", type=Path, required=True, metavar="DIR|FILE", help="the folder of a run, or its model.keras"
    )
    predict.add_argument("--output", type=Path, metavar="FILE.csv", help="write CSV to this file")
    predict.add_argument("--text-column", metavar="NAME", help="of the file; default: the run's, or guessed")
    predict.add_argument("--vocabulary", metavar="FILE", help="a .subwords file; default: the run's")
    predict.add_argument("--batch-size", type=_positive_int, default=64, metavar="N", help="default: 64")


def _add_bench(commands: _Commands) -> None:
    bench = commands.add_parser(
        "bench",
        allow_abbrev=False,
        help="measure FastLSTM, or a model of yours, on this machine",
        description="Measures FastLSTM beside keras.layers.LSTM, as it is and through XLA, and PyTorch's nn.LSTM, "
        "whichever are there, with the backend that Keras runs on (KERAS_BACKEND) and on the device that it finds. Who "
        "computes anything else than Keras does is not timed. Leaves bench.json and bench.svg in the output folder. "
        "With --model: your own model, as it is and accelerated. First both have to compute the same; then training "
        "step and prediction are timed by turns. Nothing of the model's file is changed. Leaves model.json in the "
        "output folder, and replaces the one of an earlier run.",
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
    shapes.add_argument("--model", type=Path, metavar="FILE", help="a model of yours, .keras or .h5")
    bench.add_argument(
        "--dtype", choices=("float32", "mixed_float16", "mixed_bfloat16"), help="of the layers; default: float32"
    )
    bench.add_argument("--bidirectional", action="store_true", help="all shapes in both directions")
    bench.add_argument(
        "--padding", type=_padding, metavar="X", help="mask this share of the timesteps, from 0 to 0.99, of all shapes"
    )
    bench.add_argument("--output", type=Path, default=Path("bench"), metavar="DIR", help="default: bench")
    model = bench.add_argument_group("with --model")
    model.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="one batch, of np.savez. An array has the name of its input; if there is one input only, any name. An "
        "input in a structure may have its place for a name, a/b for x['a']['b'] and a/0 for x['a'][0], or its "
        "position, arr_0, arr_1 and so on. A subclassed model gets one array, a list of arr_0, arr_1 and so on, or a "
        "dict of other names. Targets have the names of the outputs, or, for one output, y. Default: random inputs",
    )
    model.add_argument(
        "--batch-size", type=_positive_int, metavar="N", help="rows; of --data the first ones; default: all, or 32"
    )
    model.add_argument(
        "--timesteps", type=_positive_int, metavar="N", help="of random inputs, where the model has any; default: 200"
    )
    model.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module to import first, which registers the model's own classes and functions; may be repeated",
    )


def _add_status(commands: _Commands) -> None:
    status = commands.add_parser(
        "status",
        allow_abbrev=False,
        help="show what is compiled in, and what keeps it from running",
        description="Shows what is compiled in and what runs here. The exit status is 1 if there is a problem.",
    )
    status.add_argument("--json", action="store_true", help="for programs")


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


def _share(text: str) -> Any:
    return _number(text, float, lambda value: 0 < value < 1, "a number between 0 and 1")


def _shape(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() and int(word) >= 1 for word in words):
        raise argparse.ArgumentTypeError(f"expected B,T,D,H, four numbers of at least 1, found {text!r}")
    return tuple(map(int, words))


def _padding(text: str) -> Any:
    return _number(text, float, lambda value: 0 <= value <= 0.99, "a number from 0 to 0.99")
