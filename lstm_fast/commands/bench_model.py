"""`lstm-fast bench --model`: would a user's own model profit?"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from lstm_fast.commands.exits import FAILED
from lstm_fast.commands.packages import require
from lstm_fast.errors import CommandError


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    require("bench", "rich")
    from rich.console import Console
    from rich.progress import Progress

    from lstm_fast.bench import tables
    from lstm_fast.bench.environment import driver, environment
    from lstm_fast.bench.measure import place
    from lstm_fast.bench.model import report
    from lstm_fast.bench.model.measure import WORK, Question, measure
    from lstm_fast.diagnosis import status
    from lstm_fast.files import write_json

    if arguments.data is not None and arguments.timesteps is not None:
        raise CommandError("--timesteps: expected no --data, whose arrays have their own, found both")
    output: Path = arguments.output
    question = Question(
        str(arguments.model),
        tuple(arguments.imports),
        None if arguments.data is None else str(arguments.data),
        arguments.batch_size,
        arguments.timesteps,
    )
    where = place("float32")
    around = {**environment(), **({"gpu": where.device, "driver": driver()} if where.device else {})}
    console = Console()
    with _quiet(), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=WORK)
        answer = measure(question, lambda what_comes: bar.update(task, description=what_comes, advance=1))
    lines = [*tables.about(around, dataclasses.replace(where, policy=answer.policy)), *report.about(answer)]
    console.print(*lines, sep="\n", highlight=False, soft_wrap=True, markup=False)
    if answer.seconds:
        console.print()
        console.print(report.table(answer))
    verdict = report.verdict(answer)
    console.print(f"\n{verdict}", highlight=False, soft_wrap=True, markup=False)
    content = {
        "environment": around,
        "where": {"backend": where.backend, "device": where.device},
        **answer.as_dict(),
        "verdict": verdict,
        "status": status().as_dict(),
    }
    write_json(output / "model.json", content)
    print(output / "model.json", "written")
    for failure in answer.failures:
        print(f"lstm-fast: bench failed: {failure}", file=sys.stderr)
    return FAILED if answer.failures else 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the report says from the log as well."""
    levels = {logging.getLogger(name): logging.ERROR for name in ("lstm_fast", "tensorflow", "absl")}
    before = {logger: logger.level for logger in levels}
    for logger, level in levels.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
