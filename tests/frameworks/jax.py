"""JAX: see the package."""

import contextlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

MODES = ("jit", "eager")
OWN_RANDOM = ()
EVERY = 4  # to compile a case takes a second or more
REACHED = {"float64": "float32"}  # keras.ops.matmul computes float64 in float32 (Keras 3.15)


def precision(dtype: str) -> contextlib.AbstractContextManager[None]:
    place = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # before 0.8
    enable_x64: Callable[[bool], contextlib.AbstractContextManager[None]] = place.enable_x64
    return enable_x64(dtype == "float64")


def run(
    call: Callable[..., Any],
    inputs: Sequence[np.ndarray],
    variables: Sequence[Any],
    states: Sequence[Any],
    seeds: Callable[[Any], np.ndarray] | None,
    mode: str,
) -> tuple[list[Any], list[Any]]:
    def step(arrays: list[Any], weights: list[Any], before: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        def forward(floating: list[Any], weights: list[Any]) -> tuple[list[Any], list[Any]]:
            remaining = iter(floating)
            operands = [next(remaining) if is_floating(array) else array for array in arrays]
            mapping = zip([*variables, *states], [*weights, *before], strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)) as scope:
                outputs = keras.tree.flatten(call(*operands))
                return outputs, [scope.get_current_value(state) for state in states]

        floating = [array for array in arrays if is_floating(array)]
        if seeds is None:
            outputs, after = forward(floating, weights)
            return outputs, [], after
        outputs, pull_back, after = jax.vjp(forward, floating, weights, has_aux=True)
        by_inputs, by_weights = pull_back([jnp.asarray(seeds(output), output.dtype) for output in outputs])
        return outputs, [*by_inputs, *by_weights], after

    values = [[jnp.asarray(variable.value) for variable in group] for group in (variables, states)]
    outputs, gradients, after = (jax.jit(step) if mode == "jit" else step)([*map(jnp.asarray, inputs)], *values)
    for state, value in zip(states, after, strict=True):
        state.assign(value)
    return outputs, gradients


def is_floating(array: Any) -> bool:
    return bool(jnp.issubdtype(array.dtype, jnp.floating))
