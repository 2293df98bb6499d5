"""What `lstm-fast bench --model` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table

from lstm_fast.bench.model.measure import FAST, PLAIN, PREDICTION, TRAINING, Answer
from lstm_fast.bench.words import digits, significant

GAIN = 1.05  # the least ratio that is called a gain
_TELLING = 8 * 2**20  # bytes of memory below which a ratio is chance
_SHOWN = {TRAINING: "training", PREDICTION: "prediction"}


def about(answer: Answer) -> Iterator[str]:
    """Yields lines that say what was compared, and what runs how."""
    yield f"model: {answer.question.model}, {answer.model}"
    yield f"inputs: {answer.batch}"
    if answer.made_up:
        yield "  They are made up, and without padding. Times depend on the data: --data batch.npz takes real ones."
    yield "recurrent layers:"
    yield from (f"  {line}" for line in str(answer.report).splitlines())
    for fallback in answer.fallbacks:
        yield f"  fell back to Keras's when it was called: {fallback}"
    for name, calls in answer.fused_calls.items():
        yield f"fused calls in a {name}: {calls['forward']} forward, {calls['backward']} backward"
    if given := answer.timesteps.get("given"):
        computed = answer.timesteps["computed"]
        copied = "" if computed == given else ", the others repeat and were copied"
        given_words = f"{given:,} given to the kernels, of all layers and directions"
        yield f"timesteps in a prediction: {given_words}; {computed:,} computed{copied}"
    for padding in answer.padding:
        yield f"padding: {padding}"
    if answer.loss:
        yield f"loss: {answer.loss}"
    for name, error in answer.errors.items():
        yield f"{name}: off by {error:.1e}, {answer.allowed:.0e} allowed"
    if answer.untrained:
        yield f"training was not measured: {answer.untrained}"
    yield from answer.notes


def table(answer: Answer) -> Table:
    """Times of both models."""
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    drawn.add_column("")
    for heading in (PLAIN, FAST, "ratio"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for name, ratio in answer.ratios.items():
        plain, fast = (f"{significant(answer.ms(name, model))} ms" for model in (PLAIN, FAST))
        drawn.add_row(name, plain, fast, f"[bold]{digits(ratio)}[/bold]")
    if len(answer.peak_bytes) == len((PLAIN, FAST)):
        plain_bytes, fast_bytes = (answer.peak_bytes[model] for model in (PLAIN, FAST))
        ratio_of_bytes = digits(plain_bytes / fast_bytes) if fast_bytes > _TELLING else "-"
        drawn.add_row(
            "memory of training", *(f"{size / 2**20:.0f} MiB" for size in (plain_bytes, fast_bytes)), ratio_of_bytes
        )
    return drawn


def verdict(answer: Answer) -> str:
    """Says in one sentence whether the model profits."""
    if answer.failures:
        return f"not measured: {answer.failures[0]}"
    if not answer.report:
        return "nothing gained: there is no recurrent layer in the model"
    if not answer.fused:
        return "nothing gained: no layer of the model runs on the kernels here; nothing was timed"
    ratios = answer.ratios
    told = ", ".join(f"{_SHOWN[name]} {digits(ratio)} times" for name, ratio in ratios.items()) + " as fast"
    if max(ratios.values()) < GAIN:
        return f"nothing gained: {told}"
    if slower := [_SHOWN[name] for name, ratio in ratios.items() if ratio < 1 / GAIN]:
        return f"{told}; with lstm_fast.accelerate(model) {slower[0]} gets slower"
    return f"{told}; lstm_fast.accelerate(model) is all it takes"
