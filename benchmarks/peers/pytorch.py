"""PyTorch's nn.LSTM.

In float32 on the CPU it runs oneDNN's LSTM primitive in both passes: torch.profiler of PyTorch 2.13 shows
aten::mkldnn_rnn_layer and MkldnnRnnLayerBackward0. With `onednn=False`, and for packed sequences anyhow, it runs
PyTorch's own loop over matrix products and fused pointwise operations. Training on packed sequences takes time that
grows faster than their length (on one core at 64,T,64,64: 60 ms at T=170, 3.2 s at T=1354). So `packed=False` computes
the padding as well, by oneDNN, and blanks it out: right where it comes last, as it does for one forward direction.
"""

import contextlib
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.peers import Prepared
from benchmarks.scenarios import Problem


def prepare(problem: Problem, training: bool, *, onednn: bool = True, packed: bool = True) -> Prepared:
    x = torch.from_numpy(problem.x).requires_grad_(training)
    time, features = problem.x.shape[1:]
    units = problem.weights[0].recurrent_kernel.shape[0]
    layer = torch.nn.LSTM(features, units, batch_first=True, bidirectional=len(problem.weights) == 2)
    # In PyTorch's order, per direction: weight_ih [4H, D], weight_hh [4H, H], bias_ih, bias_hh [4H]; gates i, f, g, o,
    # which is Keras's order. One of the two biases stays zero.
    parameters = list(layer.parameters())
    with torch.no_grad():
        for n, (kernel, recurrent_kernel, bias) in enumerate(problem.weights):
            values = kernel.T, recurrent_kernel.T, bias, np.zeros_like(bias)
            for parameter, value in zip(parameters[4 * n : 4 * n + 4], values, strict=True):
                parameter.copy_(torch.from_numpy(value))
    mask = None if problem.mask is None else torch.from_numpy(problem.mask[..., None])
    lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths)

    def forward() -> torch.Tensor:
        if lengths is None:
            return layer(x)[0]
        if not packed:
            return layer(x)[0] * mask
        y, _ = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(y, batch_first=True, total_length=time)[0]

    def step() -> list[torch.Tensor]:
        with contextlib.nullcontext() if onednn else torch.backends.mkldnn.flags(enabled=False):
            if not training:
                with torch.inference_mode():
                    return [forward()]
            y = forward()
            return [y, *torch.autograd.grad(y.square().mean(), [x, *parameters])]

    def results(arrays: list[torch.Tensor]) -> list[Any]:
        y, *gradients = (array.detach().numpy() for array in arrays)
        if not training:
            return [y]
        dx, *dparameters = gradients
        directions = (dparameters[n : n + 4] for n in range(0, len(dparameters), 4))
        return [y, dx, *(array for dw_ih, dw_hh, db, _ in directions for array in (dw_ih.T, dw_hh.T, db))]

    return Prepared(step, results)
