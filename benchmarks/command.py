"""What the modules with a command line share."""

import argparse
import contextlib
import math
import shlex
import sys
from collections.abc import Sequence


def parser(module: str, doc: str) -> argparse.ArgumentParser:
    """A parser that describes the module by the first line of its docstring."""
    return argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.splitlines()[0])


def parsed(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, or those of this process, and as `command` the whole line."""
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*options.prog.split(), *words])
    return argparse.Namespace(**vars(options.parse_args(words)), command=command)


def not_negative(text: str) -> float:
    """A number of the command line: one that is compared with, as no comparison with NaN is ever true."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")
