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
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it must live as long as the process
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

_step: Callable[[], Any] = list
_last: dict[str, Any] = {}


def call(module: str, name: str, arguments: Sequence[Any]) -> Any:
    return getattr(importlib.import_module(module), name)(*arguments)


def layer(contender: str, scenario: dict[str, Any], training: bool) -> None:
    """Makes a layer ready, if it computes what Keras's layer does, as far as the tree's own tests allow."""
    global _step  # noqa: PLW0603 - the process serves one at a time
    importlib.import_module("benchmarks")  # sets the environment, before Keras is imported
    from benchmarks import parity
    from benchmarks.contenders import BY_NAME
    from lstm_fast.bench.scenarios import Scenario

    _step = parity.prepare(BY_NAME[contender], Scenario(**scenario), training).step


def model(name: str, layer: str, vocabulary: int, weights: str, batches: str) -> None:
    """Makes a model of the worked example ready, whose predictions are those of the one of Keras's layers."""
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

    def prediction(made: Any) -> Callable[..., Any]:
        graph = tf.function(lambda ids: made(ids, training=False), reduce_retracing=True)
        return lambda ids, _: graph(ids).numpy()

    made = built(layer)
    laps = [tuple(map(tf.constant, batch)) for batch in np.load(batches, allow_pickle=True)]
    passes = {"training": made.train_on_batch, "inference": prediction(made)}
    before = _core.fused_calls()["forward"]
    few = laps[0][0][:4, :50]  # few, because `peak` would not see the memory that a large batch leaves behind
    found, expected = passes["inference"](few, None), prediction(built("keras"))(few, None)
    off = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert off <= TOLERANCE["float32"], f"predictions are off by {off:.1e} of their norm"  # NaN is not
    fused = _core.fused_calls()["forward"] > before
    assert fused == (layer == "fast"), f"the fused kernels {'ran' if fused else 'did not run'}"
    _last.update(passes=passes, laps=laps)


def select(pass_: str) -> None:
    """Makes a lap of the model the step."""
    global _step  # noqa: PLW0603 - likewise
    run, laps = _last["passes"][pass_], _last["laps"]
    _step = lambda: [run(*batch) for batch in laps]  # noqa: E731


def peak() -> int:
    """By how many bytes a lap of training raises the memory of a process that has trained on small batches before."""
    from lstm_fast.bench.memory import peak_bytes, reset_peak

    ids, labels = _last["laps"][0]
    for rows, steps in ((4, 30), (4, 40), (3, 50), (5, 20)):  # one tracing for all shapes, and the optimizer's slots
        _last["passes"]["training"](ids[:rows, :steps], labels[:rows])
    reset_peak()
    before = peak_bytes()
    select("training")
    _step()
    return int(peak_bytes() - before)


def step() -> float:
    """The seconds of a step, which the process takes itself, so that the way of a request does not count."""
    begin = time.perf_counter()
    _step()
    return time.perf_counter() - begin


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
