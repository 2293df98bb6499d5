"""An LSTM as one writes it in JAX: lax.scan under jit, the projection of the input as one product before it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Weights


def _direction(x: jax.Array, mask: jax.Array | None, weights: Weights, reverse: bool) -> jax.Array:
    """Time-major: x [T, B, D], mask [T, B, 1], result [T, B, H] in input order, zero at padding."""
    projected = x @ weights.kernel + weights.bias

    def cell(state: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, Any]) -> tuple[Any, jax.Array]:
        h_before, c_before = state
        z, real = inputs
        i, f, g, o = jnp.split(z + h_before @ weights.recurrent_kernel, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c_before + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        if real is None:
            return (h, c), h
        return (jnp.where(real, h, h_before), jnp.where(real, c, c_before)), jnp.where(real, h, 0)

    zeros = jnp.zeros((x.shape[1], weights.recurrent_kernel.shape[0]), x.dtype)
    return jax.lax.scan(cell, (zeros, zeros), (projected, mask), reverse=reverse)[1]


def prepare(problem: Problem, training: bool) -> Prepared:
    x = jnp.asarray(problem.x.swapaxes(0, 1))
    mask = None if problem.mask is None else jnp.asarray(problem.mask.T[..., None])
    weights = jax.tree.map(jnp.asarray, problem.weights)

    def forward(x: jax.Array, weights: Sequence[Weights]) -> jax.Array:
        return jnp.concatenate([_direction(x, mask, w, reverse=n == 1) for n, w in enumerate(weights)], axis=-1)

    def loss(x: jax.Array, weights: Sequence[Weights]) -> tuple[jax.Array, jax.Array]:
        y = forward(x, weights)
        return jnp.mean(jnp.square(y)), y

    def train(x: jax.Array, weights: Sequence[Weights]) -> tuple[jax.Array, Any]:
        (_, y), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, weights)
        return y, gradients

    def infer(x: jax.Array, weights: Sequence[Weights]) -> tuple[jax.Array]:
        return (forward(x, weights),)

    compiled = jax.jit(train if training else infer)

    def results(arrays: Any) -> list[np.ndarray]:
        y, *gradients = map(np.asarray, jax.tree.leaves(arrays))
        time_major = [y, *gradients[:1]]  # y and dx
        return [*(array.swapaxes(0, 1) for array in time_major), *gradients[1:]]

    return Prepared(lambda: jax.block_until_ready(compiled(x, weights)), results)
