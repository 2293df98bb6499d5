"""The least time that a pass can take on a GPU. It is a model; two rates in it are measured.

A pass takes at least as long as each of these alone:

- its timesteps one after the other, each of which takes a latency that depends on H only (two of them in training: one
  forward, one backward);
- its multiplications and additions, at the rate of the largest matrix product that the device does in that precision;
- its inputs, outputs and weights once, gradients likewise, at the rate at which the device copies memory.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.peers.gpu_torch import DTYPES, arithmetic, clock
from lstm_fast.bench.scenarios import Scenario

# Microseconds of a forward timestep by H, at B = 64 on Hopper, whatever the numbers are. The design estimated the
# exchange of h between multiprocessors, the gates and the barriers. Between them it is straight on logarithmic axes.
LATENCY = {64: 0.15, 128: 0.3, 256: 0.45, 512: 0.7, 1024: 1.8}
SIZE = {"cpu": 64, "cuda": 8192}  # rows and columns
BYTES = {"cpu": 1 << 16, "cuda": 1 << 30}
ROUNDS = 5


class Floor(NamedTuple):
    """Seconds of each of the three; see above."""

    latency: float
    products: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self)


def floor(scenario: Scenario, training: bool, precision: str, device: str) -> Floor:
    passes = 2 if training else 1
    itemsize = DTYPES[precision].itemsize
    return Floor(
        1e-6 * latency(scenario.units) * scenario.time * passes,
        scenario.flop(training) / flop_rate(precision, device),
        scenario.bytes(training) * itemsize / 4 / byte_rate(device),
    )


def latency(units: int) -> float:
    """Microseconds of a timestep; outside the table what is nearest in it."""
    known = np.log2([list(LATENCY), list(LATENCY.values())])
    return float(2 ** np.interp(np.log2(units), *known))


@functools.cache
def flop_rate(precision: str, device: str) -> float:
    """Multiplications and additions per second of a large product of random matrices."""
    size = SIZE[device] // 2 if precision == "float32" else SIZE[device]
    a, b = (torch.randn(size, size, device=device).to(DTYPES[precision]) for _ in range(2))
    with arithmetic(precision):
        return 2 * size**3 / _seconds(lambda: torch.mm(a, b), device)


@functools.cache
def byte_rate(device: str) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.randn(BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _seconds(run: Callable[[], Any], device: str) -> float:
    now, times = clock(device), []
    for _ in range(2):
        run()
    for _ in range(ROUNDS):
        start = now()
        run()
        times.append(now() - start)
    return max(float(np.median(times)), 1e-9)
