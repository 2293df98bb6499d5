"""Compares this tree with a commit, or with another tree that has its compiled parts: is anything slower, or wrong?

python -m benchmarks.against main --output against.jsonl
python -m benchmarks.against ../before --reviews --data aclImdb.tar.gz --vocabulary subwords8k.subwords

A commit is built first, in a temporary folder, without CUDA. That takes minutes. What the two trees compute is checked
in both. Then processes of both take turns. A line is "slower" or "faster" only if the 95 % interval of the median ratio
lies beyond the threshold, and if it does so again in new processes. The exit status is 1 if a line is slower or wrong.
"""

import contextlib
import dataclasses
import itertools
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import track

from benchmarks import FAST, ON_NUMPY, report, results, verdicts
from benchmarks.command import not_negative, parsed, parser
from benchmarks.results import TREE, File, Row
from benchmarks.scenarios import SCENARIOS, SMOKE_SCENARIOS
from benchmarks.suites import Case, Settings, reviews
from benchmarks.tables import tables
from benchmarks.verdicts import OTHER, THIS
from benchmarks.worker import Worker, WorkerError, working
from lstm_fast.bench.scenarios import Scenario
from lstm_fast.bench.turns import take_turns
from lstm_fast.errors import DataError

SECONDS = 12.0  # for both trees and one line
BUILD = "-DLSTM_FAST_CUDA=OFF -DLSTM_FAST_TENSORFLOW=OFF"  # the CPU is compared


class NothingToCompareError(Exception):
    """There is no other tree that could run."""


def has_compiled_parts(tree: Path) -> bool:
    return any((tree / "lstm_fast").glob("_core*.so"))


def newer_sources(tree: Path) -> bool:
    """Whether sources of the kernels are younger than what is compiled, which would then be compared for them."""
    sources = (path.stat().st_mtime for path in (tree / "csrc").rglob("*") if path.is_file())
    return max(sources, default=0.0) > max(path.stat().st_mtime for path in (tree / "lstm_fast").glob("*.so"))


@contextlib.contextmanager
def tree_of(what: str) -> Iterator[Path]:
    """Yields the source tree, with its compiled parts, that a path or a commit stands for.

    Raises:
        NothingToCompareError: there is none.
    """
    if has_compiled_parts(Path(what)):
        yield Path(what).resolve()
        return
    found = _run("git", "rev-parse", "--verify", "--quiet", f"{what}^{{commit}}", cwd=TREE)
    if found.returncode:
        expected = "a commit, or a source tree of lstm_fast with its compiled parts"
        raise NothingToCompareError(f"expected {expected}, found {what}")
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        tree = Path(folder) / "tree"
        try:
            _must("git", "worktree", "add", "--detach", str(tree), found.stdout.strip(), cwd=TREE)
            print(f"building {what}, which takes minutes", flush=True)
            options = f"{os.environ.get('CMAKE_ARGS', '')} {BUILD}"
            _must(sys.executable, "setup.py", "build_ext", "--build-lib", ".", cwd=tree, CMAKE_ARGS=options)
            yield tree
        finally:
            _run("git", "worktree", "remove", "--force", str(tree), cwd=TREE)


@contextlib.contextmanager
def orderly() -> Iterator[None]:
    """SIGTERM ends this as Ctrl-C does, so that no work tree is left behind: `timeout` and CI send it."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, text=True, check=False, **streams)


def _must(*command: str, cwd: Path, **environment: str) -> None:
    done = _run(*command, cwd=cwd, **environment)
    if done.returncode:
        raise NothingToCompareError(f"{shlex.join(command)} failed: {done.stdout.strip()[-2000:]}")


class Question(NamedTuple):
    """What the processes of both trees are asked to make ready."""

    contender: str
    do: str
    arguments: dict[str, Any]


def layers(quick: bool) -> Iterator[Case]:
    """A layer in every scenario, through Keras on TensorFlow and on NumPy arrays."""
    scenarios = SMOKE_SCENARIOS[:1] if quick else SCENARIOS
    for scenario, contender, training in itertools.product(scenarios, (FAST, ON_NUMPY), (True, False)):
        question = {"contender": contender, "scenario": _fields(scenario), "training": training}
        yield Case("against", f"{scenario}", results.pass_name(training), Question(contender, "layer", question))


def _fields(scenario: Scenario) -> dict[str, Any]:
    """Those that say something: an older tree does not know the newest."""
    defaults = {field.name: field.default for field in dataclasses.fields(scenario)}
    return {name: value for name, value in dataclasses.asdict(scenario).items() if value != defaults[name]}


def model(case: Case, settings: Settings, folder: Path) -> Case:
    """A model of the worked example, trained before."""
    own = folder / case.what
    own.mkdir()
    question = {"layer": "fast", **reviews.trained(case.what, settings, own)}
    return Case("against", case.name, "", Question(FAST, "model", question))


def attempt(trees: Mapping[str, Path], cases: Sequence[Case], seconds: float, **facts: Any) -> Iterator[Row]:
    """Yields the rows of cases, all of them of one pair of processes, unless one of these ends."""
    left = iter(track(cases, description=f"against, attempt {facts['attempt']}"))
    alive = False
    while not alive:
        with working(trees) as workers:
            alive = True
            for case in left:
                for row in _measured(case, workers, seconds):
                    own = {**facts, "tree": row.contender}
                    yield dataclasses.replace(row, contender=case.what.contender, facts={**row.facts, **own})
                alive = all(worker.process.poll() is None for worker in workers.values())
                if not alive:
                    break


def _measured(case: Case, workers: Mapping[str, Worker], seconds: float) -> list[Row]:
    """Rows whose contenders are the trees; one row if a tree does not compute what it should."""
    try:
        for worker in workers.values():
            worker.ask(case.what.do, **case.what.arguments)
        if case.what.do == "model":
            return reviews.by_turns(case, workers, seconds, verdicts.ROUNDS)
        steps = {tree: reviews.stepping(worker) for tree, worker in workers.items()}
        times = take_turns(steps, seconds, min_rounds=verdicts.ROUNDS)
        return [case.row(tree, rounds) for tree, rounds in times.items()]
    except WorkerError as error:
        return [case.row(error.worker, wrong=f"{error}")]


def compare(other: Path, name: str, cases: Sequence[Case], threshold: float, seconds: float) -> Iterator[Row]:
    """Yields the rows of both trees; of what differs, also those of a second attempt, in new processes."""
    trees = {THIS: TREE, OTHER: other}
    facts = {"threshold": threshold, "other": name}
    first = []
    for row in attempt(trees, cases, seconds, attempt=1, **facts):
        first.append(row)
        yield row
    doubted = [line.rows[0] for line in verdicts.lines(first) if line.verdict in (verdicts.SLOWER, verdicts.FASTER)]
    keys = {(row.case, row.pass_, row.contender) for row in doubted}
    again = [  # a model is one case of both passes
        case for case in cases if {(case.name, case.pass_ or key[1], case.what.contender) for key in keys} & keys
    ]
    if again:
        for row in attempt(trees, again, seconds, attempt=2, **facts):
            if (row.case, row.pass_, row.contender) in keys or "wrong" in row.facts:
                yield row


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("against", __doc__)
    options.add_argument("other", metavar="COMMIT|TREE", help="of lstm_fast; a tree must have its compiled parts")
    options.add_argument("--output", type=Path, default=Path("against.jsonl"), help="file of results to write")
    options.add_argument("--threshold", type=not_negative, default=100 * verdicts.THRESHOLD, help="percent; default: 5")
    options.add_argument("--seconds", type=not_negative, help="for both trees and one line; default: 12, of models 60")
    options.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose names have one of these in them")
    options.add_argument("--reviews", action="store_true", help="the models of the worked example, not layers")
    options.add_argument("--data", default="sample", help="of the reviews, as of `lstm-fast train`")
    options.add_argument("--vocabulary", type=Path, help="of the reviews: a .subwords file")
    options.add_argument("--steps", type=int, default=400, help="that a model of the reviews is trained for before")
    options.add_argument("--quick", action="store_true", help="one small scenario or model, to see that it works")
    given = parsed(options, arguments)
    if not has_compiled_parts(TREE):
        options.error(f"expected the compiled parts of this tree in {TREE / 'lstm_fast'}, found none")
    settings = Settings(given.quick, given.seconds, None, given.data, given.vocabulary, given.steps)
    every = reviews.cases(settings) if given.reviews else layers(given.quick)
    cases = [case for case in every if not given.only or any(text in f"{case}" for text in given.only)]
    if not cases:  # a status of 0 would say that nothing is slower
        options.error("expected lines to compare, found none")
    header = results.header(given.command)
    rows: list[Row] = []
    try:
        with orderly(), tree_of(given.other) as other, tempfile.TemporaryDirectory() as folder:
            for tree in filter(newer_sources, (TREE, other)):
                print(
                    f"{tree}: files in csrc are newer than the compiled parts: are these up to date?", file=sys.stderr
                )
            if given.reviews:
                cases = [model(case, settings, Path(folder)) for case in cases]
            name = f"{given.other}, commit {results.commit_of(other)[0][:12]}"
            seconds = settings.budget(reviews.SECONDS if given.reviews else SECONDS)
            with results.writing(given.output, lambda: header) as add:
                for row in compare(other, name, cases, given.threshold / 100, seconds):
                    rows.append(add(row))
    except (NothingToCompareError, DataError, OSError) as error:  # not 1: no line is slower
        options.error(f"{error}")
    report.show(list(tables([File(given.output, header, rows)])))
    return int(any(line.verdict in (verdicts.SLOWER, verdicts.WRONG) for line in verdicts.lines(rows)))


if __name__ == "__main__":
    sys.exit(main())
