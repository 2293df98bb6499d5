"""lstm_fast on a GPU, through PyTorch."""

import os

import torch

from benchmarks.peers.gpu_torch import DTYPES, FORCED_PRECISION, prepared
from lstm_fast import functional
from lstm_fast.backends import Direction, cuda
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem
from lstm_fast.settings import config


def prepare(
    problem: Problem, training: bool, *, precision: str, device: str, forced: str | None = None, every: bool = False
) -> Prepared:
    """`forced` is a precision of the recurrence that PyTorch has no switch for. `every`: no timestep is left out."""
    if every:
        config.skip_repeats = False  # until arithmetic() of gpu_torch ends, as `forced`
    dtype = DTYPES[precision]
    weights = [[torch.from_numpy(array).to(device, dtype) for array in direction] for direction in problem.weights]
    parameters = [weight.requires_grad_(training) for direction in weights for weight in direction]
    mask = None if problem.mask is None else torch.from_numpy(problem.mask).to(device)
    directions = [Direction(*direction) for direction in weights]

    def forward(x: torch.Tensor) -> torch.Tensor:
        y, _, _ = functional.run(
            x,
            mask,
            directions,
            return_sequences=True,
            zero_output_for_mask=True,
            recompute=False,
            training=training,
        )
        return y

    if forced is not None:
        os.environ[FORCED_PRECISION] = forced  # until arithmetic() of gpu_torch ends
    about = {} if device == "cpu" else cut(problem, training, str(dtype).removeprefix("torch."), forced or precision)
    return prepared(problem, training, dtype, device, forward, parameters, list, **about)


def cut(problem: Problem, training: bool, dtype: str, precision: str) -> dict[str, dict[str, object]]:
    """How the passes are cut for the GPU."""
    batch, units = problem.x.shape[0], problem.weights[0].recurrent_kernel.shape[0]
    numbers = precision if precision in ("tf32", "tf32x3") else "exact"
    passes = cuda().describe(0, dtype, numbers, batch, units, len(problem.weights), False)
    return {"cut": dict(passes) if training else {"forward": passes["forward"]}}
