"""PyTorch: see the package."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import torch

MODES = ("eager",)
OWN_RANDOM = ()
EVERY = 1
REACHED = {"float64": "float32"}  # keras.ops.matmul computes float64 in float32 (Keras 3.15)


def precision(dtype: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG001
    return contextlib.nullcontext()


def run(
    call: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    variables: Sequence[Any],
    states: Sequence[Any],  # noqa: ARG001
    seeds: Callable[[Any], np.ndarray] | None,
    mode: str,  # noqa: ARG001
) -> tuple[list[Any], list[Any]]:
    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    if seeds is None:
        with torch.no_grad():
            return keras.tree.flatten(call(*tensors)), []
    floating = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    outputs = keras.tree.flatten(call(*tensors))
    given = [keras.ops.convert_to_tensor(seeds(output), dtype=output.dtype) for output in outputs]
    sources = [*floating, *(variable.value for variable in variables)]
    return outputs, list(torch.autograd.grad(outputs, sources, given))
