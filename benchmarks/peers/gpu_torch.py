"""torch.nn.LSTM on a GPU, cuDNN's where cuDNN takes the dtype, and what all contenders through PyTorch share."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.pytorch import as_keras, clock, lstm, packed_lstm, to_numpy
from lstm_fast.bench.scenarios import Problem
from lstm_fast.settings import config

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
FORCED_PRECISION = "LSTM_FAST_PRECISION"
MAX_COPIES = 32  # of the input


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Products of float32 are exact inside, or TF32: of cuBLAS, of cuDNN, and so of lstm_fast, unless it is forced."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    tf32: Any = precision == "tf32"
    switches, name = [matmul, cudnn], "allow_tf32"
    # From PyTorch 2.9 on; whoever sets these must not touch the old ones.
    if hasattr(torch.backends, "fp32_precision"):
        switches, name, tf32 = [matmul, cudnn.rnn, cudnn.conv], "fp32_precision", "tf32" if tf32 else "ieee"
    before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, tf32)
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            setattr(switch, name, value)
        os.environ.pop(FORCED_PRECISION, None)
        config.skip_repeats = None


def copies(device: str, size: int) -> int:
    """How many arrays of so many bytes to use by turns, so that none is in the L2 cache when its turn comes."""
    if device == "cpu":
        return 2
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MAX_COPIES, max(1, -(-2 * cache // size)))


def prepared(
    problem: Problem,
    training: bool,
    dtype: torch.dtype,
    device: str,
    forward: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    as_keras: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    capture: bool = True,
    **about: Any,
) -> Prepared:
    """A contender that computes y as `forward(x)`; `as_keras` turns gradients of the parameters into Keras's."""
    first = torch.from_numpy(problem.x).to(device, dtype)
    inputs = [first.clone() for _ in range(copies(device, first.nbytes))]
    for x in inputs:
        x.requires_grad_(training)
    places = itertools.cycle(inputs)
    dy = torch.from_numpy(problem.dy).to(device, dtype) if training else None

    def step() -> list[torch.Tensor]:
        x = next(places)
        if not training:
            with torch.inference_mode():
                return [forward(x)]
        y = forward(x)
        return [y, *torch.autograd.grad(y, [x, *parameters], dy)]

    def results(arrays: Sequence[torch.Tensor]) -> list[np.ndarray]:
        found = to_numpy(arrays)
        return [*found[:2], *as_keras(found[2:])] if training else found

    def graph() -> Callable[[], Any]:
        # Work that is done only once, such as loading a kernel, must be done before.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            outputs = step()
        return lambda: (captured.replay(), outputs)

    can_capture = capture and device != "cpu"
    return Prepared(step, results, clock(device), graph if can_capture else None, about)


def prepare(problem: Problem, training: bool, *, precision: str, device: str) -> Prepared:
    dtype = DTYPES[precision]
    layer = lstm(problem, dtype, device)
    forward = packed_lstm(layer, problem.lengths, problem.x.shape[1])
    parameters = list(layer.parameters())
    sample = torch.zeros((1, 1, problem.x.shape[2]), device=device, dtype=dtype)
    about = {"kernel": _kernel(layer(sample)[0])}
    # Packing copies lengths to the device, which a graph cannot contain.
    return prepared(
        problem, training, dtype, device, forward, parameters, as_keras, capture=problem.lengths is None, **about
    )


def _kernel(y: torch.Tensor) -> str:
    """Which of PyTorch's implementations computed y: the name of the backward operation that has to do with RNNs."""
    names, nodes = [], [y.grad_fn]
    while nodes and len(names) < 100:
        node = nodes.pop(0)
        if node is not None:
            names.append(type(node).__name__)
            nodes += [parent for parent, _ in node.next_functions]
    return next((name for name in names if any(word in name.lower() for word in ("rnn", "lstm"))), "native")
