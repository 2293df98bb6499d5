"""Peak memory of training: a step of the single IMDB model, in a fresh process per contender.

python -m benchmarks.memory --output memory.json
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

import benchmarks  # noqa: F401 - the environment, before Keras is imported
from benchmarks.command import parser, write_json
from lstm_fast.bench.memory import peak_bytes, reset_peak

CONTENDERS = ("keras.layers.LSTM", "FastLSTM", "FastLSTM, recompute")
BATCH, TIME, VOCABULARY = 64, 1354, 8185  # the longest review of an IMDB batch, the entries of `subwords8k`
ROOT = Path(__file__).parents[1]
STEPS = 3  # the allocator has then seen everything that it will reuse


def measure(contender: str, batch: int, time: int) -> int:
    """Returns by how many bytes training steps raise the peak over a process that has trained on a tiny batch."""
    import numpy as np
    import tensorflow as tf
    from keras_side import fused

    from lstm_fast import FastBidirectional
    from lstm_fast.text.models import single

    fast = contender != "keras.layers.LSTM"
    model = single(VOCABULARY, "fast" if fast else "keras", seed=0)
    for layer in model.layers:
        if isinstance(layer, FastBidirectional):
            layer.forward_layer.recompute = contender.endswith("recompute")
    # One tracing for both shapes.
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


def in_fresh_process(contender: str, batch: int, time: int) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", "--measure", contender, str(batch), str(time)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if finished.returncode:
        raise RuntimeError(f"{contender}: {finished.stderr}")
    return int(finished.stdout)


def run(batch: int = BATCH, time: int = TIME) -> dict[str, Any]:
    from benchmarks.environment import environment

    rows = [
        {"contender": contender, "bytes": in_fresh_process(contender, batch, time)}
        for contender in track(CONTENDERS, description="memory")
    ]
    return {"environment": environment(), "memory": {"batch": batch, "time": time, "peak": rows}}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("memory", __doc__)
    options.add_argument("--output", type=Path, default=Path("memory.json"), help="file to write")
    options.add_argument("--measure", nargs=3, metavar=("CONTENDER", "BATCH", "TIME"), help="in this process; print it")
    given = options.parse_args(arguments)
    if given.measure:
        contender, batch, time = given.measure
        print(measure(contender, int(batch), int(time)))
    else:
        write_json(given.output, run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
