"""What is computed: scenarios (shape, directions, padding), their work, and the numbers that all contenders get."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# Share of the timesteps that is padding where the IMDB reviews are padded to the longest of their batch of 64.
IMDB_PADDING = 0.746


@dataclass(frozen=True)
class Scenario:
    """Shape and kind of one group of benchmarks.

    Attributes:
        padding: the share of the timesteps that is wanted.
        repeating: whether the padding is not masked: one input again and again, which is computed like any other.
    """

    batch: int
    time: int
    features: int
    units: int
    bidirectional: bool = False
    padding: float = 0.0
    repeating: bool = False

    def __str__(self) -> str:
        kind = " bidirectional" * self.bidirectional + " padded" * self.padded + " repeating" * self.repeating
        return f"{self.batch},{self.time},{self.features},{self.units}{kind}"

    @property
    def directions(self) -> int:
        """1 or 2."""
        return 2 if self.bidirectional else 1

    @property
    def padded(self) -> bool:
        """Whether rows are of different lengths."""
        return self.padding > 0 and not self.repeating

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Real timesteps of each row, int `[B]`: the longest fills the batch, and they average to the padding."""
        if not self.padded:
            return np.full(self.batch, self.time)
        raw = np.random.default_rng(0).gamma(2.0, size=self.batch)
        shares = raw / raw.max()
        # The higher their power, the shorter all but the longest.
        powers = np.linspace(0, 32, 3201)
        paddings = [1 - float(np.mean(shares**power)) for power in powers]
        lengths = self.time * shares ** np.interp(self.padding, paddings, powers)
        return np.asarray(np.clip(np.round(lengths), 1, self.time), int)

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
    dy: np.ndarray | None = None  # [B, T, N * H], incoming gradient, zero at padding; None: that of mean(y^2)

    @property
    def mask(self) -> np.ndarray | None:
        """`[B, T]`, True where the timestep is real."""
        return None if self.lengths is None else np.arange(self.x.shape[1]) < self.lengths[:, None]

    def rounded(self, to_dtype: Callable[[np.ndarray], np.ndarray]) -> "Problem":
        """The same with numbers that another dtype can represent: what `to_dtype` makes of each array."""
        weights = tuple(Weights(*map(to_dtype, direction)) for direction in self.weights)
        return self._replace(x=to_dtype(self.x), weights=weights, dy=None if self.dy is None else to_dtype(self.dy))


def make_problem(scenario: Scenario, *, seeded: bool = False) -> Problem:
    """Returns the same random numbers every time; `seeded`: with an incoming gradient of its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((scenario.batch, scenario.time, scenario.features)).astype(np.float32)
    gates = 4 * scenario.units
    shapes: tuple[tuple[int, ...], ...] = ((scenario.features, gates), (scenario.units, gates), (gates,))  # of Weights
    weights = tuple(
        Weights(*((rng.standard_normal(shape) / np.sqrt(sum(shape))).astype(np.float32) for shape in shapes))
        for _ in range(scenario.directions)
    )
    if scenario.repeating:
        lengths = replace(scenario, repeating=False).lengths
        x[np.arange(scenario.time) >= lengths[:, None]] = x[0, 0]
    problem = Problem(x, weights, scenario.lengths if scenario.padded else None)
    if not seeded:
        return problem
    shape = (scenario.batch, scenario.time, scenario.directions * scenario.units)
    dy = np.random.default_rng(1).standard_normal(shape, np.float32)
    if problem.mask is not None:
        dy *= problem.mask[..., None]
    return problem._replace(dy=dy)


# The main shapes. The one of 1,354 timesteps is a batch of IMDB reviews.
FULL = (
    Scenario(64, 256, 64, 64),
    Scenario(64, 256, 128, 32),
    Scenario(64, 100, 128, 256),
    Scenario(32, 100, 512, 512),
    Scenario(1, 100, 128, 128),
    Scenario(256, 50, 128, 128),
    Scenario(64, 1354, 64, 64),
    Scenario(17, 33, 50, 100),
    Scenario(64, 1354, 64, 64, padding=IMDB_PADDING),
    Scenario(64, 256, 64, 64, bidirectional=True),
    Scenario(1, 100, 128, 128, bidirectional=True),
    Scenario(64, 1354, 64, 64, bidirectional=True, padding=IMDB_PADDING),
)
SHORT = (FULL[0], FULL[2], FULL[4], FULL[7], FULL[8])
