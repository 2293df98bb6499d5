"""The check before a contender is timed on a GPU: its results are exact, and ours come from our own kernels.

Exact is what torch.nn.LSTM computes in float64 on that device from the same numbers; `test_gpu.py` compares that with
`lstm_fast.reference`.
"""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.contenders import Contender
from benchmarks.peers import gpu_torch
from lstm_fast import _core
from lstm_fast.backends import cuda
from lstm_fast.bench.parity import TOLERANCE, errors
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario, make_problem


@functools.lru_cache(maxsize=1)  # the contenders of a group follow each other
def problem_of(scenario: Scenario, dtype: torch.dtype) -> Problem:
    """The numbers that all contenders get, which the dtype can represent."""
    return make_problem(scenario, seeded=True).rounded(lambda a: torch.from_numpy(a).to(dtype).float().numpy())


@functools.lru_cache(maxsize=1)
def exact(scenario: Scenario, dtype: torch.dtype, device: str) -> Sequence[np.ndarray]:
    """Returns y and all gradients, float64."""
    problem = problem_of(scenario, dtype)
    prepared = gpu_torch.prepare(problem, True, precision="float64", device=device)
    return prepared.results(prepared.step())


def prepare(contender: Contender, scenario: Scenario, training: bool, precision: str, device: str) -> Prepared:
    """Returns the contender at work, warmed up; AssertionError if it does not compute what it should."""
    dtype = gpu_torch.DTYPES[precision]
    problem = problem_of(scenario, dtype)
    prepared = contender.prepare(problem, training)
    before = fused_calls(device)
    outputs = prepared.step()
    calls = contender.fused_calls(scenario)
    done = {name: count - before[name] for name, count in fused_calls(device).items()}
    found = prepared.results(outputs)
    assert done == {"forward": calls, "backward": calls * training}, f"{contender.name}: passes of ours: {done}"
    expected = exact(scenario, dtype, device)[: len(found)]
    assert len(expected) == (2 + 3 * scenario.directions if training else 1)
    for name, error in errors(found, expected, problem.mask):
        text = f"{contender.name}: {name} is off by {error:.2g} of its norm, {TOLERANCE[precision]:.2g} allowed"
        assert error <= TOLERANCE[precision], text  # NaN is not
    return prepared


def fused_calls(device: str) -> dict[str, int]:
    if device == "cpu":
        return dict(_core.fused_calls())
    try:
        return dict(cuda().fused_calls())
    except RuntimeError:  # not built; the others can still be measured
        return {"forward": 0, "backward": 0}
