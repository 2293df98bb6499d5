"""What is computed: scenarios (shape, directions, padding), their work, and the numbers that all contenders get."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

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

    @property
    def real_share(self) -> float:
        """Share of the timesteps that is not padding."""
        return float(self.lengths.mean()) / self.time

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


class Weights(NamedTuple):
    """Parameters of one direction in Keras's layout, gate order i, f, c, o."""

    kernel: np.ndarray  # [D, 4H]
    recurrent_kernel: np.ndarray  # [H, 4H]
    bias: np.ndarray  # [4H]


class Problem(NamedTuple):
    """The numbers of a scenario, float32."""

    x: np.ndarray  # [B, T, D]
    weights: tuple[Weights, ...]  # one per direction, forward first
    lengths: np.ndarray | None  # [B], real timesteps; None: every timestep is real
    dy: np.ndarray | None = None  # [B, T, N * H], incoming gradient of benchmarks on a GPU

    @property
    def mask(self) -> np.ndarray | None:
        """[B, T], True where the timestep is real."""
        return None if self.lengths is None else np.arange(self.x.shape[1]) < self.lengths[:, None]


def make_problem(scenario: Scenario) -> Problem:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((scenario.batch, scenario.time, scenario.features)).astype(np.float32)
    gates = 4 * scenario.units
    shapes = Weights((scenario.features, gates), (scenario.units, gates), (gates,))
    weights = tuple(
        Weights(*((rng.standard_normal(shape) / np.sqrt(sum(shape))).astype(np.float32) for shape in shapes))
        for _ in range(scenario.directions)
    )
    return Problem(x, weights, scenario.lengths if scenario.padded else None)


SCENARIOS = (
    Scenario(64, 256, 64, 64),
    Scenario(64, 256, 128, 32),
    Scenario(64, 100, 128, 256),
    Scenario(32, 100, 512, 512),
    Scenario(1, 100, 128, 128),
    Scenario(256, 50, 128, 128),
    Scenario(64, 1354, 64, 64),
    Scenario(17, 33, 50, 100),
    Scenario(64, 1354, 64, 64, padded=True),
    Scenario(64, 256, 64, 64, bidirectional=True),
    Scenario(1, 100, 128, 128, bidirectional=True),
    Scenario(64, 1354, 64, 64, bidirectional=True, padded=True),
)
SMOKE_SCENARIOS = (
    Scenario(3, 5, 4, 6),
    Scenario(3, 5, 4, 6, padded=True),
    Scenario(3, 5, 4, 6, bidirectional=True),
    Scenario(3, 5, 4, 6, bidirectional=True, padded=True),
)

# On a GPU: numbers in memory and, of float32, how products are computed.
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
IMDB = Scenario(64, 1354, 64, 64, bidirectional=True, padded=True)  # a batch of the single model
GPU_SCENARIOS = (
    *(Scenario(64, 256, size, size) for size in (32, 64, 128, 192, 256, 512, 1024)),
    IMDB,
    Scenario(16, 1024, 768, 768),
    *(Scenario(batch, 256, size, size) for size in (128, 512) for batch in (1, 16, 256)),
    Scenario(64, 256, 128, 128, bidirectional=True),
    Scenario(64, 256, 256, 256, padded=True),
)
