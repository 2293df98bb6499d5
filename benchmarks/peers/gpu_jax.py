"""On a GPU, through JAX: lstm_fast, and jax.experimental.rnn.lstm, which is cuDNN's; on the CPU its own reference."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn

from benchmarks.peers.gpu_torch import copies
from lstm_fast import functional
from lstm_fast.backends import Direction
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem

DTYPES = {"float32": jnp.float32, "tf32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def arithmetic(precision: str) -> contextlib.AbstractContextManager[Any]:
    """As in gpu_torch."""
    return jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "highest")


def problem_of_device(device: str) -> str | None:
    """Returns why JAX cannot run on a device."""
    platform = {"cpu": "cpu", "cuda": "gpu"}[device]
    return None if jax.default_backend() == platform else f"JAX runs on {jax.default_backend()}"


def prepare(problem: Problem, training: bool, *, precision: str, device: str, cudnn: bool) -> Prepared:
    dtype = DTYPES[precision]
    if cudnn:
        forward, parameters, as_keras = _cudnn(problem, precision, device)
    else:
        forward, parameters, as_keras = _lstm_fast(problem, training, dtype)
    first = jnp.asarray(problem.x, dtype)
    inputs = [jnp.array(first, copy=True) for _ in range(copies(device, first.nbytes))]
    places = itertools.cycle(inputs)
    dy = jnp.asarray(problem.dy, dtype)
    mask = None if problem.mask is None else jnp.asarray(problem.mask)

    def train(x: jax.Array, parameters: Any, mask: Any, dy: jax.Array) -> list[Any]:
        y, pull = jax.vjp(lambda x, parameters: forward(x, parameters, mask), x, parameters)
        return [y, *pull(dy)]

    def infer(x: jax.Array, parameters: Any, mask: Any, dy: jax.Array) -> list[Any]:  # noqa: ARG001
        return [forward(x, parameters, mask)]

    compiled = jax.jit(train if training else infer)
    last: list[Any] = []

    def step() -> list[Any]:
        last[:] = compiled(next(places), parameters, mask, dy)
        return last

    def clock() -> float:
        jax.block_until_ready(last)
        return time.perf_counter()

    def results(arrays: Sequence[Any]) -> list[np.ndarray]:
        y, *gradients = jax.tree.map(lambda array: np.asarray(array, np.float32), list(arrays))
        return [y, gradients[0], *as_keras(gradients[1])] if training else [y]

    return Prepared(step, results, clock)


_Parts = tuple[Callable[[Any, Any, Any], Any], Any, Callable[[Any], Sequence[np.ndarray]]]


def _lstm_fast(problem: Problem, training: bool, dtype: Any) -> _Parts:
    def forward(x: jax.Array, weights: Any, mask: Any) -> jax.Array:
        y, _, _ = functional.run(
            x,
            mask,
            [Direction(*direction) for direction in weights],
            return_sequences=True,
            zero_output_for_mask=True,
            recompute=False,
            training=training,
        )
        return y

    weights = [[jnp.asarray(array, dtype) for array in direction] for direction in problem.weights]
    return forward, weights, lambda gradients: [array for direction in gradients for array in direction]


def _cudnn(problem: Problem, precision: str, device: str) -> _Parts:
    batch, steps, features = problem.x.shape
    units, directions = problem.weights[0].recurrent_kernel.shape[0], len(problem.weights)
    sizes = features, units, 1
    lengths = jnp.asarray(np.full(batch, steps) if problem.lengths is None else problem.lengths, jnp.int32)
    states = jnp.zeros((directions, batch, units), jnp.float32)
    # One array: for each direction weight_ih [4H, D] and weight_hh [4H, H], then for each direction two biases.
    matrices = [array.T for kernel, recurrent, _ in problem.weights for array in (kernel, recurrent)]
    biases = [array for *_, bias in problem.weights for array in (bias, np.zeros_like(bias))]
    flat = jnp.asarray(np.concatenate([array.ravel() for array in (*matrices, *biases)]))
    products = jax.lax.Precision.HIGH if precision == "tf32" else jax.lax.Precision.HIGHEST

    def forward(x: jax.Array, flat: jax.Array, mask: Any) -> jax.Array:  # noqa: ARG001
        if device == "cpu":
            unpacked = rnn.unpack_lstm_weights(flat, *sizes, directions == 2)
            return rnn.lstm_ref(x, states, states, *unpacked, lengths, *sizes, 0.0, directions == 2)[0]
        return rnn.lstm(x, states, states, flat, lengths, *sizes, 0.0, directions == 2, products)[0]

    def as_keras(gradient: np.ndarray) -> list[np.ndarray]:
        w_ih, w_hh, b_ih, _ = rnn.unpack_lstm_weights(gradient, *sizes, directions == 2)
        return [array for n in range(directions) for array in (w_ih[n].T, w_hh[n].T, b_ih[n])]

    return forward, flat, as_keras
