"""A process that has the package of this tree or of another one, and does what it is asked for.

The process runs this file, whichever tree's package it has. So both trees are asked in the same way, and what is
imported here at the top must be there in every tree: nothing but the standard library.
"""

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TREE = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """What was asked for could not be done; the message is the other process's reason."""

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(reason)
        self.worker = worker


class Worker:
    """A process that has one tree's package."""

    def __init__(self, name: str = "", tree: Path = TREE, **environment: str) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - it must live as long as the process
        script = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r}, run_name='__main__')"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), **environment},
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def ask(self, do: str, **arguments: Any) -> Any:
        """Returns what a function of this file returns there.

        Raises:
            WorkerError: the function raises an error, or the process ends.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([do, arguments]), file=self.process.stdin)
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            raise WorkerError(self.name, f"the process ended: {self.errors.read().strip()[-2000:]}")
        returned, raised = json.loads(answer)
        if raised:
            raise WorkerError(self.name, raised)
        return returned

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


@contextlib.contextmanager
def working(trees: Mapping[str, Path]) -> Iterator[dict[str, Worker]]:
    """Yields a worker for each of the trees, by name."""
    started = {name: Worker(name, tree) for name, tree in trees.items()}
    try:
        yield started
    finally:
        for each in started.values():
            each.close()


def once(function: Callable[..., Any], *arguments: Any, **environment: str) -> Any:
    """Returns what a function of a module returns in a process of its own; all values are those of JSON."""
    worker = Worker(**environment)
    try:
        return worker.ask("call", module=function.__module__, name=function.__name__, arguments=arguments)
    finally:
        worker.close()


# What the process does. The functions import what they need, from the tree whose package is there.

_held: dict[str, Any] = {}  # what was made ready last: `step`, its `clock`, and of a model `passes` and `laps`


def call(module: str, name: str, arguments: Sequence[Any]) -> Any:
    return getattr(importlib.import_module(module), name)(*arguments)


def layer(contender: str, scenario: dict[str, Any], training: bool) -> None:
    """Makes a layer ready, if it computes what Keras's layer does, as far as the tree's own tests allow."""
    importlib.import_module("benchmarks")  # sets the environment, before Keras is imported
    from benchmarks import parity
    from benchmarks.contenders import BY_NAME
    from lstm_fast.bench.scenarios import Scenario

    prepared = parity.prepare(BY_NAME[contender], Scenario(**scenario), training)
    _held.update(step=prepared.step, clock=prepared.clock)


def model(name: str, layer: str, vocabulary: int, weights: str, batches: str) -> None:
    """Makes a model of the worked example ready, if it predicts and has gradients as the one of Keras's layers."""
    importlib.import_module("benchmarks")
    import numpy as np
    import tensorflow as tf

    from lstm_fast import _core
    from lstm_fast.bench.parity import TOLERANCE
    from lstm_fast.text.models import MODELS

    def built(kind: Any) -> Any:
        made = MODELS[name](vocabulary, kind, seed=0)
        made.optimizer.build(made.trainable_variables)
        made.load_weights(weights)
        return made

    def shown(made: Any, ids: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            outputs = made(ids, training=False)
            loss = tf.reduce_sum(outputs**2)
        return [np.asarray(tf.convert_to_tensor(a)) for a in (outputs, *tape.gradient(loss, made.trainable_variables))]

    made = built(layer)
    laps = [tuple(map(tf.constant, batch)) for batch in np.load(batches, allow_pickle=True)]
    few = laps[0][0][:4, :50]  # few, because `peak` would not see the memory that a large batch leaves behind
    before = _core.fused_calls()
    found = shown(made, few)
    fused = {name for name, calls in _core.fused_calls().items() if calls > before[name]}
    assert fused == ({"forward", "backward"} if layer == "fast" else set()), f"fused passes: {fused or 'none'}"
    for array, right in zip(found, shown(built("keras"), few), strict=True):
        off = float(np.linalg.norm(array - right) / (np.linalg.norm(right) or 1.0))
        assert off <= TOLERANCE["float32"], f"a prediction or gradient is off by {off:.1e} of its norm"  # NaN is not
    graph = tf.function(lambda ids: made(ids, training=False), reduce_retracing=True)
    passes = {"training": made.train_on_batch, "inference": lambda ids, _: graph(ids).numpy()}
    _held.update(passes=passes, laps=laps, clock=time.perf_counter)


def select(pass_: str) -> None:
    """Makes a lap of the model the step."""
    run, laps = _held["passes"][pass_], _held["laps"]
    _held["step"] = lambda: [run(*batch) for batch in laps]


def peak() -> int:
    """By how many bytes a lap of training raises the memory of a process that has trained on small batches before."""
    from lstm_fast.bench.memory import peak_bytes, reset_peak

    ids, labels = _held["laps"][0]
    for rows, steps in ((4, 30), (4, 40), (3, 50), (5, 20)):  # one tracing for all shapes, and the optimizer's slots
        _held["passes"]["training"](ids[:rows, :steps], labels[:rows])
    reset_peak()
    before = peak_bytes()
    select("training")
    _held["step"]()
    return int(peak_bytes() - before)


def step() -> float:
    """The seconds of a step, which the process takes itself, so that the way of a request does not count."""
    begin = _held["clock"]()
    _held["step"]()
    return float(_held["clock"]() - begin)


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # because what frameworks print is no answer
    for line in sys.stdin:
        do, arguments = json.loads(line)
        returned, raised = None, ""
        try:
            returned = globals()[do](**arguments)
        except Exception as error:  # the one who asks decides what it means
            raised = " ".join(f"{type(error).__name__}: {error}".split())[:2000]
        print(json.dumps([returned, raised]), file=answers)


if __name__ == "__main__":
    _serve()
