"""The worked example on real reviews, in this tree, in another one and with Keras's own layer: time, memory, losses.

python -m benchmarks.reviews ../before --data aclImdb.tar.gz --vocabulary subwords8k.subwords --output reviews.json
"""

import dataclasses
import itertools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import benchmarks  # noqa: F401 - the environment, before Keras is imported
from benchmarks.against import OTHER, THIS, TREE, Server
from benchmarks.command import parser, write_json
from benchmarks.environment import environment
from lstm_fast.bench import turns
from lstm_fast.bench.prepared import Prepared

KERAS = "Keras"
BUDGET_SECONDS = 60.0  # for one pass of all three
LAP = 4  # batches of a turn: some are padded more than others

# What the process of a tree does. It answers each request with a number.
SERVER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
import benchmarks
import numpy as np
import tensorflow as tf
from benchmarks.memory import peak_bytes, reset_peak
from lstm_fast import _core
try:
    from lstm_fast.text.models import MODELS
except ImportError:  # the other tree is from when the package was called imdb
    from lstm_fast.imdb.models import MODELS


def load(model, layer, vocabulary, weights, batches):
    global built, fit, predict, lap
    built = MODELS[model](vocabulary, layer, seed=0)
    built.optimizer.build(built.trainable_variables)
    if weights:
        built.load_weights(weights)
    lap = [tuple(map(tf.constant, batch)) for batch in np.load(batches, allow_pickle=True)]
    fit = lambda ids, labels: built.train_on_batch(ids, labels)
    graph = tf.function(lambda ids: built(ids, training=False), reduce_retracing=True)
    predict = lambda ids, labels: graph(ids).numpy()
    for rows, steps in ((4, 30), (4, 40), (3, 50), (5, 20)):  # one tracing for all shapes, and the optimizer's slots
        ids, labels = lap[0]
        predict(ids[:rows, :steps], labels[:rows])
    fused = _core.fused_calls()["forward"]
    assert (fused > 0) == (layer == "fast"), (layer, fused)  # nothing is measured that is not what it is called
    return 0


def seconds(name):
    step = {"training": fit, "prediction": predict}[name]
    begin = time.perf_counter()
    for batch in lap:
        step(*batch)
    return time.perf_counter() - begin


def peak():
    # Of the steps alone, over a process that has trained before, on small batches.
    for rows, steps in ((4, 30), (4, 40), (3, 50), (5, 20)):
        ids, labels = lap[0]
        fit(ids[:rows, :steps], labels[:rows])
    reset_peak()
    before = peak_bytes()
    for batch in lap:
        fit(*batch)
    return peak_bytes() - before


def epoch(path):
    begin = time.perf_counter()
    losses = []
    for batch in lap:
        built.reset_metrics()  # which would give the mean of all batches so far
        losses.append(float(fit(*batch)[0]))
    taken = time.perf_counter() - begin
    np.save(path, losses)
    return taken


for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps(globals()[request.pop("do")](**request)), file=answers)
"""


@dataclasses.dataclass(frozen=True)
class Example:
    """A model of the worked example, and what it is given.

    Attributes:
        model: its name in `lstm_fast.text.models.MODELS`.
        vocabulary: number of token ids.
        weights: those to begin with, and the optimizer's state; empty: fresh ones.
        batches: a file of pairs of ids and labels.
    """

    model: str
    vocabulary: int
    weights: str
    batches: str


def save_batches(path: Path, batches: Sequence[tuple[Any, Any]]) -> str:
    pairs = np.empty((len(batches), 2), object)
    for n, batch in enumerate(batches):
        pairs[n] = [np.asarray(part) for part in batch]
    np.save(path, pairs, allow_pickle=True)
    return str(path)


def started(other: Path, example: Example, names: Sequence[str]) -> dict[str, Server]:
    """Processes that have the model, by who computes it."""
    trees = {OTHER: (other, "fast"), THIS: (TREE, "fast"), KERAS: (TREE, "keras")}
    servers = {name: Server(trees[name][0], SERVER) for name in names}
    for name, server in servers.items():
        server.ask({"do": "load", "layer": trees[name][1], **dataclasses.asdict(example)})
    return servers


def close(servers: dict[str, Server]) -> None:
    for server in servers.values():
        server.close()


def prepared(server: Server, name: str) -> Prepared:
    """A lap of a server, which counts its seconds itself."""
    total = 0.0

    def step() -> None:
        nonlocal total
        server.ask({"do": "seconds", "name": name})
        total += server.seconds

    return Prepared(step, results=lambda _: (), clock=lambda: total)


def measure_steps(other: Path, example: Example, budget: float) -> dict[str, Any]:
    """Peak bytes of training steps, and the seconds of laps, by round."""
    servers = started(other, example, (OTHER, THIS, KERAS))
    try:
        peaks = {}
        for name, server in servers.items():
            server.ask({"do": "peak"})
            peaks[name] = server.seconds
        times = {}
        for kind in ("training", "prediction"):
            times[kind] = turns.take_turns({name: prepared(s, kind) for name, s in servers.items()}, budget)
    finally:
        close(servers)
    return {"peak": peaks, "seconds": times}


def measure_epoch(other: Path, example: Example, folder: Path) -> dict[str, Any]:
    """Seconds and losses of one epoch, from fresh weights: this tree and the other, one after the other."""
    servers = started(other, example, (OTHER, THIS))
    try:
        found = {}
        for name in servers:
            path = folder / f"{name}.npy"
            servers[name].ask({"do": "epoch", "path": str(path)})
            found[name] = {"seconds": servers[name].seconds, "losses": np.load(path).tolist()}
    finally:
        close(servers)
    return found


def table(results: dict[str, Any]) -> Table:
    drawn = Table(title="How many times as long as this tree, and as much memory: medians")
    for heading in ("model", "of", "the other tree", "Keras"):
        drawn.add_column(heading, justify="left" if heading in ("model", "of") else "right")
    for model, found in results.items():
        for kind, seconds in found["seconds"].items():
            ratios = (turns.ratio(seconds[THIS], seconds[name]) for name in (OTHER, KERAS))
            drawn.add_row(model, kind, *(f"{ratio:.2f}" for ratio in ratios))
        peaks = found["peak"]
        drawn.add_row(model, "peak memory", *(f"{peaks[name] / peaks[THIS]:.2f}" for name in (OTHER, KERAS)))
        if epoch := found.get("epoch"):
            drawn.add_row(model, "an epoch", f"{epoch[OTHER]['seconds'] / epoch[THIS]['seconds']:.2f}", "")
            losses = zip(epoch[OTHER]["losses"], epoch[THIS]["losses"], strict=True)
            apart = [abs(a - b) for a, b in losses]
            drawn.add_row(model, "losses of it, apart", f"median {statistics.median(apart):.1e}, {max(apart):.1e}", "")
    return drawn


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("reviews", __doc__)
    options.add_argument("other", type=Path, help="a source tree of lstm_fast with its compiled parts")
    options.add_argument("--output", type=Path, default=Path("reviews.json"), help="file to write")
    options.add_argument("--data", default="sample", help="as of `lstm-fast train`: aclImdb, or the package's sample")
    options.add_argument("--vocabulary", type=Path, help="a .subwords file")
    options.add_argument("--models", nargs="+", default=["single", "stacked"], help="single, stacked or both")
    options.add_argument("--steps", type=int, default=400, help="that the model is trained for before it is measured")
    options.add_argument("--epoch", action="store_true", help="measures an epoch of both trees as well, from the start")
    options.add_argument("--seconds", type=float, default=BUDGET_SECONDS, help="for a pass of one model")
    given = options.parse_args(arguments)
    if not (given.other / "lstm_fast").is_dir():
        options.error(f"other: expected a source tree of lstm_fast, found {given.other}")

    from lstm_fast.text import data
    from lstm_fast.text.models import MODELS

    loaded = data.load(given.data, vocabulary=given.vocabulary)
    results: dict[str, Any] = {}
    other = given.other.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in given.models:
            vocabulary = loaded.encoder.vocab_size
            trained = MODELS[model](vocabulary, "fast", seed=0)
            batches = iter(loaded.train_batches())
            for ids, labels in itertools.islice(batches, given.steps):
                trained.train_on_batch(ids, labels)
            weights = str(folder / f"{model}.weights.h5")
            trained.save_weights(weights)
            lap = save_batches(folder / "lap.npy", list(itertools.islice(batches, LAP)))
            results[model] = measure_steps(other, Example(model, vocabulary, weights, lap), given.seconds)
            if given.epoch:
                every = list(itertools.islice(loaded.train_batches(), loaded.steps_per_epoch))
                example = Example(model, vocabulary, "", save_batches(folder / "every.npy", every))
                results[model]["epoch"] = measure_epoch(other, example, folder)
    write_json(given.output, {"environment": environment(), "steps": given.steps, "reviews": results})
    Console(width=120).print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
