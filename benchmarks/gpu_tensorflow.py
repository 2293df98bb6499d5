"""FastLSTM beside keras.layers.LSTM, which is cuDNN's, on a GPU with TensorFlow, in every way that Keras runs a layer.

python -m benchmarks.gpu_tensorflow layers models jit devices --output tensorflow.jsonl

The rows of FastLSTM say how far its results are from Keras's. Both compute float32 as TensorFlow does by default, TF32
where the GPU has it. Without a GPU, --quick tries everything on the processor.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from benchmarks import KERAS_LAYER as KERAS
from benchmarks import results
from benchmarks.command import parsed, parser
from benchmarks.results import Row, pass_name
from benchmarks.scenarios import IMDB, IMDB_REPEATING, VOCABULARY, ids_and_labels
from lstm_fast import _core
from lstm_fast.bench import keras_tensorflow, turns
from lstm_fast.bench.contenders import FAST
from lstm_fast.bench.parity import TOLERANCE, errors
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import IMDB_PADDING, Problem, Scenario, make_problem
from lstm_fast.layers import FastBidirectional, FastLSTM
from lstm_fast.text.models import MODELS

CLASSES = {KERAS: (keras.layers.LSTM, keras.layers.Bidirectional), FAST: (FastLSTM, FastBidirectional)}
SCENARIOS = (*(Scenario(64, 256, size, size) for size in (32, 64, 128, 256)), IMDB, IMDB_REPEATING)
QUICK = (Scenario(3, 5, 4, 6), Scenario(3, 5, 4, 6, bidirectional=True, padding=IMDB_PADDING))
BUDGET_SECONDS = 1.0  # for the turns of a case
WHATS = ("layers", "models", "jit", "devices")


def fused_calls() -> int:
    """Forward passes of lstm_fast's kernels, on the GPU where there is one."""
    if keras_tensorflow.device() is None:
        return _core.fused_calls()["forward"]
    from lstm_fast.backends import cuda

    return int(cuda().fused_calls()["forward"])


def compare(
    what: str,
    training: bool,
    contenders: dict[str, Prepared],
    off: Callable[[dict[str, Any]], float],
    budget: float,
    together: bool = True,
) -> list[Row]:
    """Results of both, of which `off` says how far they are apart, then their times by turns.

    A case that fails tells why, and the others go on.
    """

    def row(name: str, seconds: list[float], **facts: Any) -> Row:
        return Row("tensorflow", what, pass_name(training), name, seconds, facts)

    try:
        before = fused_calls()
        found = {FAST: contenders[FAST].step()}
        fused = fused_calls() > before  # FastLSTM did not leave it to cuDNN
        found[KERAS] = contenders[KERAS].step()
        apart = off({name: contenders[name].results(outputs) for name, outputs in found.items()})
        times = turns.take_turns(contenders, budget, together=together)
    except Exception as error:
        return [row(FAST, [], error=f"{type(error).__name__}: {error}".partition("\n")[0][:300])]
    right = apart <= TOLERANCE["tf32"]  # NaN is not
    return [row(FAST, times[FAST], fused=fused, off=apart, right=right), row(KERAS, times[KERAS])]


def worst(mask: np.ndarray | None) -> Callable[[dict[str, Any]], float]:
    """How far results are apart: the largest error of an array."""
    return lambda found: max(error for _, error in errors(found[FAST], found[KERAS], mask))


def layer(name: str, scenario: Scenario, problem: Problem) -> keras.Layer:
    own, wrapper = CLASSES[name]
    made = own(scenario.units, return_sequences=True, zero_output_for_mask=True)
    if scenario.bidirectional:
        made = wrapper(made)
    made.build(problem.x.shape)
    made.set_weights([array for direction in problem.weights for array in direction])
    return made


def of_layer(name: str, scenario: Scenario, problem: Problem, training: bool, mode: str) -> Prepared:
    """A layer that is called and differentiated: `mode` is eager, graph or jit."""
    made = layer(name, scenario, problem)
    if mode != "eager":
        return keras_tensorflow.prepared(keras_tensorflow.launcher(made, problem, training, jit=mode == "jit"))
    x, dy = tf.constant(problem.x), tf.constant(problem.dy)
    mask = None if problem.mask is None else tf.constant(problem.mask)
    if training:
        return keras_tensorflow.prepared(lambda: differentiated(made, x, mask, dy))
    return keras_tensorflow.prepared(lambda: [made(x, mask=mask)])


def differentiated(made: keras.Layer, x: tf.Tensor, mask: tf.Tensor | None, dy: tf.Tensor) -> list[tf.Tensor]:
    """The output of a layer, and the gradients of its input and weights."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = made(x, mask=mask, training=True)
    sources = [x, *(weight.value for weight in made.trainable_weights)]
    return [y, *tape.gradient(y, sources, output_gradients=dy)]


def of_fit(name: str, scenario: Scenario, problem: Problem) -> Prepared:
    """A layer in a model that Keras trains and evaluates: one step is an epoch of four batches."""
    model = keras.Sequential([keras.Input(problem.x.shape[1:]), layer(name, scenario, problem)])
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    x = np.concatenate([problem.x] * 4)
    y = np.zeros((*x.shape[:2], scenario.directions * scenario.units), np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(scenario.batch).cache()

    def step() -> list[np.ndarray]:
        return [np.asarray(model.fit(data, shuffle=False, verbose=0).history["loss"])]

    return Prepared(step, list)


def layers(scenarios: Sequence[Scenario], budget: float) -> Iterator[list[Row]]:
    """A layer eagerly, in a graph, and in `fit`."""
    for scenario in scenarios:
        problem = make_problem(scenario, seeded=True)
        for mode in ("eager", "graph"):
            for training in (True, False):
                both = {name: of_layer(name, scenario, problem, training, mode) for name in CLASSES}
                yield compare(f"{mode} {scenario}", training, both, worst(problem.mask), budget)
        if not scenario.bidirectional:
            fit = {name: of_fit(name, scenario, problem) for name in CLASSES}
            yield compare(f"fit {scenario}", True, fit, worst(None), budget)


def models(scenarios: Sequence[Scenario], budget: float) -> Iterator[list[Row]]:
    """The models of the worked example, on a batch of reviews as long as that of the padded scenario."""
    scenario = next(each for each in scenarios if each.padded)
    ids, labels = ids_and_labels(scenario, VOCABULARY)
    for model in MODELS:
        for masked in (True, False):
            made = {
                name: MODELS[model](VOCABULARY, "fast" if name == FAST else "keras", mask=masked, seed=0)
                for name in CLASSES
            }
            what = f"{model} model, padding {'masked' if masked else 'not masked'}"
            predict = {name: Prepared(_predicts(each, ids), list) for name, each in made.items()}
            yield compare(what, False, predict, worst(None), budget)
            fit = {name: Prepared(_trains(each, ids, labels), lambda loss: loss) for name, each in made.items()}
            yield compare(what, True, fit, apart, budget, together=False)


def _predicts(model: keras.Model, ids: np.ndarray) -> Callable[[], list[np.ndarray]]:
    return lambda: [np.asarray(model.predict_on_batch(ids))]


def _trains(model: keras.Model, ids: np.ndarray, labels: np.ndarray) -> Callable[[], Any]:
    return lambda: model.train_on_batch(ids, labels)


def apart(losses: dict[str, Any]) -> float:
    """How far the losses of a step are apart, which dropout may be the reason of in the stacked model."""
    first = {name: float(np.asarray(loss).flat[0]) for name, loss in losses.items()}
    return abs(first[FAST] - first[KERAS]) / abs(first[KERAS])


def jit(scenarios: Sequence[Scenario], budget: float) -> Iterator[list[Row]]:
    """A layer under `jit_compile=True`; Keras's is what it is without, where XLA has no cuDNN."""
    for scenario in scenarios:
        problem = make_problem(scenario, seeded=True)
        for training in (True, False):
            both = {
                KERAS: of_layer(KERAS, scenario, problem, training, "graph"),
                FAST: of_layer(FAST, scenario, problem, training, "jit"),
            }
            what = f"FastLSTM under jit_compile {scenario}"
            yield compare(what, training, both, worst(problem.mask), budget)


def devices(scenarios: Sequence[Scenario], budget: float) -> Iterator[list[Row]]:
    """A layer where `tf.device` and a strategy put it."""
    scenario = scenarios[0]
    problem = make_problem(scenario, seeded=True)
    gpu = keras_tensorflow.device() is not None
    name = "GPU:0" if gpu else "CPU:0"
    for place in dict.fromkeys((name, "CPU:0")):
        with tf.device(place):
            both = {each: of_layer(each, scenario, problem, True, "graph") for each in CLASSES}
            rows = compare(f"tf.device {place} {scenario}", True, both, worst(problem.mask), budget)
        yield rows
    strategy = tf.distribute.MirroredStrategy([name])
    both = {}
    for each in CLASSES:
        with strategy.scope():
            made = layer(each, scenario, problem)
        both[each] = keras_tensorflow.prepared(_replicated(strategy, made, problem))
    yield compare(f"MirroredStrategy {name} {scenario}", True, both, worst(problem.mask), budget)


def _replicated(strategy: Any, made: keras.Layer, problem: Problem) -> Callable[[], list[Any]]:
    x, dy = tf.constant(problem.x), tf.constant(problem.dy)
    compiled = tf.function(lambda x, dy: strategy.run(differentiated, args=(made, x, None, dy)), autograph=False)
    return lambda: compiled(x, dy)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("gpu_tensorflow", __doc__)
    options.add_argument("what", nargs="+", choices=WHATS, help="what to measure")
    options.add_argument("--output", type=Path, required=True, help="file of results to append to")
    options.add_argument("--deadline", type=float, default=float("inf"), help="seconds since the epoch")
    options.add_argument("--quick", action="store_true", help="small sizes, without a GPU too: to see that it works")
    given = parsed(options, arguments)
    if keras_tensorflow.device() is None and not given.quick:
        options.error("expected a GPU that TensorFlow sees, found none")
    wrong = 0
    scenarios, budget = (QUICK, 0.0) if given.quick else (SCENARIOS, BUDGET_SECONDS)
    header = results.header(given.command)
    with results.writing(given.output, lambda: header, append=True) as add:
        for what in given.what:
            for rows in globals()[what](scenarios, budget):
                wrong += not rows[0].facts.get("right", False)
                for row in rows:
                    add(row)
                if time.time() > given.deadline:
                    return int(wrong > 0)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
