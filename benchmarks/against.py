"""This tree beside another one, each with what was compiled in it: whether a change has made anything slower.

python -m benchmarks.against ../before --output against.json
"""

import contextlib
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import FAST, ON_NUMPY
from benchmarks.command import parser, write_json
from benchmarks.environment import environment
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from lstm_fast.bench import turns
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Scenario

THIS, OTHER = "this", "other"
TREE = Path(__file__).resolve().parents[1]
BUDGET_SECONDS = 12.0  # for both trees, one scenario and one contender

# What a process does that has a tree's package: reads one request a line, answers with a line. It counts the seconds of
# its steps itself, so that the way of a request does not count.
SERVER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever frameworks print is no answer
import benchmarks
from benchmarks import parity
from benchmarks.contenders import BY_NAME
from lstm_fast.bench.scenarios import Scenario
seconds = 0.0
for line in sys.stdin:
    request = json.loads(line)
    if request:
        prepared = parity.prepare(BY_NAME[request["contender"]], Scenario(**request["scenario"]), request["training"])
        seconds = 0.0
    else:
        begin = prepared.clock()
        prepared.step()
        seconds += prepared.clock() - begin
    print(json.dumps(seconds), file=answers)
"""


class Server:
    """A process that has one tree's package, and runs a program that answers requests: lines, each a JSON value."""

    def __init__(self, tree: Path, program: str = SERVER) -> None:
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        command = [sys.executable, "-c", program]
        self.tree = tree
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        self.process = subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.seconds = 0.0

    def ask(self, request: dict[str, Any] | None = None) -> None:
        """Prepares what is asked for, or, if nothing is, runs a step of it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin)
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise RuntimeError(f"the process of {self.tree} ended: {self.errors.read()[-2000:]}")
        self.seconds = json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def prepared(self, scenario: Scenario, contender: str, training: bool) -> Prepared:
        # An older tree does not know the newest fields.
        given = {
            field.name: getattr(scenario, field.name)
            for field in dataclasses.fields(scenario)
            if field.default is dataclasses.MISSING or getattr(scenario, field.name) != field.default
        }
        self.ask({"scenario": given, "contender": contender, "training": training})
        return Prepared(self.ask, results=lambda _: (), clock=lambda: self.seconds)


@contextlib.contextmanager
def servers(other: Path) -> Iterator[dict[str, Server]]:
    started = {OTHER: Server(other), THIS: Server(TREE)}
    try:
        yield started
    finally:
        for server in started.values():
            server.close()


def measure(
    both: dict[str, Server], scenario: Scenario, contender: str, training: bool, budget: float
) -> dict[str, Any]:
    """Returns the milliseconds of each tree by round."""
    prepared = {name: server.prepared(scenario, contender, training) for name, server in both.items()}
    rounds = turns.take_turns(prepared, budget)
    milliseconds = {name: [1e3 * value for value in seconds] for name, seconds in rounds.items()}
    return {"scenario": str(scenario), "contender": contender, "training": training, "ms": milliseconds}


def table(results: Sequence[dict[str, Any]]) -> Table:
    drawn = Table(title="How many times as fast as the other tree: median, and the middle half of the rounds")
    for heading in ("B,T,D,H", "pass", "contender", "ratio", "middle half", "ms"):
        drawn.add_column(heading, justify="right" if heading in ("ratio", "middle half", "ms") else "left")
    for result in results:
        ratios = [b / a for a, b in zip(result["ms"][THIS], result["ms"][OTHER], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        drawn.add_row(
            result["scenario"],
            "training" if result["training"] else "inference",
            result["contender"],
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{statistics.median(result['ms'][THIS]):.2f}",
        )
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("against", __doc__)
    options.add_argument("other", type=Path, help="a source tree of lstm_fast with its compiled parts")
    options.add_argument("--output", type=Path, default=Path("against.json"), help="file to write")
    options.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="for one row of the table")
    options.add_argument("--quick", action="store_true", help="one small scenario only, to see that it works")
    given = options.parse_args(arguments)
    if not (given.other / "lstm_fast").is_dir():
        options.error(f"other: expected a source tree of lstm_fast, found {given.other}")
    scenarios = SMOKE_SCENARIOS[:1] if given.quick else SCENARIOS
    work = list(itertools.product(scenarios, (FAST, ON_NUMPY), (True, False)))
    with servers(given.other.resolve()) as both:
        results = [measure(both, *one, given.seconds) for one in track(work, description="against")]
    write_json(given.output, {"environment": environment(), "against": results})
    Console(width=120).print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
