"""PyTorch's nn.LSTM.

In float32 on the CPU it runs oneDNN's LSTM primitive in both passes: torch.profiler of PyTorch 2.13 shows
aten::mkldnn_rnn_layer and MkldnnRnnLayerBackward0. With `onednn=False`, and for packed sequences anyhow, it runs
PyTorch's own loop over matrix products and fused pointwise operations. Training on packed sequences takes time that
grows faster than their length (on one core at 64,T,64,64: 60 ms at T=170, 3.2 s at T=1354). So `packed=False` computes
the padding as well, by oneDNN, and blanks it out: right where it comes last, as it does for one forward direction.
On a GPU it runs cuDNN's, where cuDNN takes the dtype.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem


def clock(device: str) -> Callable[[], float]:
    """A clock of the device's own, in seconds: the time between events that are put behind what was started."""
    if device == "cpu":
        return time.perf_counter
    last, seconds = None, 0.0

    def now() -> float:
        nonlocal last, seconds
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        event.synchronize()
        if last is not None:
            seconds += 1e-3 * last.elapsed_time(event)
        last = event
        return seconds

    return now


def to_numpy(arrays: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Returns float32 arrays, of float64 float64 ones."""
    wide = (a.detach() if a.dtype == torch.float64 else a.detach().float() for a in arrays)
    return [a.cpu().numpy() for a in wide]


def lstm(problem: Problem, dtype: torch.dtype, device: str) -> torch.nn.LSTM:
    """Returns the layer with the weights of the problem."""
    features, units = problem.x.shape[2], problem.weights[0].recurrent_kernel.shape[0]
    two_way = len(problem.weights) == 2
    layer = torch.nn.LSTM(features, units, batch_first=True, bidirectional=two_way, device=device, dtype=dtype)
    # In PyTorch's order, per direction: weight_ih [4H, D], weight_hh [4H, H], bias_ih, bias_hh [4H]; gates i, f, g, o,
    # which is Keras's order. One of the two biases stays zero.
    parameters = list(layer.parameters())
    with torch.no_grad():
        for n, (kernel, recurrent_kernel, bias) in enumerate(problem.weights):
            values = kernel.T, recurrent_kernel.T, bias, np.zeros_like(bias)
            for parameter, value in zip(parameters[4 * n : 4 * n + 4], values, strict=True):
                parameter.copy_(torch.from_numpy(value))
    return layer


def as_keras(gradients: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the gradients of the parameters of `lstm` as those of Keras's weights."""
    directions = (gradients[n : n + 4] for n in range(0, len(gradients), 4))
    return [array for dw_ih, dw_hh, db, _ in directions for array in (dw_ih.T, dw_hh.T, db)]


def packed_lstm(
    layer: torch.nn.LSTM, lengths: np.ndarray | None, timesteps: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns what computes y, of rows of different lengths as packed sequences."""
    if lengths is None:
        return lambda x: layer(x)[0]
    on_cpu = torch.from_numpy(lengths)  # wherever the layer is

    def forward(x: torch.Tensor) -> torch.Tensor:
        y, _ = layer(pack_padded_sequence(x, on_cpu, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=timesteps)[0]

    return forward


def prepare(
    problem: Problem,
    training: bool,
    *,
    onednn: bool = True,
    packed: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
) -> Prepared:
    """A contender that computes and keeps numbers in `dtype`."""
    numbers = getattr(torch, dtype)
    layer = lstm(problem, numbers, device)
    parameters = list(layer.parameters())
    x = torch.from_numpy(problem.x).to(device, numbers).requires_grad_(training)
    given = None if problem.dy is None else torch.from_numpy(problem.dy).to(device, numbers)
    mask = None if problem.mask is None or packed else torch.from_numpy(problem.mask[..., None]).to(device)
    compute = packed_lstm(layer, problem.lengths if packed else None, problem.x.shape[1])

    def forward() -> torch.Tensor:
        return compute(x) if mask is None else compute(x) * mask

    def step() -> list[torch.Tensor]:
        with contextlib.nullcontext() if onednn else torch.backends.mkldnn.flags(enabled=False):
            if not training:
                with torch.inference_mode():
                    return [forward()]
            y = forward()
            dy = y.detach() * (2 / y.numel()) if given is None else given
            return [y, *torch.autograd.grad(y, [x, *parameters], dy)]

    def results(arrays: list[torch.Tensor]) -> list[Any]:
        found = to_numpy(arrays)
        return [*found[:2], *as_keras(found[2:])]

    return Prepared(step, results, clock(device))
