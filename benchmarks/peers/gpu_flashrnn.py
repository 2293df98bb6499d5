"""FlashRNN's LSTM with one head, as fused as it is: the recurrence in one kernel, after a product by PyTorch."""

from collections.abc import Sequence

import numpy as np
import torch
from flashrnn import flashrnn

from benchmarks.peers.gpu_torch import DTYPES, prepared
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem


def prepare(problem: Problem, training: bool, *, precision: str, device: str) -> Prepared:
    dtype = DTYPES[precision]
    backend = "vanilla" if device == "cpu" else "cuda_fused"
    ((kernel, recurrent_kernel, bias),) = problem.weights
    units = recurrent_kernel.shape[0]
    # Gates i, f, z, o, which is Keras's order, come first, then heads; R is [G, heads, H of the gate, H of the state].
    values = kernel, recurrent_kernel.reshape(units, 4, 1, units).transpose(1, 2, 3, 0), bias.reshape(4, 1, units)
    parameters = [torch.from_numpy(np.ascontiguousarray(value)).to(device, dtype) for value in values]
    w, r, b = (parameter.requires_grad_(training) for parameter in parameters)

    def forward(x: torch.Tensor) -> torch.Tensor:
        projected = (x @ w).unflatten(2, (4, 1, units))
        states, _ = flashrnn(projected, r, b, function="lstm", backend=backend, dtype=str(dtype).removeprefix("torch."))
        return states[0].flatten(2)  # h [B, T, heads, H]

    def as_keras(gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
        dw, dr, db = gradients
        return [dw, dr.transpose(3, 0, 1, 2).reshape(units, -1), db.ravel()]

    return prepared(problem, training, dtype, device, forward, parameters, as_keras)
