"""A way to solve a problem of `cases`: the function under the layers on JAX arrays, on any device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import Problem, Solution

from lstm_fast import functional
from lstm_fast.backends import Direction


def solve_by_jax(problem: Problem, *, jit: bool = False, reserve: str = "gates") -> Solution:
    """Outputs and gradients; `reserve` says what the forward pass keeps for the backward pass."""
    to_jax = jax.tree.map(jnp.asarray, (problem.x, problem.mask, list(zip(*problem.kernel_inputs[2:], strict=True))))
    x, mask, directions = to_jax

    def forward(x: Any, directions: Any) -> Any:
        y, h, c = functional.run(
            x,
            mask,
            [Direction(*direction) for direction in directions],
            **problem.options,
            recompute=reserve == "recompute",
            training=reserve != "none",
        )
        return y if problem.return_sequences else y[:, 0], h, c

    def step(x: Any, directions: Any, seeds: Any) -> Any:
        outputs, pull = jax.vjp(forward, x, directions)
        return outputs, pull(seeds)

    seeds = jax.tree.map(jnp.asarray, problem.gradients)
    (y, h, c), (dx, gradients) = (jax.jit(step) if jit else step)(x, directions, seeds)
    for *_, input_dropout, recurrent_dropout in gradients:  # have no gradient
        for multipliers in (input_dropout, recurrent_dropout):
            assert multipliers is None or not np.asarray(multipliers).any()
    by_field = [[None if d is None else np.asarray(d) for d in column] for column in zip(*gradients, strict=True)]
    return Solution(np.asarray(y), list(map(np.asarray, h)), list(map(np.asarray, c)), np.asarray(dx), *by_field[:5])
