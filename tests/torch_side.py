"""A way to solve a problem of `cases`: the function under the layers on PyTorch tensors, on any device."""

from typing import Any

import numpy as np
import torch
from cases import DTYPES, Problem, Solution

from lstm_fast import functional
from lstm_fast.backends import Direction


def tensor(array: np.ndarray | None, requires_grad: bool = False, device: str = "cpu") -> Any:
    if array is None:
        return None
    if array.dtype == DTYPES["bfloat16"]:
        value = torch.tensor(array.astype(np.float32), device=device).to(torch.bfloat16)
    else:
        value = torch.tensor(array, device=device)
    return value.requires_grad_(requires_grad)


def array(value: Any) -> np.ndarray:
    value = value.detach().cpu()
    return value.float().numpy().astype(DTYPES["bfloat16"]) if value.dtype == torch.bfloat16 else value.numpy()


def solve_by_torch(problem: Problem, *, device: str = "cpu", reserve: str = "gates", backward: bool = True) -> Solution:
    """Outputs and gradients; `reserve` says what the forward pass keeps for the backward pass."""
    directions = [
        Direction(*(tensor(column[n], device=device) for column in problem.kernel_inputs[2:]))
        for n in range(len(problem.kernels))
    ]
    leaves = [tensor(problem.x, backward, device)]
    for direction in directions:
        leaves += [value.requires_grad_(backward) for value in direction[:5] if value is not None]
    y, h, c = functional.run(
        leaves[0],
        tensor(problem.mask, device=device),
        directions,
        **problem.options,
        recompute=reserve == "recompute",
        training=reserve != "none",
    )
    outputs = [y if problem.return_sequences else y[:, 0], *h, *c]
    found = [array(output) for output in outputs]
    n = len(directions)
    solution = Solution(found[0], found[1 : n + 1], found[n + 1 :])
    if not backward:
        return solution
    dy, dh_n, dc_n = problem.gradients
    seeds = [tensor(value, device=device) for value in (dy, *dh_n, *dc_n)]
    dx, *rest = map(array, torch.autograd.grad(outputs, leaves, seeds))
    gradients = iter(rest)
    by_direction = [[None if value is None else next(gradients) for value in direction[:5]] for direction in directions]
    return Solution(solution.y, solution.h_n, solution.c_n, dx, *map(list, zip(*by_direction, strict=True)))
