"""`lstm-fast bench`: measures FastLSTM on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_fast.commands import bench_model
from lstm_fast.commands.exits import FAILED, INTERRUPTED
from lstm_fast.commands.packages import require
from lstm_fast.commands.start import check_training
from lstm_fast.errors import CommandError
from lstm_fast.files import output_folder

if TYPE_CHECKING:
    from rich.console import Console

    from lstm_fast.bench.measure import Measurement


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    _check(arguments)
    if arguments.model is None:
        require("bench", "rich", "matplotlib")
    # Frameworks that share a GPU; read when they first use it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # a graph for every scenario, which it takes for a mistake
    check_training()
    with output_folder(arguments.output):
        return _grid(arguments) if arguments.model is None else bench_model.run(arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Raises CommandError for options that have no meaning beside others."""
    of_model = {"--data": arguments.data, "--import": arguments.imports, "--timesteps": arguments.timesteps}
    of_model["--batch-size"] = arguments.batch_size
    of_layers = {"--dtype": arguments.dtype, "--padding": arguments.padding}
    of_layers["--bidirectional"] = arguments.bidirectional
    if arguments.model is None:
        wrong = [name for name, value in of_model.items() if value]
        advice = "this option is for --model my.keras"
    else:
        wrong = [name for name, value in of_layers.items() if value is not None and value is not False]
        advice = "a model has its own"
    if wrong:
        raise CommandError(f"{wrong[0]}: {advice}")


def _grid(arguments: argparse.Namespace) -> int:
    """Measures layers of some shapes."""
    from rich.console import Console
    from rich.progress import Progress

    from lstm_fast.bench import measure, scenarios, tables
    from lstm_fast.bench.environment import driver, environment
    from lstm_fast.diagnosis import status
    from lstm_fast.files import write_json

    output: Path = arguments.output
    given = [scenarios.Scenario(*shape) for shape in arguments.shape or ()]
    grid = given or (scenarios.FULL if arguments.grid == "full" else scenarios.SHORT)
    changes = {"bidirectional": True} if arguments.bidirectional else {}
    changes |= {} if arguments.padding is None else {"padding": arguments.padding}
    chosen = dict.fromkeys(dataclasses.replace(scenario, **changes) for scenario in grid)
    cases = list(itertools.product(chosen, (True, False)))
    where = measure.place(arguments.dtype or "float32")
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
                        "status": status().as_dict(),
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
    elif results:  # nor is one of an earlier run that of this one
        (output / "bench.svg").unlink(missing_ok=True)
    if written:
        print(" and ".join(str(output / name) for name in written), "written")
    for result in results:
        for name, problem in result.failures.items():
            print(f"lstm-fast: bench failed: {result}: {name}: {problem}", file=sys.stderr)
