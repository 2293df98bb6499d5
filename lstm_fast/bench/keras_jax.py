"""Keras on JAX: a layer under jax.jit."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem

Launch = Callable[[], list[Any]]


def device() -> str | None:
    """Returns the kind of the device that JAX runs on, None if it is a CPU."""
    return None if jax.default_backend() == "cpu" else str(jax.devices()[0].device_kind)


def prepared(launch: Launch) -> Prepared:
    """A step returns when it is on its way, on a CPU too, and the clock waits."""
    last: list[Any] = []

    def step() -> list[Any]:
        last[:] = launch()
        return last

    def clock() -> float:
        jax.block_until_ready(last)
        return time.perf_counter()

    return Prepared(step, lambda arrays: [np.asarray(array, np.float32) for array in arrays], clock)


def launcher(layer: keras.Layer, problem: Problem, training: bool, jit: bool) -> Launch:  # noqa: ARG001
    """Calls and differentiates the layer; always through XLA."""
    dtype = layer.compute_dtype
    x = jnp.asarray(problem.x, dtype)
    mask = None if problem.mask is None else jnp.asarray(problem.mask)
    given = None if problem.dy is None else jnp.asarray(problem.dy, dtype)
    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]

    def forward(x: Any, weights: Any, others: Any, mask: Any) -> Any:
        y, _ = layer.stateless_call(weights, others, x, mask=mask, training=training)
        return y

    def infer(x: Any, weights: Any, others: Any, mask: Any, given: Any) -> list[Any]:  # noqa: ARG001
        return [forward(x, weights, others, mask)]

    def train(x: Any, weights: Any, others: Any, mask: Any, given: Any) -> list[Any]:
        y, pull_back = jax.vjp(lambda x, weights: forward(x, weights, others, mask), x, weights)
        dx, dweights = pull_back(y * jnp.asarray(2 / y.size, y.dtype) if given is None else given)
        return [y, dx, *dweights]

    compiled = jax.jit(train if training else infer)
    return lambda: compiled(x, weights, others, mask, given)
