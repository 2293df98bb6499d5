"""What is timed: scenarios (shape, directions, padding), the layers that compete in each, and their work."""

import functools
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import lstm_fast
from benchmarks import BASELINE
from lstm_fast import FastBidirectional, FastLSTM

# Share of the timesteps that is padding where the IMDB reviews are padded to the longest of their batch of 64.
IMDB_PADDING = 0.746


@dataclass(frozen=True)
class Scenario:
    """Shape and kind of one group of benchmarks."""

    batch: int
    time: int
    features: int
    units: int
    bidirectional: bool = False
    padded: bool = False

    def __str__(self) -> str:
        kind = " bidirectional" * self.bidirectional + " padded" * self.padded
        return f"{self.batch},{self.time},{self.features},{self.units}{kind}"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Real timesteps of each row: the longest fills the batch, the others average to the padding of IMDB."""
        if not self.padded:
            return np.full(self.batch, self.time)
        raw = np.random.default_rng(0).gamma(2.0, size=self.batch)
        lengths = raw / raw.sum() * self.batch * self.time * (1 - IMDB_PADDING)
        lengths[np.argmax(raw)] = self.time
        return np.clip(lengths, 1, self.time).astype(int)

    def flop(self, training: bool) -> int:
        """Multiplications and additions of the matrix products, at real timesteps; backward has twice those."""
        forward = 8 * self.directions * int(self.lengths.sum()) * self.units * (self.features + self.units)
        return 3 * forward if training else forward

    def bytes(self, training: bool) -> int:
        """Least traffic to and from memory: inputs, outputs and weights once, with gradients twice."""
        steps = int(self.lengths.sum())
        weights = 4 * self.units * (self.features + self.units + 1) * self.directions
        forward = 4 * (steps * (self.features + self.directions * self.units) + weights)
        return 2 * forward if training else forward


@dataclass(frozen=True)
class Contender:
    """A layer and the way it is compiled."""

    name: str
    make: Callable[[int], keras.Layer]
    jit: bool = False
    fused_calls: int = 0  # of the kernels, per pass


def _sequences(layer_class: type[keras.layers.LSTM]) -> Callable[[int], keras.layers.LSTM]:
    return functools.partial(layer_class, return_sequences=True)


def _both_ways(wrapper: type[keras.Layer], layer_class: type[keras.layers.LSTM]) -> Callable[[int], keras.Layer]:
    return lambda units: wrapper(layer_class(units, return_sequences=True))


CONTENDERS: dict[bool, Sequence[Contender]] = {
    False: (
        Contender(BASELINE, _sequences(keras.layers.LSTM)),
        Contender("Keras XLA", _sequences(keras.layers.LSTM), jit=True),
        Contender("FastLSTM", _sequences(FastLSTM), fused_calls=1),
    ),
    True: (
        Contender(BASELINE, _both_ways(keras.layers.Bidirectional, keras.layers.LSTM)),
        Contender("Keras XLA", _both_ways(keras.layers.Bidirectional, keras.layers.LSTM), jit=True),
        Contender("FastBidirectional", _both_ways(FastBidirectional, FastLSTM), fused_calls=1),
    ),
}
SCENARIOS = (
    Scenario(64, 256, 64, 64),
    Scenario(64, 256, 128, 32),
    Scenario(64, 100, 128, 256),
    Scenario(32, 100, 512, 512),
    Scenario(1, 100, 128, 128),
    Scenario(256, 50, 128, 128),
    Scenario(64, 1354, 64, 64),
    Scenario(64, 1354, 64, 64, padded=True),
    Scenario(64, 256, 64, 64, bidirectional=True),
    Scenario(64, 1354, 64, 64, bidirectional=True, padded=True),
)
SMOKE_SCENARIOS = (Scenario(3, 5, 4, 6), Scenario(3, 5, 4, 6, bidirectional=True, padded=True))


def make_step(scenario: Scenario, contender: Contender, training: bool) -> Callable[[], list[np.ndarray]]:
    """A call without arguments: the forward pass, or outputs and all gradients. All contenders get the same numbers."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.standard_normal((scenario.batch, scenario.time, scenario.features)), tf.float32)
    mask = tf.sequence_mask(scenario.lengths, scenario.time) if scenario.padded else None
    layer = contender.make(scenario.units)
    layer.build(x.shape)
    layer.set_weights([rng.standard_normal(w.shape) / np.sqrt(sum(w.shape)) for w in layer.get_weights()])

    def step(x: tf.Tensor, mask: tf.Tensor | None) -> list[tf.Tensor]:
        if not training:
            return [layer(x, mask=mask)]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
            loss = tf.reduce_mean(tf.square(y))
        return [y, *tape.gradient(loss, [x, *(weight.value for weight in layer.trainable_weights)])]

    compiled = tf.function(step, jit_compile=contender.jit, autograph=False)
    return lambda: [array.numpy() for array in compiled(x, mask)]


def environment() -> dict[str, Any]:
    """What a reader of the results must know about where they come from."""
    status = lstm_fast.status()
    return {
        "isa": status.isa,
        "threads": status.threads,
        "lstm_fast": status.version,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
