"""What `lstm-fast bench` prints."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table

from lstm_fast.bench.contenders import FAST
from lstm_fast.bench.measure import PRODUCT, SLOW_SECONDS, Measurement, Place
from lstm_fast.bench.words import digits, significant

NOTHING = "-"
ONCE = "*"
BUSY = 2.0  # slowest round over fastest, above which a reader should be warned


def about(environment: dict[str, Any], where: Place) -> Iterator[str]:
    """Yields lines that say what is there."""
    names = ("lstm_fast", "keras", "tensorflow", "jax", "torch", "numpy", "python")
    versions = ", ".join(f"{name} {environment[name]}" for name in names if name in environment)
    yield "CPU: {cpu}, {cores} cores, {isa}, {threads} threads".format(**environment)
    cudnn = [environment[name] for name in ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13") if name in environment]
    if where.device:
        yield f"GPU: {where.device}, driver {environment['driver']}, cuDNN {' or '.join(cudnn) or 'of the system'}"
    else:
        yield f"GPU: {where.backend} sees none, so nothing runs cuDNN"
    yield f"Keras on {where.backend}, {where.policy}; {versions}"


def speed(results: Sequence[Measurement]) -> Table:
    """The table, a row per scenario and pass."""
    peers = dict.fromkeys(name for result in results for name in result.seconds if name not in (FAST, PRODUCT))
    # Of 80 columns, the width where there is no terminal.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("B,T,D,H", "pass"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms", "us/step", *("\n".join(f"x {name}".rsplit(" ", 1)) for name in peers), "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        timed = FAST in result.seconds
        outcome = "" if timed else f"\n[red]{'fell back' if result.fallbacks else 'failed'}[/red]"
        table.add_row(
            str(result.scenario).replace(" ", "\n"),
            ("training" if result.training else "inference") + outcome,
            f"[bold]{significant(result.ms(FAST))}[/bold]" if timed else NOTHING,
            significant(result.us_per_step) if timed else NOTHING,
            *(_ratio(result, name) for name in peers),
            f"{result.share:.0%}" if timed else NOTHING,
        )
    return table


def caption(results: Sequence[Measurement]) -> Iterator[str]:
    """Yields lines that say what the table shows, and what it does not."""
    timed = [result for result in results if result.seconds]
    if any(FAST in result.seconds for result in timed):
        rate = statistics.median(result.product_rate for result in timed)
        product = timed[0].where.product
        yield "ms, us/step: medians of FastLSTM; x: how many times as fast as the other, median of the rounds."
        yield (
            "share: of the floor, which is the time of the arithmetic of all real timesteps at the rate of "
            f"{product}, {rate / 1e9:,.0f} GFLOP/s in the same turns."
        )
        rounds = [result.seconds[name] for result in timed for name in (FAST, PRODUCT) if name in result.seconds]
        spread = max(max(seconds) / min(seconds) for seconds in rounds)
        if spread > BUSY:
            yield f"This machine was busy: a round took up to {spread:.1f} times as long as another of the same work."
    if shares := sorted({f"{1 - result.scenario.real_share:.0%}" for result in results if result.scenario.padded}):
        yield f"padded: {' or '.join(shares)} of the timesteps are padding, and masked."
    if any(_once(result, name) for result in results for name in result.seconds):
        yield f"{ONCE} called once: it takes longer than {SLOW_SECONDS:g} s."
    for reason in dict.fromkeys(reason for result in results for reason in result.fallbacks):
        yield f"FastLSTM ran as keras.layers.LSTM, and was not timed: {reason}"
    for name, reason in dict.fromkeys(pair for result in results for pair in result.absent.items()):
        yield f"not there: {name}: {reason}"


def _ratio(result: Measurement, name: str) -> str:
    if name not in result.ratios:
        return NOTHING
    ratio = result.ratios[name]
    text = digits(ratio) + ONCE * _once(result, name)
    return text if ratio >= 1 else f"[red]{text}[/red]"


def _once(result: Measurement, name: str) -> bool:
    return len(result.seconds[name]) == 1
