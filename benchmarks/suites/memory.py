"""Peak memory of training: a step of the single IMDB model, in a fresh process per contender."""

from benchmarks import FAST, KERAS_LAYER, worker
from benchmarks.results import Row
from benchmarks.scenarios import IMDB, VOCABULARY
from benchmarks.suites import Case, Settings
from lstm_fast.bench.memory import peak_bytes, reset_peak

CONTENDERS = (KERAS_LAYER, FAST, f"{FAST}, recompute")
QUICK = 8, 50
STEPS = 3  # the allocator has then seen everything that it will reuse


def cases(settings: Settings) -> list[Case]:
    batch, time = QUICK if settings.quick else (IMDB.batch, IMDB.time)
    name = f"single IMDB model, batch {batch}, {time} timesteps"
    return [Case("memory", name, "training", (contender, batch, time)) for contender in CONTENDERS]


def measure(case: Case, settings: Settings) -> list[Row]:  # noqa: ARG001 - memory does not take long
    return [case.row(case.what[0], peak_bytes=worker.once(rise_of_peak, *case.what))]


def rise_of_peak(contender: str, batch: int, time: int) -> int:
    """By how many bytes training steps raise the peak over a process that has trained on a tiny batch."""
    import numpy as np
    import tensorflow as tf
    from keras_side import fused

    from lstm_fast import FastBidirectional
    from lstm_fast.text.models import single

    fast = contender != KERAS_LAYER
    model = single(VOCABULARY, "fast" if fast else "keras", seed=0)
    for layer in model.layers:
        if isinstance(layer, FastBidirectional):
            layer.forward_layer.recompute = contender.endswith("recompute")
    # The function is traced once, for both shapes.
    ids, labels = tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None,), tf.int64)

    @tf.function(input_signature=[ids, labels])
    def step(ids: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(ids, labels, model(ids, training=True))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    rng = np.random.default_rng(0)

    def train(batch: int, time: int) -> None:
        ids = tf.constant(rng.integers(1, VOCABULARY, (batch, time)))  # 0 would be padding
        with fused(forward=int(fast), backward=int(fast)):
            step(ids, tf.constant(rng.integers(0, 2, batch))).numpy()

    train(2, 3)
    reset_peak()
    before = peak_bytes()
    for _ in range(STEPS):
        train(batch, time)
    return peak_bytes() - before
