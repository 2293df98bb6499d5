"""`lstm-fast compare`: FastLSTM beside keras.layers.LSTM."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_fast.commands import texts
from lstm_fast.commands.exits import FAILED
from lstm_fast.commands.heartbeat import Heartbeat
from lstm_fast.errors import CommandError

if TYPE_CHECKING:
    from rich.table import Table

    from lstm_fast.text.compare import Comparison


def run(arguments: argparse.Namespace) -> int:
    """Runs the command and returns its exit status."""
    texts.prepare("compare")
    import keras

    if (backend := keras.backend.backend()) != "tensorflow":
        raise CommandError(
            f"compare: expected Keras on tensorflow, found {backend!r}; on every backend there are lstm-fast bench "
            "and lstm-fast bench --model my.keras"
        )
    from rich.console import Console
    from rich.progress import Progress

    from lstm_fast.files import output_folder, replace, write_json
    from lstm_fast.text import plots
    from lstm_fast.text.compare import compare, total_work

    output: Path = arguments.output
    with output_folder(output):
        options = {**texts.DEFAULTS, **vars(arguments)}
        with Heartbeat() as heartbeat:
            data = texts.load(options, heartbeat)
        console = Console()
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("FastLSTM and keras.layers.LSTM in turn", total=total_work(arguments.steps))
            result = compare(
                data,
                model=options["model"],
                mask=options["mask"],
                learning_rate=texts.learning_rate(options, data),
                seed=options["seed"],
                steps=arguments.steps,
                progress=lambda: bar.advance(task),
            )
        write_json(output / "compare.json", result.as_dict())
        written = [output / "compare.json"]
        if result.fused:
            replace(output / "compare.png", lambda part: plots.comparison(result, part))
            written.insert(0, output / "compare.png")
        else:  # a picture of an earlier run would be taken for this one's
            (output / "compare.png").unlink(missing_ok=True)
    console.print(
        f"{result.model} model, batch {result.batch_size}, {result.timesteps:,.0f} timesteps, "
        f"{result.padding:.0%} padding{', masked' if result.mask else ''}"
    )
    if result.fused:  # else there are no times of FastLSTM
        console.print(_speed(result))
    console.print(_parity(result))
    print(" and ".join(map(str, written)), "written")
    for problem in result.problems:
        print(f"lstm-fast: compare failed: {problem}", file=sys.stderr)
    return FAILED if result.problems else 0


def _speed(result: Comparison) -> Table:
    from rich.table import Table

    speed = Table("median ms per batch")
    for heading in ("FastLSTM", "keras.layers.LSTM", "ratio"):
        speed.add_column(heading, justify="right")
    for name, times in (("training step", result.train_ms), ("prediction", result.predict_ms)):
        slow, fast = times.median("keras"), times.median("fast")
        speed.add_row(name, f"{fast:.1f}", f"{slow:.1f}", f"[bold]{times.ratio:.2f} x[/bold]")

    if result.computed is not None and result.without_gradient is not None:
        timesteps = "timesteps that are not masked" if result.mask else "timesteps"
        copied = ", the others copied" if result.computed < 1 else ""
        speed.caption = (
            f"FastLSTM: {result.computed:.0%} of the {timesteps} computed{copied}\n"
            f"in training, {result.without_gradient:.0%} have no gradient and are left out"
        )
    return speed


def _parity(result: Comparison) -> Table:
    from rich.table import Table

    from lstm_fast.text import compare

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
    return parity
