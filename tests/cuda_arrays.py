"""Arguments of the compiled functions `forward` and `backward`, with arrays of NumPy, and the results in these."""

from types import ModuleType
from typing import Any

import numpy as np
from cases import Problem, Solution

STREAM = 77


def operands(problem: Problem, precision: str) -> dict[str, Any]:
    """The operands of both passes."""
    batch, time, _ = problem.x.shape
    return {
        "device": 0,
        "stream": STREAM,
        "dtype": problem.x.dtype.name,
        "precision": precision,
        "batch": batch,
        "time": time,
        "units": problem.units,
        **problem.options,
        "mask": problem.mask,
        "recurrent_kernels": problem.recurrent_kernels,
        "biases": problem.biases,
        "h0": problem.h0,
        "c0": problem.c0,
        "recurrent_dropout": problem.recurrent_dropout,
    }


def arguments(module: ModuleType, problem: Problem, precision: str = "exact") -> tuple[dict[str, Any], dict[str, Any]]:
    """All arguments of both passes, with arrays of NumPy. The passes write their results into them."""
    batch, time, _ = problem.x.shape
    n, units, dtype = len(problem.h0), problem.units, problem.x.dtype
    step = module.reserve_step_bytes(dtype.name, units)
    masked, dropout = problem.mask is not None, problem.recurrent_dropout[0] is not None
    size = module.scratch_bytes(0, dtype.name, precision, batch, time, units, n, masked, dropout)
    common = {
        "reserve": np.empty((batch, n, time, step), np.uint8),
        "reserve_step_bytes": step,
        "scratch": np.empty(size, np.uint8),
        "scratch_bytes": size,
    }

    def empty(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    def states() -> list[np.ndarray]:
        return [empty(batch, units) for _ in range(n)]

    forward = {
        **operands(problem, precision),
        **common,
        "z": problem.x.reshape(batch, time, n, 4 * units),
        "y": empty(batch, time if problem.return_sequences else 1, n * units),
        "h_n": states(),
        "c_n": states(),
    }
    backward = {
        **operands(problem, precision),
        **common,
        **dict(zip(("dy", "dh_n", "dc_n"), problem.kernel_gradients, strict=True)),
        "dz": empty(batch, time, n, 4 * units),
        "h_prev": empty(batch, time, n, units),
        "dh0": states(),
        "dc0": states(),
    }
    return forward, backward


def results(problem: Problem, forward: dict[str, Any], backward: dict[str, Any]) -> Solution:
    """The results of both passes, from the arrays of their arguments."""
    return Solution(
        forward["y"] if problem.return_sequences else forward["y"][:, 0],
        forward["h_n"],
        forward["c_n"],
        backward["dz"].reshape(problem.x.shape),
        dh0=backward["dh0"],
        dc0=backward["dc0"],
    )


def addresses(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with an address in place of every array."""

    def address(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(address, value))
        return value.ctypes.data if isinstance(value, np.ndarray) else value

    return {name: address(value) for name, value in given.items()}
