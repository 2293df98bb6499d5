"""Keras on PyTorch: a layer as `fit` and `predict` call it, eagerly."""

from collections.abc import Callable
from typing import Any

import keras
import torch

from lstm_fast.bench import pytorch
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem

Launch = Callable[[], list[Any]]


def device() -> str | None:
    """Returns the name of the GPU that Keras puts tensors on, None if it is the CPU."""
    place = keras.ops.zeros(()).device
    return torch.cuda.get_device_name(place) if place.type == "cuda" else None


def prepared(launch: Launch) -> Prepared:
    """On a GPU a step returns when it is on its way, and the clock waits."""
    return Prepared(launch, pytorch.to_numpy, pytorch.clock("cpu" if device() is None else "cuda"))


def launcher(layer: keras.Layer, problem: Problem, training: bool, jit: bool) -> Launch:  # noqa: ARG001
    """Calls and differentiates the layer."""
    dtype = layer.compute_dtype
    x = keras.ops.convert_to_tensor(problem.x, dtype=dtype).requires_grad_(training)
    mask = None if problem.mask is None else keras.ops.convert_to_tensor(problem.mask)
    given = None if problem.dy is None else keras.ops.convert_to_tensor(problem.dy, dtype=dtype)
    weights = [variable.value for variable in layer.trainable_variables]

    def infer() -> list[Any]:
        with torch.no_grad():
            return [layer(x, mask=mask)]

    def train() -> list[Any]:
        y = layer(x, mask=mask, training=True)
        dy = y.detach() * (2 / y.numel()) if given is None else given
        return [y, *torch.autograd.grad(y, [x, *weights], dy)]

    return train if training else infer
